"""Train and evaluate one job; every finished part is kept and the record is written last.

record = run(job, {"food101": corpus}, Path("runs"), "cpu", no_progress)
"""

import json
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard import methods, tasks
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.environment import code, packages
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import (
    file_hash,
    weights_hash,
    write_atomic,
    write_items,
    write_json,
)
from steelyard.harness.core.progress import Progress
from steelyard.harness.models import registry
from steelyard.harness.models.registry import WEIGHTS
from steelyard.harness.records import record
from steelyard.harness.records.budget import Budget, parse_budget
from steelyard.harness.records.record import Ledger, Record, RecordKind, Score
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import provenance
from steelyard.harness.runs.training import (
    TRACEBACK,
    TRAINING,
    TrainingResult,
    learning_rate,
    train,
)
from steelyard.harness.training.tracking import Tracker
from steelyard.tasks.corruptions import missing

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.harness.models.backbone import Backbone

PARTS, ATTACKS = "parts", "attacks.json"


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
    elsewhere: Mapping[str, Any] | None = None
    """Of a model that was trained elsewhere its declared ``flops``, None if unknown, and the files
    of ``answers`` by variant."""
    model: "Backbone | None" = None
    """Answers made elsewhere, in place of a model that is loaded."""


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
    complete = scored.issuperset(job.variants)
    # With its seed it would fail at the same step; not so after an exception, such as a full disk.
    final = complete or (result.status == "failed" and not (folder / TRACEBACK).is_file())
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


def run(
    job: Job,
    corpora: Mapping[str, Corpus],
    runs: Path,
    device: str,
    progress: Progress,
    failure: str = "",
) -> Record:
    """Train and evaluate a job, or its unfinished part, and write its record.

    ``corpora`` holds the data of the task trained on and of every task scored. Any exception of
    training gives a record with status ``failed``, as does ``failure``, the reason why an earlier
    call raised; the exceptions of other parts are raised.
    """
    if (result := finished(job, runs, corpora)) is not None:
        return result
    folder = runs / job.spec.id
    folder.mkdir(parents=True, exist_ok=True)
    if not failure:
        (folder / TRACEBACK).unlink(missing_ok=True)
    before: Mapping[str, Any] = {}
    # Another label or further variants: its scores become parts, so only the rest is evaluated.
    if (folder / record.RECORD).is_file():
        old = record.read(folder)
        names = _split_into_parts(old, job, folder, corpora)
        variants = tuple(dict.fromkeys((*job.variants, *names)))
        tuning = job.tuning or old.provenance.get("tuning")
        job = replace(job, variants=variants, tuning=tuning)
        before = old.provenance
        if costs := old.provenance.get("attacks"):  # a record may have come without this file
            write_json(folder / ATTACKS, {**costs, **_attack_costs(folder)})
    if (folder / TRAINING).is_file():  # written after the weights by an interrupted run
        content = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        training = TrainingResult(**{**content, "ledger": Ledger(**content["ledger"])})
    # An untrained model costs nothing; the meter still names the device.
    elif job.spec.task == tasks.NOTHING or failure:
        spec = job.spec
        limits = (spec.budget, spec.track, spec.wall)
        budget = Budget(spec.budget) if spec.task == tasks.NOTHING else parse_budget(*limits)
        with Meter(budget, device) as meter:
            training = TrainingResult("done", "", meter.ledger("finished"), {})
    else:
        training = train(job.spec, corpora, folder, device, progress, job.trackers)
    if failure:
        training = replace(training, status="failed", failure=failure)
    scores: tuple[Score, ...] = ()
    if training.status == "done" and job.variants:
        scores = _evaluate(job, corpora, folder, device, progress)
    result = Record(
        id=job.spec.id,
        label=job.label,
        spec=job.spec,
        status=training.status,
        failure=training.failure,
        ledger=training.ledger,
        scores=scores,
        provenance=_provenance(job, corpora, folder, device, before),
        diagnostics=training.diagnostics,
        kind=job.kind,
    )
    result = record.write(result, folder)
    # After the record: an interrupted run continues from its parts.
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return result


