"""Read the data of a suite and run its jobs, in one process or several, with progress.

records = run_suite(suite, RunOptions(runs=Path("runs"), jobs=2))
"""

import logging
import os
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from steelyard import tasks
from steelyard.harness.core import ranks
from steelyard.harness.core.environment import pick_device
from steelyard.harness.core.errors import LeaseLost, UserError, check_known
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import check_output
from steelyard.harness.core.processes import SendMessage, spread, start_workers
from steelyard.harness.core.progress import (
    console,
    print_table,
    progress_bar,
    show_progress,
)
from steelyard.harness.models import registry
from steelyard.harness.models.classifier_config import ClassifierConfig
from steelyard.harness.records.budget import parse_budget
from steelyard.harness.records.record import Record, unparsed_lines
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import suite as suites
from steelyard.harness.runs.attempt import PARTS
from steelyard.harness.runs.job import Job, finished
from steelyard.harness.runs.options import (
    DataOptions,
    RunOptions,
    parse_loader_options,
    parse_roots,
)
from steelyard.harness.runs.provenance import check_revision, check_split
from steelyard.harness.runs.run import Failure, record_failure, run_or_fail
from steelyard.harness.runs.suite import Suite
from steelyard.harness.runs.training import TRACEBACK, TRAINING, require_features

MESSAGE_SECONDS = 0.3  # between two progress messages of a run
TRAINING_FRACTION = 0.6  # of a run's progress bar; the rest is evaluation


@dataclass(frozen=True, slots=True)
class OpenSuite:
    """Checked suite with its data and its jobs."""

    suite: Suite
    corpora: Mapping[str, Corpus]
    jobs: Sequence[Job]


def open_suite(suite: Suite, options: RunOptions, *, evaluate: bool = True) -> OpenSuite:
    """Read the data of a checked suite and list its jobs."""
    model = (suite.backbone, suite.backbone_options)
    corpora = load_corpora(suite.all_tasks, options, suite.data_options, model=model)
    return OpenSuite(suite, corpora, suites.jobs(suite, corpora, evaluate=evaluate))


def run_suite(suite: Suite, options: RunOptions, *, evaluate: bool = True) -> list[Record]:
    """Run the jobs of a checked suite that have no record yet."""
    opened = open_suite(suite, options, evaluate=evaluate)
    ensure_base_model(suite.backbone, suite.backbone_options)
    return run_jobs(opened.jobs, opened.corpora, options)


def load_corpora(
    names: Sequence[str],
    options: DataOptions,
    loader: Mapping[str, Mapping[str, str]] | None = None,
    spec: RunSpec | None = None,
    further: Sequence[str] = (),
    model: tuple[str, Mapping[str, Any]] | None = None,
) -> dict[str, Corpus]:
    """Read data sets with progress; print how many rows could not be used.

    ``loader`` has loader options by task, in place of those of ``options``; those of the run of
    ``spec`` hold where none are given. A ``--data-root`` without a task is about ``names``, not
    about the ``further`` tasks. Items are left out whose image is refused by ``model``, a backbone
    and its options, by default that of ``spec``.

    Raises:
        UserError: a folder is missing, its data is unusable, or it is of another task.
    """
    from steelyard.harness.data.image_scan import report_images

    roots = parse_roots(options.data_root, names)
    loader = dict(parse_loader_options(options.data_set, names) if loader is None else loader)
    if spec is not None:
        recorded = {key: value for key, value in spec.data.items() if key != "revision"}
        loader[spec.task] = {**recorded, **loader.get(spec.task, {})}
        model = model or (spec.backbone, spec.backbone_options)
    names = list(dict.fromkeys((*names, *further)))
    for task in roots:
        check_known("task of --data-root", task, names)
    with progress_bar() as bar:
        line = bar.add_task("reading data", total=None)

        def read(name: str) -> Corpus:
            root = tasks.find_root(name, roots.get(name))
            corpus = tasks.load(name, root, max_bad=options.max_bad, **loader.get(name, {}))
            if model is not None:
                corpus = registry.leave_out_refused(corpus, *model, options.max_bad)
            return corpus

        # The time left is known once images are decoded.
        with report_images(lambda done, total: bar.update(line, completed=done, total=total)):
            corpora = {name: ranks.main_first(partial(read, name)) for name in names}
    for corpus in corpora.values():
        if corpus.skipped:
            first = "; ".join(f"{row.split}/{row.id}: {row.reason}" for row in corpus.skipped[:3])
            count = len(corpus.skipped)
            rows = "1 row" if count == 1 else f"{count} rows"
            more = "; ..." if count > 3 else ""
            skipped = f"{corpus.name}: {rows} skipped", "yellow"
            console.print(Text.assemble(skipped, f" ({first}{more})"))
    return corpora


