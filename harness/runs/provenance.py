"""Sources of a result: code, packages, machine and data, each by hash or version."""

from collections.abc import Mapping
from typing import Any

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import digest
from steelyard.harness.data import card
from steelyard.harness.records.record import Record


def describe_trained(
    task: str, corpus: Corpus | None, split: str, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``describe_task`` of the task trained on; what was trained on stays as in ``before``.

    A trained run may be scored without its training items, or without this task.
    """
    recorded = {key: before[key] for key in ("data", "task") if key in before}
    if corpus is None:
        return recorded
    content = describe_task(corpus, split)
    if recorded and "train" not in corpus.splits:
        old, new = recorded["data"], content["data"]
        merged = {key: {**old.get(key, {}), **new[key]} for key in ("sizes", "splits")}
        content["data"] = {**old, "items": new["items"], "split": split, **merged}
    return content


def describe_task(corpus: Corpus, split: str) -> dict[str, Any]:
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
            "items": digest(example.id.encode() for example in corpus.splits.get(split, ())),
            "split": split,
            "splits": dict(corpus.split_revisions),
            **({"generated": True} if (corpus.root / MARKER).is_file() else {}),
        },
        "task": digest(path.read_bytes() for path in tasks.files(corpus.name)),
    }


def check_split(corpus: Corpus, split: str) -> None:
    """Raise UserError if a data set has no such split to score."""
    if split not in corpus.splits:
        others = ", ".join(corpus.splits) or "nothing"
        raise UserError(
            f"{corpus.name} has no {split} split to score, only {others}: add it to {corpus.root}, "
            "score another task with --evaluate, or train alone with 'steelyard train'."
        )


def check_revision(corpus: Corpus, record: Record, *, trains: bool = True) -> None:
    """Raise UserError if the record was scored, or trained, on another revision of the data.

    Without ``trains`` the training items may be absent.
    """
    recorded = task_provenance(record, corpus.name).get("data", {})
    scored = {score.task for score in record.scores}
    splits = [recorded["split"]] if corpus.name in scored else []
    if corpus.name == record.spec.task and (trains or "train" in corpus.splits):
        splits.append("train")
    for split in splits:
        # Older records have one revision of all splits.
        expected = recorded.get("splits", {}).get(split, recorded["revision"])
        revision = corpus.revision_of(split) if recorded.get("splits") else corpus.revision
        if revision != expected:
            untrained = record.spec.task == tasks.NOTHING
            remedy = "another --out" if untrained else "the recorded --data-root"
            raise UserError(
                f"The data at {corpus.root} does not match the record of {record.id}: "
                f"{corpus.name} {split} has revision {revision}, recorded is {expected}. Give "
                f"{remedy}."
            )


def has_recorded_items(record: Record, corpus: Corpus, split: str) -> bool:
    """Return whether a record's scores on a task are of these items."""
    recorded = task_provenance(record, corpus.name).get("data", {})
    if not recorded.get("splits"):
        return not recorded or corpus.revision == recorded["revision"]
    return bool(recorded["splits"].get(split) == corpus.split_revisions.get(split))


def task_provenance(record: Record, task: str) -> Mapping[str, Any]:
    """Return the recorded data of a task; empty if the record has no scores on it."""
    if task == record.spec.task:
        return record.provenance
    provenance: Mapping[str, Any] = record.provenance.get("scored", {}).get(task, {})
    return provenance


def data_revisions(record: Record) -> tuple[str, ...]:
    """Return the revisions of the items trained on and scored; older records have one for both."""
    data = record.provenance.get("data", {})
    splits = data.get("splits", {})
    names = [name for name in ("train", data.get("split")) if name in splits]
    return tuple(splits[name] for name in names) or (str(data.get("revision")),)