def _provenance(
    job: Job,
    corpora: Mapping[str, Corpus],
    folder: Path,
    device: str,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Return code, weights, data and side files of a run.

    ``before`` is the provenance of its record so far: data of an earlier call may be gone now.
    """
    spec = job.spec
    content = {
        "code": code(),
        "packages": packages(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **provenance.describe_trained(spec.task, corpora.get(spec.task), job.split, before),
        "limit": job.limit,
        "precision": registry.precision(spec, folder / WEIGHTS, device)
        if not job.model
        else "unknown",
        "rules": record.RULES,
    }
    variants = [tasks.parse_variant(name) for name in job.variants]
    other_tasks = list(dict.fromkeys(v.task for v in variants if v.task != spec.task))
    if other_tasks:
        content["scored"] = {
            name: (
                provenance.describe_task(corpora[name], job.split)
                if name in corpora
                else before["scored"][name]
            )
            for name in other_tasks
        }
    content["weights"] = weights_hash(folder / WEIGHTS)
    if spec.task == tasks.NOTHING:
        # Weights of an untrained model are not in the run's folder.
        options = spec.backbone_options
        elsewhere = dict(job.elsewhere or {})
        content |= {} if job.elsewhere is None else {"elsewhere": elsewhere}
        # Answers of a file stand for weights that nobody here has.
        files = [answers["hash"] for answers in elsewhere.get("answers", {}).values()]
        content["weights"] = "+".join(files) or registry.revision(spec.backbone, options)
    if methods.load(spec.method).ABOUT.learns:
        content["learning_rate"] = learning_rate(spec)
    tables = {record.items_file(name, spec.task) for name in (spec.task, *other_tasks)}
    tables |= {missing_table(variant, job.split) for variant in variants if variant.missing}
    paths = {name: folder / name for name in sorted(tables) if (folder / name).is_file()}
    content["tables"] = {name: file_hash(path) for name, path in paths.items()}
    costs = _attack_costs(folder)
    if attacked := [name for name in job.variants if name in costs]:
        content["attacks"] = {name: costs[name] for name in attacked}
    if job.tuning is not None:
        content["tuning"] = dict(job.tuning)
    return content


def _evaluate(
    job: Job, corpora: Mapping[str, Corpus], folder: Path, device: str, progress: Progress
) -> tuple[Score, ...]:
    """Score all variants and write the tables of items."""
    import pandas as pd

    backbone: Backbone
    if job.model is not None:
        backbone = job.model
    elif job.spec.task == tasks.NOTHING:
        backbone = registry.open_model(job.spec.backbone, job.spec.backbone_options, device)
    else:
        backbone = registry.load(folder / WEIGHTS, device)
    for name, corpus in corpora.items():
        registry.check_images(backbone, name, corpus.at_once)
    scores: list[Score] = []
    items: dict[str, list[pd.DataFrame]] = {}
    for index, name in enumerate(job.variants):

        def report(fraction: float, index: int = index, name: str = name) -> None:
            progress(f"evaluating {name}", (index + fraction) / len(job.variants))

        report(0.0)
        variant = tasks.parse_variant(name)
        # The corpus is absent if an earlier part has the scores.
        examples = corpora[variant.task].splits.get(job.split) if variant.task in corpora else None
        if variant.missing is not None and examples is not None:
            table = missing.table(variant.missing_items(job.split, examples))
            write_atomic(folder / missing_table(variant, job.split), table)
        variant_scores, rows = _score_variant(job, variant, backbone, corpora, folder, report)
        scores += variant_scores
        items.setdefault(variant.task, []).append(rows)
    (folder / record.RECORD).unlink(missing_ok=True)  # it has the hashes of the old tables
    for task, tables in items.items():
        file = record.items_file(task, job.spec.task)
        write_items(pd.concat(tables, ignore_index=True), folder / file)
    return tuple(scores)


def _score_variant(
    job: Job,
    variant: tasks.Variant,
    backbone: "Backbone",
    corpora: Mapping[str, Corpus],
    folder: Path,
    on_progress: Callable[[float], None],
) -> "tuple[Sequence[Score], pd.DataFrame]":
    """Return scores and items of one variant, from an earlier part if there is one."""
    import pandas as pd

    from steelyard.harness.evaluation.evaluate import evaluate

    table, summary = _part_files(folder, job, str(variant), corpora)
    if summary.is_file():  # written after its table
        scores = json.loads(summary.read_text(encoding="utf-8"))
        return [Score(**score) for score in scores], pd.read_parquet(table)
    result = evaluate(
        backbone,
        variant,
        corpora[variant.task],
        split=job.split,
        limit=job.limit,
        progress=on_progress,
    )
    write_items(result.items, table)
    # Before the summary, which marks the variant as complete.
    if result.attack is not None:
        costs = {**_attack_costs(folder), str(variant): dict(result.attack)}
        write_json(folder / ATTACKS, costs)
    write_json(summary, [asdict(score) for score in result.scores])
    return result.scores, result.items


def _split_into_parts(
    result: Record, job: Job, folder: Path, corpora: Mapping[str, Corpus]
) -> list[str]:
    """Write the variants of a record as parts, so that they are not evaluated again."""
    import pandas as pd

    current = [score for score in result.scores if _is_current(score.task, result, job, corpora)]
    names = list(dict.fromkeys(map(variant_name, current)))
    for name in names:
        variant = tasks.parse_variant(name)
        items = pd.read_parquet(folder / record.items_file(variant.task, job.spec.task))
        table, summary = _part_files(folder, job, name, corpora)
        write_items(items[items["variant"] == variant.name], table)
        scores = [asdict(score) for score in result.scores if variant_name(score) == name]
        write_json(summary, scores)
    return names


def _part_files(
    folder: Path, job: Job, name: str, corpora: Mapping[str, Corpus]
) -> tuple[Path, Path]:
    """Return the files of a variant's items and scores; other items have another folder."""
    file = re.sub("[@:/]", "-", name)
    corpus = corpora.get(name.partition("@")[0])
    items = f"{job.split}-{job.limit or 'all'}-{corpus.revision_of(job.split) if corpus else ''}"
    parts = folder / PARTS / items
    return parts / f"{file}.parquet", parts / f"{file}.json"


def missing_table(variant: tasks.Variant, split: str) -> str:
    """Return the table's path in a run's folder: ``missing/food101-test-image-missing-70.csv``."""
    return f"{missing.FOLDER}/{missing.file_name(variant.task, split, variant.name)}"


def _attack_costs(folder: Path) -> dict[str, dict[str, float]]:
    """Read FLOPs and seconds of attacking all items, epsilon and steps, by variant."""
    path = folder / ATTACKS
    costs: dict[str, dict[str, float]] = json.loads(path.read_bytes()) if path.is_file() else {}
    return costs
