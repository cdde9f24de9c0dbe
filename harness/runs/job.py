"""Job: a run and its evaluation; and what earlier calls have finished of it.

``parts`` in the run's folder holds finished variants until the record is written.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard import methods, tasks
from steelyard.harness.budget.checkpoints import MINUTES
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import read_items, write_items, write_json
from steelyard.harness.core.readers import read_object
from steelyard.harness.records import record
from steelyard.harness.records.record import Record, RecordKind, Score
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import provenance
from steelyard.harness.runs.attempt import PARTS
from steelyard.harness.runs.training import TRACEBACK
from steelyard.harness.training.tracking import Tracker

if TYPE_CHECKING:
    from steelyard.harness.models.backbone import Backbone

ATTACKS = "attacks.json"
BEFORE = f"{PARTS}/before.json"
"""Record that is being replaced."""


@dataclass(frozen=True, slots=True)
class Job:
    """Run and its evaluation."""

    spec: RunSpec
    label: str
    """Name on the board."""
    variants: tuple[str, ...]
    """Scored variants: ``food101``, ``food101@image-noise:3``, ``pope`` ..."""
    split: str = "test"
    limit: int | None = None
    """Number of items to evaluate on; None for all."""
    kind: RecordKind = "entry"
    tuning: Mapping[str, Any] | None = None
    """Trials that chose the options, for the record."""
    trackers: tuple[Tracker, ...] = ()
    """Packages that get curves of the training."""
    checkpoint_minutes: float = MINUTES
    """Between two checkpoints of the training; 0 for none."""
    elsewhere: Mapping[str, Any] | None = None
    """Of a model that was trained elsewhere its declared ``flops``, None if unknown, and the files
    of ``answers`` by variant."""
    model: "Backbone | None" = None
    """Answers made elsewhere, in place of a model that is loaded."""


def alike(job: Job) -> str:
    """Return what runs have in common that cost the same: all but their seed."""
    return replace(job.spec, seed=0).hash


def untrained(backbone: str, limit: int | None, **fields: Any) -> RunSpec:
    """Return the spec of a model that is scored as it is; ``fields`` are further ones.

    Its budget and seed only complete it. A limit gives a record of its own.
    """
    return RunSpec(
        method=methods.idle(),
        task=tasks.NOTHING,
        backbone=backbone,
        budget="none",
        seed=0,
        data={"limit": str(limit)} if limit else {},
        **fields,
    )


def finished(job: Job, runs: Path, corpora: Mapping[str, Corpus]) -> Record | None:
    """Return the job's record if it failed for good or has every variant of the job."""
    folder = runs / job.spec.id
    if not (folder / record.RECORD).is_file():
        return None
    result = record.read(folder)
    scored = {
        variant_name(score)
        for score in result.scores
        if _is_current(score.task, result, job, corpora)
    }
    # With its seed it would fail at the same step; not so after an exception, such as a full disk.
    failed_for_good = result.status == "failed" and not (folder / TRACEBACK).is_file()
    final = failed_for_good or (result.status == "done" and scored.issuperset(job.variants))
    # With another label or declared cost the record is written again, from its scores.
    unchanged = (result.label, result.provenance.get("elsewhere")) == (job.label, job.elsewhere)
    return result if final and unchanged else None


def variant_name(score: Score) -> str:
    """Return ``food101`` or ``food101@image-noise:3``."""
    return score.task if score.variant == "clean" else f"{score.task}@{score.variant}"


def _is_current(task: str, result: Record, job: Job, corpora: Mapping[str, Corpus]) -> bool:
    """Return whether a record's scores on a task are of the items that the job is about."""
    source = result.provenance
    if source["limit"] != job.limit or source["data"]["split"] != job.split:
        return False
    # The corpus is absent if the job does not score the task.
    return task not in corpora or provenance.has_recorded_items(result, corpora[task], job.split)


def continued(
    job: Job, folder: Path, corpora: Mapping[str, Corpus]
) -> tuple[Job, Mapping[str, Any]]:
    """Return the job with all that its record has already, and the record's provenance.

    After another label or further variants; its scores become parts, so only the rest is evaluated.
    """
    old = earlier(folder)
    if old is None:
        return job, {}
    names = _split_into_parts(old, job, folder, corpora)
    if costs := old.provenance.get("attacks"):  # a record may have come without this file
        write_json(folder / ATTACKS, {**costs, **attack_costs(folder)})
    variants = tuple(dict.fromkeys((*job.variants, *names)))
    tuning = job.tuning or old.provenance.get("tuning")
    return replace(job, variants=variants, tuning=tuning), old.provenance


def earlier(folder: Path) -> Record | None:
    """Return the record of an earlier call, or the one that it replaced when it was interrupted."""
    files = [file for file in (record.RECORD, BEFORE) if (folder / file).is_file()]
    records = [record.read(folder, file) for file in files]
    return next(
        (result for result in records if result.status == "done"), next(iter(records), None)
    )


def set_aside(folder: Path) -> None:
    """Move the record, which has the hashes of the old tables, to where a later call finds it."""
    if (folder / record.RECORD).is_file():
        (folder / PARTS).mkdir(exist_ok=True)
        (folder / record.RECORD).replace(folder / BEFORE)


def _split_into_parts(
    result: Record, job: Job, folder: Path, corpora: Mapping[str, Corpus]
) -> list[str]:
    """Write the variants of a record as parts, so that they are not evaluated again."""
    current = [score for score in result.scores if _is_current(score.task, result, job, corpora)]
    names = list(dict.fromkeys(map(variant_name, current)))
    for name in names:
        variant = tasks.parse_variant(name)
        items = read_items(folder / record.items_file(variant.task, job.spec.task))
        table, summary = part_files(folder, job, name, corpora)
        write_items(items[items["variant"] == variant.name], table)
        scores = [asdict(score) for score in result.scores if variant_name(score) == name]
        write_json(summary, scores)
    return names


def part_files(
    folder: Path, job: Job, name: str, corpora: Mapping[str, Corpus]
) -> tuple[Path, Path]:
    """Return the files of a variant's items and scores; other items have another folder."""
    file = re.sub("[@:/]", "-", name)
    corpus = corpora.get(name.partition("@")[0])
    items = f"{job.split}-{job.limit or 'all'}-{corpus.revision_of(job.split) if corpus else ''}"
    # Of another engine's answers nothing is continued.
    engine = getattr(job.model, "engine", None)
    parts = folder / PARTS / (f"{items}-{engine['name']}" if engine else items)
    return parts / f"{file}.parquet", parts / f"{file}.json"


def attack_costs(folder: Path) -> dict[str, dict[str, float]]:
    """Read FLOPs and seconds of attacking all items, epsilon and steps, by variant."""
    path = folder / ATTACKS
    return read_object(path) if path.is_file() else {}