def load_job_corpora(
    job: Job, record: Record | None, options: DataOptions, weights: Path | None = None
) -> dict[str, Corpus]:
    """Read the data of every task scored, and of the task trained on.

    With the folder of trained ``weights`` nothing is trained: the latter is read only to be scored,
    and needs no training items.

    Raises:
        UserError: data has another revision than the record, or lacks the scored split; an option
            names another task.
    """
    from steelyard.harness.data.reading import with_classes

    names = sorted({name.partition("@")[0] for name in job.variants})
    trained_on = job.spec.task
    further = () if trained_on == tasks.NOTHING or weights else (trained_on,)
    corpora = load_corpora(names, options, spec=job.spec, further=further)
    if weights and (classes := registry.trained_classes(weights)):
        corpora = {name: with_classes(corpus, classes) for name, corpus in corpora.items()}
    for name in names:
        check_split(corpora[name], job.split)
    if record is not None:
        for corpus in corpora.values():
            check_revision(corpus, record, trains=not weights)
    # Provenance of an untrained model describes an empty data set.
    if trained_on == tasks.NOTHING:
        corpora[trained_on] = Corpus(trained_on, Path(), (), False, {job.split: ()}, "")
    return corpora


def ensure_base_model(backbone: str, options: Mapping[str, Any]) -> None:
    """Train the base model of a preset before any run starts, in one process."""
    with show_progress("base model") as progress:

        def report(stage: str, done: float) -> None:
            progress(f"base model, once: {stage}", done)

        ranks.main_first(lambda: registry.ensure_base(backbone, options, report))


def run_jobs(
    jobs: Sequence[Job], corpora: Mapping[str, Corpus], options: RunOptions
) -> list[Record]:
    """Run the jobs that have no record yet; on a dry run print the plan.

    A job that raises, or that kills its process, becomes a failed run, and the others go on.

    Raises:
        UserError: every job of the call raised this same error before anything was trained.
    """
    device = pick_device(options.device)
    minutes = options.checkpoint_minutes
    jobs = [replace(job, trackers=options.log, checkpoint_minutes=minutes) for job in jobs]
    workers = _worker_count(options.jobs, device)
    states = ranks.share(lambda: [(job, _settled(job, options.runs, corpora)) for job in jobs])
    if options.dry_run:
        print_plan(states, max(1, workers))
        _check_budgets([job.spec for job, record in states if record is None], corpora)
        return []
    records = [record for _, record in states if record is not None]
    waiting = [job for job, record in states if record is None]
    if records and waiting:
        console.print(f"{len(records)} runs are done already, {len(waiting)} to go")
    untrained = [
        job.spec for job in waiting if not (options.runs / job.spec.id / TRAINING).exists()
    ]
    _check_ranks(untrained)
    sizes = [registry.saved_bytes(spec.backbone, spec.backbone_options) for spec in untrained]
    check_output(options.runs, size=sum(sizes))
    failures: list[Failure] = []
    start = time.monotonic()
    for outcome in _outcomes(waiting, workers, (corpora, options.runs, device)):
        if isinstance(outcome, Failure):
            failures.append(outcome)
            status, run_id = "failed", outcome.job.spec.id
        else:
            records.append(outcome)
            status, run_id = outcome.status, outcome.id
        if not console.is_terminal:
            done, seconds = len(records) + len(failures), time.monotonic() - start
            console.print(f"{done}/{len(jobs)} {status} {run_id} ({seconds:.0f} s)")
    reasons = {failure.reason for failure in failures if failure.is_refusal}
    if len(failures) == len(jobs) and len(reasons) == 1:
        raise UserError(reasons.pop())
    for failure in failures:
        end = (failure.job, corpora, options.runs, device, failure.reason, failure.traceback)
        records.append(ranks.share(partial(record_failure, *end)))
    _print_ends(records, options.runs)
    return records


