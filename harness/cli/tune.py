"""``steelyard tune``: run the trials of every entry, choose, write the tuning file, print it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from steelyard.harness.cli import console as commands
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.progress import console
from steelyard.harness.models.registry import WEIGHTS
from steelyard.harness.records.record import Record
from steelyard.harness.runs import suite, tuning
from steelyard.harness.runs.run import TRAINING, Job
from steelyard.harness.runs.suite import Suite, label_of
from steelyard.harness.runs.tuning import Plan

FIXED = ("seeds", "split", "tuned")
"""Options of a run that a trial decides itself."""


def tune(target: str, runs: Path, plan: Plan, given: Mapping[str, Any]) -> list[Path]:
    """Tune every entry of a target; an interrupted command goes on where it stopped."""
    for name in FIXED:
        if given[name]:
            raise UserError(
                f"--{name}: trials are trained with seed {tuning.TRAINING_SEED + plan.seed} and "
                "scored on validation items; leave it out."
            )
    given = {**given, "oracle": False}
    files = []
    for made in commands.suites_from(target, given):
        if (path := _tune_suite(made, runs, plan, given)) is not None:
            files.append(path)
    return files


def folder_of(made: Suite, runs: Path) -> Path:
    """Where the trials of a suite lie."""
    name = label_of(made.entries[0]) if made.name == "run" else made.name
    ending = "" if made.run_track == "compute" else f"-{made.run_track}"
    return runs / f"tuning-{name.replace('/', '_')}-{made.budget}{ending}"


def _tune_suite(made: Suite, runs: Path, plan: Plan, given: Mapping[str, Any]) -> Path | None:
    corpora = commands.open_corpora(made, given)
    made = _with_validation(made, corpora)
    folder = folder_of(made, runs)
    labels = [label_of(entry) for entry in made.entries]
    if given["dry_run"]:
        plans = tuning.trial_suite(made, plan, range(plan.trials), labels)
        commands.run_jobs(suite.jobs(plans, corpora), corpora, folder, given)
        return None
    # First as they stand: a method that then trains nothing has nothing to tune.
    first = tuning.trial_suite(made, plan, [0], labels)
    records = commands.run_jobs(suite.jobs(first, corpora), corpora, folder, given)
    trained = {found.label for found in records if found.ledger.steps or found.failure}
    tried = [label for label in labels if tuning.trial_label(label, 0) in trained]
    rest = tuning.trial_suite(made, plan, range(1, plan.trials), tried)
    jobs = suite.jobs(rest, corpora)
    records += commands.run_jobs(jobs, corpora, folder, given)
    tested: list[Record] = []
    if plan.oracle:
        done = [*suite.jobs(first, corpora), *jobs]
        tested = _on_test(done, records, corpora, folder, given)
    revisions = {task: corpora[task].revision for task in made.tasks}
    content = tuning.report(made, plan, records, tested, revisions)
    _print(content)
    return tuning.write(content, folder)


def _with_validation(made: Suite, corpora: Mapping[str, Corpus]) -> Suite:
    """The suite without tasks that are only scored and have no validation items."""
    for task in made.tasks:
        if not corpora[task].splits.get("val"):
            raise UserError(f"{task} has no validation items to choose by: tune on other data.")
    kept = tuple(task for task in made.evaluate if corpora[task].splits.get("val"))
    left = [task for task in made.evaluate if task not in kept]
    if left:
        console.print(f"not used to choose, for want of a split val: {', '.join(left)}")
    return replace(made, evaluate=kept)


def _on_test(
    jobs: Sequence[Job],
    records: Sequence[Record],
    corpora: Mapping[str, Corpus],
    folder: Path,
    given: Mapping[str, Any],
) -> list[Record]:
    """The same trained trials scored on test items, in a folder of their own."""
    apart = folder / "test"
    fine = {found.id for found in records if found.status == "done"}
    jobs = [replace(job, split="test") for job in jobs if job.spec.id in fine]
    for job in jobs:
        source, target = folder / job.spec.id, apart / job.spec.id
        if not (target / TRAINING).is_file():
            shutil.copytree(source / WEIGHTS, target / WEIGHTS, dirs_exist_ok=True)
            shutil.copyfile(source / TRAINING, target / TRAINING)
    return commands.run_jobs(jobs, corpora, apart, given)


def _print(content: Mapping[str, Any]) -> None:
    table = Table("entry", "as it stands", "chosen", "settings", "trials", "FLOPs", "seconds",
                  title=f"{content['rule']} on validation items")  # fmt: skip
    for entry in content["entries"]:
        trials, chosen = entry["trials"], entry["chosen"]
        ledger = entry["ledger"]
        table.add_row(
            entry["label"],
            _percent(trials[0]["score"]),
            "" if chosen is None else _percent(trials[chosen]["score"]),
            "failed" if chosen is None else _words(trials[chosen], chosen),
            str(len(trials)),
            f"{ledger['flops'][tuning.PHASE]:.3g}",
            f"{ledger['seconds'][tuning.PHASE]:.0f}",
        )
    console.print(table)


def _percent(score: float | None) -> str:
    return "failed" if score is None else f"{100 * score:.1f}"


def _words(trial: Mapping[str, Any], number: int) -> str:
    if number == 0:
        return "as it stands"
    options = [f"{name}={value}" for name, value in sorted(trial["options"].items())]
    return ", ".join([*options, f"learning rate {trial['learning_rate']:g}"])
