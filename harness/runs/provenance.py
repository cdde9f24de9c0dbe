"""Sources of a result: code, packages, machine and data, each by hash or version."""

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steelyard.harness.core.environment import code, packages
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import digest
from steelyard.harness.data import card
from steelyard.tasks.world.build import MARKER


def describe(corpus: Corpus, task_files: Iterable[Path], split: str) -> dict[str, Any]:
    """Return code, environment, data and task of a run; the run adds its weights."""
    return {
        "code": code(),
        "packages": packages(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **describe_task(corpus, task_files, split),
    }


def describe_task(corpus: Corpus, task_files: Iterable[Path], split: str) -> dict[str, Any]:
    """Return the data of one task and the hash of the files that define the task."""
    return {
        "data": {
            "name": corpus.name,
            "revision": corpus.revision,
            "card": card.identity(card.core(corpus)),
            "classes": len(corpus.classes),
            "notes": dict(corpus.notes),
            "sizes": {name: len(examples) for name, examples in sorted(corpus.splits.items())},
            "skipped": len(corpus.skipped),
            "items": digest(example.id.encode() for example in corpus.splits[split]),
            "split": split,
            **({"generated": True} if (corpus.root / MARKER).is_file() else {}),
        },
        "task": digest(path.read_bytes() for path in task_files),
    }