def _settled(job: Job, runs: Path, corpora: Mapping[str, Corpus]) -> Record | None:
    """Return the record of a finished job of which nothing is left to remove."""
    return None if (runs / job.spec.id / PARTS).exists() else finished(job, runs, corpora)


def _worker_count(jobs: int | None, device: str) -> int:
    if ranks.world() == 1:
        return default_workers(device) if jobs is None else jobs
    if jobs:
        raise UserError(
            f"--jobs {jobs}: torchrun started {ranks.world()} processes, which share each run: "
            "leave it out."
        )
    return 0


def _check_ranks(specs: Sequence[RunSpec]) -> None:
    """Raise UserError for a run that several ranks cannot train."""
    world = ranks.world()
    for spec in specs if world > 1 else ():
        if spec.task == tasks.NOTHING:
            continue
        if registry.kind_of(spec.backbone) == "classifier":
            raise UserError(
                f"torchrun started {world} processes, and a classifier is trained by one: start "
                "the command without torchrun; --jobs trains several at once."
            )
        size = registry.configure(spec.backbone, spec.backbone_options).batch_size
        if size % world:
            raise UserError(
                f"{world} ranks cannot share the items of a step equally: batch_size={size}; give "
                f"--backbone-set batch_size={world * -(-size // world)}."
            )


def default_workers(device: str) -> int:
    """Return the number of processes that run jobs on a device."""
    # Runs on one GPU would share its memory and distort each other's seconds.
    return 1 if device.startswith("cuda") else os.cpu_count() or 1


def _outcomes(
    jobs: Sequence[Job], limit: int, shared: tuple[Mapping[str, Corpus], Path, str]
) -> Iterator["Record | Failure"]:
    """Run jobs in ``limit`` processes, without any in this one, and yield what comes of each.

    A process of their own also for one at a time: some methods end it.
    """
    fractions: dict[str, float] = {}
    with progress_bar() as bar:
        line = bar.add_task("starting", total=max(len(jobs), 1))

        def report(run_id: str, stage: str, fraction: float) -> None:
            fractions[run_id] = TRAINING_FRACTION * fraction
            if stage.startswith("evaluating"):
                fractions[run_id] = TRAINING_FRACTION + (1 - TRAINING_FRACTION) * fraction
            bar.update(line, description=f"{run_id}: {stage}", completed=sum(fractions.values()))

        if not limit:
            _start_worker(*shared)
        # The corpora are sent once per worker: with every job they would be most of the time.
        with start_workers(min(limit, len(jobs)), _start_worker, shared) as workers:
            for job, future in spread(_work, deque(jobs), workers, report, parent_works=not limit):
                # Also for a failed run, which is not evaluated.
                fractions[job.spec.id] = 1.0
                bar.update(line, completed=sum(fractions.values()))
                error = future.exception()
                yield Failure(job, str(error), str(error)) if error else future.result()


def _check_budgets(specs: Sequence[RunSpec], corpora: Mapping[str, Corpus]) -> None:
    """Raise UserError for a budget that does not pay for the features of frozen encoders."""
    frozen = {}
    for spec in specs:
        config = registry.configure(spec.backbone, spec.backbone_options)
        if isinstance(config, ClassifierConfig) and config.frozen and spec.track == "compute":
            frozen[spec.task, parse_budget(spec.budget).flops] = spec
    for spec in frozen.values():
        quiet_heavy_libraries()
        corpus = corpora[spec.task]
        backbone = registry.build_untrained(spec, corpus, "cpu")
        require_features(backbone, corpus, parse_budget(spec.budget))


