"""Train and evaluate one job; every finished part is kept and the record is written last.

record = run(job, {"food101": corpus}, Path("runs"), "cpu", no_progress)
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from steelyard import methods, tasks
from steelyard.harness.budget.checkpoints import lost_work
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.environment import code, packages
from steelyard.harness.core.errors import UserError, one_line
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import (
    Busy,
    file_hash,
    read_items,
    weights_hash,
    write_atomic,
    write_items,
    write_json,
)
from steelyard.harness.core.progress import Progress
from steelyard.harness.core.readers import read_json, read_object
from steelyard.harness.models import registry
from steelyard.harness.models.registry import WEIGHTS
from steelyard.harness.records import record
from steelyard.harness.records.budget import Budget, parse_budget
from steelyard.harness.records.record import Record, Score, build_ledger
from steelyard.harness.runs import provenance
from steelyard.harness.runs.attempt import PARTS, Attempt, attempt
from steelyard.harness.runs.job import (
    ATTACKS,
    Job,
    attack_costs,
    continued,
    earlier,
    finished,
    part_files,
    set_aside,
)
from steelyard.harness.runs.training import (
    TRACEBACK,
    TRAINING,
    TrainingResult,
    learning_rate,
    train,
)
from steelyard.tasks.corruptions import missing

MOST_LOST = 3
"""Workers that may die in one run, by memory for example, before it is a failed one."""

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.harness.models.backbone import Backbone


def run(
    job: Job,
    corpora: Mapping[str, Corpus],
    runs: Path,
    device: str,
    progress: Progress,
    *,
    wait: bool = True,
) -> Record:
    """Train and evaluate a job, or its unfinished part, and write its record.

    ``corpora`` holds the data of the task trained on and of every task scored. Any exception of
    training gives a record with status ``failed``; the exceptions of other parts are raised. Of two
    processes with the same job one waits, and finds the record of the other. The worker of a plan
    does not ``wait``: nobody looks at what it does. Of several ranks all train and answer, and the
    first reads and writes the folder.

    Raises:
        Busy: another process works on the run.
        WorkerDied: ``MOST_LOST`` workers of a plan died in this run.
        Interrupted: raised by ``progress``, or because another process took the run over.
    """
    folder = runs / job.spec.id
    with attempt(folder, progress, wait=wait) as current:
        if (result := ranks.share(partial(finished, job, runs, corpora))) is None:
            ranks.share(partial(current.begin, None if wait else MOST_LOST))
            job, before = ranks.share(partial(continued, job, folder, corpora))
            training = ranks.share(partial(_trained, job, folder, device))
            if training is None:
                settings = (job.trackers, job.checkpoint_minutes)
                training = train(job.spec, corpora, folder, device, current.report, *settings)
            scores: Sequence[Score] = ()
            tables: Mapping[str, pd.DataFrame] = {}
            if training.status == "done" and job.variants:
                scores, tables = _evaluate(job, corpora, folder, device, current.report)
            current.report("evaluating", 1.0)

            def write() -> Record:
                set_aside(folder)
                for name, items in tables.items():
                    write_items(items, folder / name)
                if training.status == "done" or (folder / TRAINING).is_file():
                    (folder / TRACEBACK).unlink(missing_ok=True)  # of an earlier attempt
                source = _provenance(job, corpora, folder, device, before, current)
                source |= {"ranks": training.ranks} if training.ranks > 1 else {}
                return _write(job, folder, training, scores, source)

            result = ranks.share(write)
        # After the record: an interrupted run continues from its parts.
        current.is_finished = True
    return result


@dataclass(frozen=True, slots=True)
class Failure:
    """Exception of a job as text: the exception itself would keep the model in memory."""

    job: Job
    reason: str
    traceback: str
    is_refusal: bool = False
    """Whether it is a mistake of the user, and nothing was trained."""


def run_or_fail(
    job: Job,
    corpora: Mapping[str, Corpus],
    runs: Path,
    device: str,
    progress: Progress,
    *,
    wait: bool = True,
) -> Record | Failure:
    """Return the record of ``run``, or the exception that ended it; see there for ``Busy``."""
    try:
        return run(job, corpora, runs, device, progress, wait=wait)
    except Busy:
        raise
    except (Exception, SystemExit) as error:
        trained = (runs / job.spec.id / TRAINING).is_file()
        is_refusal = isinstance(error, UserError) and not trained
        return Failure(job, one_line(error), format_exc(), is_refusal)


def record_failure(
    job: Job, corpora: Mapping[str, Corpus], runs: Path, device: str, reason: str, traceback: str
) -> Record:
    """Write the record of a run that was ended by an exception or with its process.

    What is finished of it stays for the next attempt: its training, and its variants as parts. So
    does a record with scores, which lacks what the job was about; then the failure is returned and
    not written.
    """
    folder = runs / job.spec.id
    with attempt(folder, wait=True) as last:
        write_atomic(folder / TRACEBACK, traceback)
        old = earlier(folder)
        if old is not None and old.status == "done":
            return replace(old, status="failed", failure=reason)
        job = replace(job, variants=())
        training = _trained(job, folder, device)
        if training is None:
            limits = (job.spec.budget, job.spec.track, job.spec.wall)
            training = _without_cost(parse_budget(*limits), device)
        training = replace(training, status="failed", failure=reason)
        before = old.provenance if old else {}
        source = _provenance(job, corpora, folder, device, before, last)
        return _write(job, folder, training, (), source)


def _trained(job: Job, folder: Path, device: str) -> TrainingResult | None:
    """Return the result of finished training; None if the job has to be trained."""
    # An untrained model costs nothing; the meter still names the device.
    if job.spec.task == tasks.NOTHING:
        return _without_cost(Budget(job.spec.budget), device)
    if not (folder / TRAINING).is_file():  # written after the weights
        return None
    content = read_object(folder / TRAINING)
    return TrainingResult(**{**content, "ledger": build_ledger(content["ledger"])})


def _without_cost(budget: Budget, device: str) -> TrainingResult:
    with Meter(budget, device) as meter:
        return TrainingResult("done", "", meter.ledger("finished"), {})


def _write(
    job: Job,
    folder: Path,
    training: TrainingResult,
    scores: Sequence[Score],
    provenance: Mapping[str, Any],
) -> Record:
    return record.write(
        Record(
            id=job.spec.id,
            label=job.label,
            spec=job.spec,
            status=training.status,
            failure=training.failure,
            ledger=training.ledger,
            scores=tuple(scores),
            provenance=provenance,
            diagnostics=training.diagnostics,
            kind=job.kind,
        ),
        folder,
    )


def _provenance(
    job: Job,
    corpora: Mapping[str, Corpus],
    folder: Path,
    device: str,
    before: Mapping[str, Any],
    current: Attempt,
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
    content |= _scored_weights(job, folder)
    if methods.about(spec.method).learns:
        content["learning_rate"] = learning_rate(spec)
    tables = {record.items_file(name, spec.task) for name in (spec.task, *other_tasks)}
    tables |= {missing_table(variant, job.split) for variant in variants if variant.missing}
    paths = {name: folder / name for name in sorted(tables) if (folder / name).is_file()}
    content["tables"] = {name: file_hash(path) for name, path in paths.items()}
    costs = attack_costs(folder)
    if attacked := [name for name in job.variants if name in costs]:
        content["attacks"] = {name: costs[name] for name in attacked}
    if job.tuning is not None:
        content["tuning"] = dict(job.tuning)
    if engine := getattr(job.model, "engine", before.get("engine")):
        content["engine"] = dict(engine)
    # Most runs need one attempt, and their records read as they always did.
    if (attempts := max(current.state.attempts, before.get("attempts", 1))) > 1:
        content["attempts"] = attempts
    if lost := lost_work(folder / PARTS) or before.get("lost"):
        content["lost"] = lost
    return content


def _scored_weights(job: Job, folder: Path) -> dict[str, Any]:
    """Return the hash of the weights, and what is declared of a model trained elsewhere."""
    if job.spec.task != tasks.NOTHING:
        return {"weights": weights_hash(folder / WEIGHTS)}
    elsewhere = dict(job.elsewhere or {})
    # Answers of a file stand for weights that nobody here has.
    files = [answers["hash"] for answers in elsewhere.get("answers", {}).values()]
    # Weights of an untrained model are not in the run's folder.
    weights = "+".join(files) or registry.revision(job.spec.backbone, job.spec.backbone_options)
    content: dict[str, Any] = {"weights": weights}
    return content if job.elsewhere is None else {**content, "elsewhere": elsewhere}


def _evaluate(
    job: Job, corpora: Mapping[str, Corpus], folder: Path, device: str, progress: Progress
) -> "tuple[Sequence[Score], Mapping[str, pd.DataFrame]]":
    """Score all variants; return the scores, and the tables of items by their files' names."""
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
            if ranks.is_main():
                write_atomic(folder / missing_table(variant, job.split), table)
        variant_scores, rows = _score_variant(job, variant, backbone, corpora, folder, report)
        scores += variant_scores
        items.setdefault(variant.task, []).append(rows)
    return scores, {
        record.items_file(task, job.spec.task): pd.concat(tables, ignore_index=True)
        for task, tables in items.items()
    }


