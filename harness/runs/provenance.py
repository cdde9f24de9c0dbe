"""Sources of a result: code, packages, machine and data, each by hash or version."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import digest
from steelyard.harness.data import card
from steelyard.harness.records.record import Record


def describe_task(corpus: Corpus, task_files: Iterable[Path], split: str) -> dict[str, Any]:
    """Return the data of one task and the hash of the files that define the task."""
    from steelyard.tasks.world.build import MARKER

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


def check_revision(corpus: Corpus, record: Record) -> None:
    """Raise UserError if the record was trained or scored on another revision of the data."""
    provenance = task_provenance(record, corpus.name)
    if provenance and corpus.revision != provenance["data"]["revision"]:
        untrained = record.spec.task == tasks.NOTHING
        remedy = "another --out" if untrained else "the recorded --data-root"
        raise UserError(
            f"The data at {corpus.root} does not match the record of {record.id}: {corpus.name} "
            f"has revision {corpus.revision}, recorded is {provenance['data']['revision']}. Give "
            f"{remedy}."
        )


def task_provenance(record: Record, task: str) -> Mapping[str, Any]:
    """Return the recorded data of a task; empty if the record has no scores on it."""
    if task == record.spec.task:
        return record.provenance
    provenance: Mapping[str, Any] = record.provenance.get("scored", {}).get(task, {})
    return provenance