def _print_ends(records: Sequence[Record], runs: Path) -> None:
    """Print the reason of every failed run, and how many runs are done."""
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        path = runs / record.id / TRACEBACK
        where = f" (see {path})" if path.is_file() else ""
        console.print(Text.assemble(("failed", "red"), f" {record.id}: {record.failure}{where}"))
    for record in records:
        for line in unparsed_lines(record):
            console.print(Text.assemble(("note", "yellow"), f" {record.id}: {line}"))
    done = len(records) - len(failed)
    console.print(f"{done} runs done, {len(failed)} failed, in {runs}")


def print_plan(states: Sequence[tuple[Job, Record | None]], workers: int) -> None:
    """Print the state of every job and the largest cost of the unfinished ones."""
    rows: list[tuple[object, ...]] = []
    seconds: list[float] = []
    limits: dict[str, float] = {}
    for job, record in states:
        budget = parse_budget(job.spec.budget, job.spec.track, job.spec.wall)
        state = "to run" if record is None else record.status
        rows.append((job.label, job.spec.id, state, budget, len(job.variants)))
        if record is None:
            unit, amount = ("items", budget.items) if budget.items else ("FLOPs", budget.flops)
            limits[unit] = limits.get(unit, 0.0) + amount
        else:
            seconds.append(record.ledger.total_seconds)
    print_table(("entry", "run", "state", "budget", "variants"), rows)
    names = {name.partition("@")[2] for job, _ in states for name in job.variants} - {""}
    corrupted = ", ".join(sorted(names)) or "no corruption (--corruption adds some)"
    console.print(f"Scored on clean items and {corrupted}.")
    pending = len(states) - len(seconds)
    cost = " and ".join(f"{amount:.3g} {unit}" for unit, amount in limits.items()) or "nothing"
    console.print(f"{pending} of {len(states)} runs to do, at most {cost} of training.")
    if seconds and pending:
        mean = sum(seconds) / len(seconds)
        console.print(
            f"Training took {mean:.0f} s per run so far: about "
            f"{mean * pending / workers / 60:.0f} min for the rest with {workers} at a time, "
            "without evaluation."
        )


def quiet_heavy_libraries() -> None:
    """Set one CPU thread and turn off warnings and progress bars of tokenizers and transformers."""
    # Else tokenizers starts threads, and warns whenever a process is forked after that.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # What libraries say to each other about their next versions.
    warnings.filterwarnings("ignore", category=FutureWarning)
    from steelyard.harness.core.compat import prepare_imports

    prepare_imports()
    import torch
    from transformers.utils import logging as transformers_logging

    # On small models two threads are far slower than one, and sums differ with their number.
    torch.set_num_threads(1)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # By transformers itself, of its own older name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


_shared: tuple[Mapping[str, Corpus], Path, str]
"""Corpora, folder of runs and device of all jobs of a worker: sent once, not with every job."""


def _start_worker(*shared: Any) -> None:
    global _shared
    _shared = shared
    quiet_heavy_libraries()


def _work(job: Job, send_message: SendMessage) -> Record | Failure:
    last_stage, last_time = "", 0.0

    def progress(stage: str, fraction: float) -> None:
        # A new stage is sent at once, and else a few messages a second.
        nonlocal last_stage, last_time
        now = time.monotonic()
        if stage != last_stage or now - last_time > MESSAGE_SECONDS:
            last_stage, last_time = stage, now
            send_message(job.spec.id, stage, fraction)

    while True:
        with suppress(LeaseLost):  # then to wait for the record of the process that took it over
            outcome = run_or_fail(job, *_shared, progress)
            ranks.meet(outcome.traceback if isinstance(outcome, Failure) else "")
            return outcome