def _score_variant(
    job: Job,
    variant: tasks.Variant,
    backbone: "Backbone",
    corpora: Mapping[str, Corpus],
    folder: Path,
    on_progress: Callable[[float], None],
) -> "tuple[Sequence[Score], pd.DataFrame]":
    """Return scores and items of one variant, from an earlier part if there is one."""
    from steelyard.harness.evaluation.evaluate import evaluate

    table, summary = part_files(folder, job, str(variant), corpora)

    def part() -> "tuple[Sequence[Score], pd.DataFrame] | None":
        if not summary.is_file():  # written after its table
            return None
        return [Score(**score) for score in read_json(summary)], read_items(table)

    if (earlier_part := ranks.share(part)) is not None:
        return earlier_part
    result = evaluate(
        backbone,
        variant,
        corpora[variant.task],
        split=job.split,
        limit=job.limit,
        progress=on_progress,
    )
    on_progress(1.0)  # nothing is written if the run was taken over meanwhile

    def write() -> None:
        write_items(result.items, table)
        # Before the summary, which marks the variant as complete.
        if result.attack is not None:
            costs = {**attack_costs(folder), str(variant): dict(result.attack)}
            write_json(folder / ATTACKS, costs)
        write_json(summary, [asdict(score) for score in result.scores])

    ranks.share(write)
    return result.scores, result.items


def missing_table(variant: tasks.Variant, split: str) -> str:
    """Return the table's path in a run's folder: ``missing/food101-test-image-missing-70.csv``."""
    return f"{missing.FOLDER}/{missing.file_name(variant.task, split, variant.name)}"
