"""text."""

import math

import numpy as np

from steelyard.harness.core.examples import Donor, Inputs

WORD_SHARE = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Probability that a word is replaced, and share of words that get a typing error; ours."""


KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def text_blank(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """No evidence; the prompt is built as for an item that never had any."""
    return Inputs(inputs.image, None)


def text_noise(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Each word gives way, by chance, to a random word from the evidence of another item."""
    words = (inputs.text or "").split()
    replaced = rng.random(len(words)) < WORD_SHARE[severity - 1]
    for place in np.flatnonzero(replaced):
        offered = (donor().text or "").split()
        words[place] = offered[rng.integers(len(offered))]
    return Inputs(inputs.image, " ".join(words))


def text_typo(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """A typing error in a share of the words, rounded up so that no text is spared."""
    words = (inputs.text or "").split()
    wrong = math.ceil(WORD_SHARE[severity - 1] * len(words))
    for place in rng.permutation(len(words))[:wrong]:
        words[place] = _mistyped(words[place], rng)
    return Inputs(inputs.image, " ".join(words))


def text_wordshuffle(
    inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor
) -> Inputs:
    """The same words in random order."""
    words = (inputs.text or "").split()
    return Inputs(inputs.image, " ".join(words[i] for i in rng.permutation(len(words))))


def text_shuffle(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """The evidence of another item."""
    return Inputs(inputs.image, donor().text)


def text_misleading(
    inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor
) -> Inputs:
    """The evidence of an item with another right answer, which it speaks for."""
    return Inputs(inputs.image, donor().text)


def _mistyped(word: str, rng: np.random.Generator) -> str:
    """The word with one error that can be made in it: swap, drop, insert or a neighbouring key."""
    swaps = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    keys = [i for i, letter in enumerate(word) if letter.lower() in NEIGHBOURS]
    kinds = {"swap": swaps, "drop": list(range(len(word))) if len(word) > 1 else [], "key": keys}
    kinds["insert"] = list(range(len(word) + 1))
    possible = sorted(kind for kind, places in kinds.items() if places)
    kind = possible[rng.integers(len(possible))]
    at = kinds[kind][rng.integers(len(kinds[kind]))]
    before, after = word[:at], word[at:]
    if kind == "swap":
        return before + after[1] + after[0] + after[2:]
    if kind == "drop":
        return before + after[1:]
    near = NEIGHBOURS.get((after or before[-1:])[0].lower(), "".join(KEY_ROWS))
    letter = near[rng.integers(len(near))]
    letter = letter.upper() if (after or before[-1:])[0].isupper() else letter
    return before + letter + (after if kind == "insert" else after[1:])


def _neighbours() -> dict[str, str]:
    """The keys around each letter; every row lies half a key to the right of the one above."""
    places = {
        key: (column + row / 2, row)
        for row, keys in enumerate(KEY_ROWS)
        for column, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (a, b) in places.items()
            if other != key and abs(a - x) <= 1 and abs(b - y) <= 1
        )
        for key, (x, y) in places.items()
    }


NEIGHBOURS = _neighbours()
