"""Core of a data card: a description of a data set whose hash every record has.

The core depends on the data alone: no path, no time, no machine. Its keys are hashed, so they do
not change. Findings of ``steelyard check`` are stored next to it and not hashed.
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
"""Version of the core."""
COMMON = 20
"""Most answers of open questions that are counted one by one."""
JSON, MARKDOWN = "card.json", "card.md"

Core = dict[str, Any]


def core(corpus: Corpus) -> Core:
    """Describe a corpus: revision, image content, splits, labels, skipped rows, loader notes."""
    skipped: dict[str, Counter[str]] = {}
    for row in corpus.skipped:
        # A reason is a kind and details: "image missing: images/1.jpg".
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


def identity(core: Core) -> str:
    """Hash the core of a card: 16 hex digits."""
    text = json.dumps(core, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _split(corpus: Corpus, examples: Sequence[Example]) -> Core:
    images = Counter(str(row.image) for row in examples if row.image)
    if corpus.classes:
        counts = Counter(label for row in examples for label in row.labels)
        labels = {name: counts[index] for index, name in enumerate(corpus.classes)}
    else:
        answers = _sorted(Counter(row.answers[0] for row in examples if row.answers))
        # An answer that occurs once, such as a caption, says nothing about a distribution.
        labels = dict([pair for pair in answers.items() if pair[1] > 1][:COMMON])
        if rest := sum(answers.values()) - sum(labels.values()):
            labels["(other answers)"] = rest
    return {
        "items": len(examples),
        "images": len(images),
        "without image": len(examples) - images.total(),
        "without text": sum(not row.text for row in examples),
        "subsets": _sorted(Counter(row.subset for row in examples if row.subset)),
        "labels": labels,
    }


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def printable(part: Any) -> Any:
    """Return a card as JSON would give it back; invalid bytes in file names are escaped."""
    if isinstance(part, str):
        return part.encode("utf-8", "backslashreplace").decode()
    if isinstance(part, Mapping):
        return {printable(key): printable(value) for key, value in part.items()}
    return [*map(printable, part)] if isinstance(part, list | tuple) else part


def write(folder: Path, card: Mapping[str, Any], page: str) -> None:
    """Write ``card.json`` and ``card.md``, atomically.

    Raises:
        UserError: the folder cannot be written to.
    """
    write_atomic(folder / JSON, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / MARKDOWN, page)
