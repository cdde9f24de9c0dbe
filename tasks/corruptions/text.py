"""Corruptions of a text, named by their functions; each draws from ``rng`` only."""

import math

import numpy as np

from steelyard.harness.core.examples import Donor

WORD_FRACTIONS = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Probability that a word is replaced, and fraction of words that get a typing error; ours."""
KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def blank(text: str, severity: int, rng: np.random.Generator, donor: Donor) -> None:
    """Remove the text; the prompt is built as for an item that never had any."""


def noise(text: str, severity: int, rng: np.random.Generator, donor: Donor) -> str:
    """Replace some words by random words from the texts of other items."""
    words = text.split()
    replaced = rng.random(len(words)) < WORD_FRACTIONS[severity - 1]
    for index in np.flatnonzero(replaced):
        donor_words = (donor().text or "").split()
        words[index] = donor_words[rng.integers(len(donor_words))]
    return " ".join(words)


def typo(text: str, severity: int, rng: np.random.Generator, donor: Donor) -> str:
    """Put a typing error in a fraction of the words, rounded up so that every text changes."""
    words = text.split()
    wrong = math.ceil(WORD_FRACTIONS[severity - 1] * len(words))
    for index in rng.permutation(len(words))[:wrong]:
        words[index] = _mistyped(words[index], rng)
    return " ".join(words)


def wordshuffle(text: str, severity: int, rng: np.random.Generator, donor: Donor) -> str:
    words = text.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def shuffle(text: str, severity: int, rng: np.random.Generator, donor: Donor) -> str | None:
    """Swap in the text of another item; under ``text-misleading`` of one with another answer."""
    return donor().text


def _mistyped(word: str, rng: np.random.Generator) -> str:
    """Make one possible error in a word: swap, drop, insert, or hit a neighbouring key."""
    # Equal neighbours swapped would change nothing.
    swaps = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    keys = [i for i, letter in enumerate(word) if letter.lower() in NEIGHBOURS]
    kinds = {"swap": swaps, "drop": list(range(len(word))) if len(word) > 1 else [], "key": keys}
    kinds["insert"] = list(range(len(word) + 1))
    # The generator draws by position: another order would change every published text.
    possible = sorted(kind for kind, indices in kinds.items() if indices)
    kind = possible[rng.integers(len(possible))]
    at = kinds[kind][rng.integers(len(kinds[kind]))]
    before, after = word[:at], word[at:]
    if kind == "swap":
        return before + after[1] + after[0] + after[2:]
    if kind == "drop":
        return before + after[1:]
    # At a word's end the last letter counts; a sign that is no letter gives any key.
    near = NEIGHBOURS.get((after or before[-1:])[0].lower(), "".join(KEY_ROWS))
    letter = near[rng.integers(len(near))]
    letter = letter.upper() if (after or before[-1:])[0].isupper() else letter
    return before + letter + (after if kind == "insert" else after[1:])


KEYS = {
    key: (column + row / 2, row)
    for row, keys in enumerate(KEY_ROWS)
    for column, key in enumerate(keys)
}
"""Column and row of each key; every row is half a key to the right of the one above."""
NEIGHBOURS = {
    key: "".join(
        near for near, (a, b) in KEYS.items() if near != key and abs(a - x) <= 1 and abs(b - y) <= 1
    )
    for key, (x, y) in KEYS.items()
}
"""Keys around each letter."""
