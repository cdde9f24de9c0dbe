"""Command tune: run the trials of every entry, choose one and write the tuning file."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from steelyard.harness.cli.options import pass_options
from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import digest, exclusive, file_name, write_atomic, write_json
from steelyard.harness.core.progress import console, echo, print_table
from steelyard.harness.models.registry import WEIGHTS
from steelyard.harness.records.record import Record
from steelyard.harness.runs import tuning
from steelyard.harness.runs.job import Job
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import load_corpora, run_jobs
from steelyard.harness.runs.suite import Suite, jobs, shipped
from steelyard.harness.runs.training import TRAINING
from steelyard.harness.runs.tuning import TuningPlan


@click.command()
@click.argument("target")
@pass_options(TuningPlan, "trials", "rule", "seed", into="plan")
@pass_options(RunOptions)
def tune(target: str, plan: TuningPlan, options: RunOptions) -> None:
    """Try settings of every entry and choose on validation items.

    Trial 0 has the entry's own settings; the others draw from the ranges in its method's file and
    from one range of learning rates for all methods. --oracle scores the trials on test items too.

    \b
    Examples:
      steelyard tune world_vlm
      steelyard tune mine.py --task food101 --trials 4 --budget XS
      steelyard run world_vlm --tuned runs/tuning-world_vlm-S/tuning.json
    """
    plan = replace(plan, oracle=options.oracle)
    for name in ("seeds", "split", "tuned"):
        if getattr(options, name):
            raise UserError(
                f"--{name}: trials are trained with seed {plan.training_seed} and scored on "
                "validation items; leave it out."
            )
    records: list[Record] = []
    # The anytime track is tuned once per budget.
    for suite in suites_from(target, replace(options, oracle=False)):
        for budget in suite.budgets:
            one_budget = replace(suite, budget=budget, track=suite.run_track)
            records += tune_suite(one_budget, plan, options)
            if records:
                file = tuning_folder(one_budget, options) / tuning.FILE
                echo(f"Next: {shlex.join(['steelyard', 'run', target, '--tuned', str(file)])}")
    if any(record.status == "failed" for record in records):
        sys.exit(1)


def tuning_folder(suite: Suite, options: RunOptions) -> Path:
    """Return the folder of a suite's trials and tuning file below ``--runs``."""
    # "run" is the suite made of a single method.
    name = suite.entries[0].name if suite.name == "run" else suite.name
    files = [Path(e.method) for e in suite.entries if e.method.endswith(".py")]
    if files or suite.name not in (*shipped(), "run"):
        # Another file may have this name.
        parts = suite.entries, suite.tasks, suite.backbone, suite.backbone_options
        name += f"-{digest([repr(parts).encode(), *(file.read_bytes() for file in files)])[:8]}"
    ending = "" if suite.run_track == "compute" else f"-{suite.run_track}"
    return options.runs / file_name(f"tuning-{name}-{suite.budget}{ending}")


def tune_suite(suite: Suite, plan: TuningPlan, options: RunOptions) -> list[Record]:
    """Tune a suite of one budget and write its tuning file; return the trials."""
    model = (suite.backbone, suite.backbone_options)
    corpora = load_corpora(suite.all_tasks, options, suite.data_options, model=model)
    suite = _with_validation(suite, corpora)
    if plan.oracle:  # a missing test split is an error before anything is trained
        jobs(replace(suite, split="test"), corpora)
    options = replace(options, runs=tuning_folder(suite, options))
    names = [entry.name for entry in suite.entries]
    if options.dry_run:
        # An upper bound: only trial 0 shows which methods train nothing.
        trials = tuning.trial_suite(suite, plan, range(plan.trials), names)
        return run_jobs(jobs(trials, corpora), corpora, options)
    # Trial 0 first: a method that trains nothing in it has nothing to tune.
    first_jobs = jobs(tuning.trial_suite(suite, plan, [0], names), corpora)
    records = run_jobs(first_jobs, corpora, options)
    trained = {record.label for record in records if record.ledger.steps or record.failure}
    names = [name for name in names if tuning.trial_label(name, 0) in trained]
    rest = tuning.trial_suite(suite, plan, range(1, plan.trials), names)
    other_jobs = jobs(rest, corpora)
    records += run_jobs(other_jobs, corpora, options)
    test_records: list[Record] = []
    if plan.oracle:
        test_records = _score_on_test([*first_jobs, *other_jobs], records, corpora, options)
    revisions = {task: corpora[task].revision for task in suite.tasks}
    content = tuning.report(suite, plan, records, test_records, revisions)
    _print_choices(content)
    write_json(options.runs / tuning.FILE, content)
    return [*records, *test_records]


def _with_validation(suite: Suite, corpora: Mapping[str, Corpus]) -> Suite:
    """Return the suite without scored tasks that have no validation items."""
    for task in suite.tasks:
        if not corpora[task].splits.get("val"):
            raise UserError(
                f"{task} has no validation items to choose on: add a split val, or tune on "
                "another task."
            )
    usable = tuple(task for task in suite.evaluate if corpora[task].splits.get("val"))
    if skipped := [task for task in suite.evaluate if task not in usable]:
        console.print(f"skipped for selection (no val split): {', '.join(skipped)}")
    return replace(suite, evaluate=usable)


def _score_on_test(
    trials: Sequence[Job],
    records: Sequence[Record],
    corpora: Mapping[str, Corpus],
    options: RunOptions,
) -> list[Record]:
    """Score the trained trials on test items, in a folder of their own."""
    folder = options.runs / "test"
    done = {record.id for record in records if record.status == "done"}
    trials = [replace(job, split="test") for job in trials if job.spec.id in done]
    for job in trials:
        source, target = options.runs / job.spec.id, folder / job.spec.id
        # Copied so that no trial is trained again; training.json marks the weights as complete.
        with exclusive(target):
            if not (target / TRAINING).is_file():
                shutil.copytree(source / WEIGHTS, target / WEIGHTS, dirs_exist_ok=True)
                write_atomic(target / TRAINING, (source / TRAINING).read_bytes())
    return run_jobs(trials, corpora, replace(options, runs=folder))


def _print_choices(content: Mapping[str, Any]) -> None:
    rows = []
    for entry in content["entries"]:
        trials, ledger = entry["trials"], entry["ledger"]
        choice, settings = "", "failed"
        if (best := entry["chosen"]) is not None:
            choice, settings = _percent(trials[best]["score"]), "own"
            if best:
                values = [
                    f"{name}={value}" for name, value in sorted(trials[best]["options"].items())
                ]
                rate = f"learning rate {trials[best]['learning_rate']:g}"
                settings = ", ".join([*values, rate])
        flops, seconds = ledger["flops"][tuning.PHASE], ledger["seconds"][tuning.PHASE]
        scores = _percent(trials[0]["score"]), choice
        cost = f"{flops:.3g}", f"{seconds:.0f}"
        rows.append((entry["label"], *scores, settings, len(trials), *cost))
    headers = ("entry", "own settings", "chosen", "settings", "trials", "FLOPs", "seconds")
    print_table(headers, rows, f"{content['rule']} on validation items")


def _percent(score: float | None) -> str:
    return "failed" if score is None else f"{100 * score:.1f}"
