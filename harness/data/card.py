"""Data cards: what a data set is, as a hash that records carry, and as JSON to keep.

The core of a card is a pure function of the data that was read: no path, no time, no machine. Its
hash stands in every record. Findings that take long to make stand beside it and are not hashed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.core.files import write_atomic

FORMAT = 1
COMMON = 20
"""Answers of open questions that a card counts one by one."""
JSON, MARKDOWN = "card.json", "card.md"

Core = dict[str, Any]


def core(corpus: Corpus) -> Core:
    """Revision and image content, splits with their labels, what was skipped, how it was read."""
    skipped: dict[str, Counter[str]] = {}
    for row in corpus.skipped:
        skipped.setdefault(row.split, Counter())[row.reason.partition(":")[0]] += 1
    return {
        "format": FORMAT,
        "task": corpus.name,
        "revision": corpus.revision,
        "content": corpus.content,
        "classes": list(corpus.classes),
        "several labels": corpus.multi_label,
        "notes": dict(corpus.notes),
        "splits": {name: _split(corpus, rows) for name, rows in sorted(corpus.splits.items())},
        "skipped": {split: dict(sorted(kinds.items())) for split, kinds in sorted(skipped.items())},
    }


def identity(made: Core) -> str:
    """The card's hash: 16 hex digits of its core."""
    text = json.dumps(made, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _split(corpus: Corpus, examples: Sequence[Example]) -> Core:
    images = Counter(str(one.image) for one in examples if one.image)
    return {
        "items": len(examples),
        "images": len(images),
        "without image": len(examples) - images.total(),
        "without text": sum(not one.text for one in examples),
        "subsets": _sorted(Counter(one.subset for one in examples if one.subset)),
        "labels": _labels(corpus, examples),
    }


def _labels(corpus: Corpus, examples: Sequence[Example]) -> dict[str, int]:
    """Items of each class; of questions, of each answer that is common, and of all others."""
    if corpus.classes:
        counts = Counter(label for one in examples for label in one.labels)
        return {name: counts[index] for index, name in enumerate(corpus.classes)}
    given = Counter(one.answers[0] for one in examples if one.answers)
    # An answer given once, such as a caption, says nothing about a distribution.
    common = {answer: n for answer, n in _sorted(given).items() if n > 1}
    shown = dict(list(common.items())[:COMMON])
    others = given.total() - sum(shown.values())
    return shown | ({"(other answers)": others} if others else {})


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def printable(part: Any) -> Any:
    """A card, or part of one, that can be written: bytes of file names that are no text are spelt.

    What JSON makes lists of is a list already, so that a card read again is the same.
    """
    if isinstance(part, str):
        return part.encode("utf-8", "backslashreplace").decode()
    if isinstance(part, Mapping):
        return {printable(key): printable(value) for key, value in part.items()}
    return [*map(printable, part)] if isinstance(part, list | tuple) else part


def write(folder: Path, card: Mapping[str, Any], page: str) -> None:
    """Write a card and its page; each file is whole or absent.

    Raises:
        UserError: the folder cannot be written to.
    """
    write_atomic(folder / JSON, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / MARKDOWN, page)
