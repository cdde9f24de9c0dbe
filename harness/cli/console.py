"""What the commands do, free of click: suites from options, runs with progress, printing."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from steelyard import methods
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import parse_pairs, parse_seeds
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.data import image_scan
from steelyard.harness.models import registry
from steelyard.harness.records.budget import parse_budget
from steelyard.harness.records.record import Record
from steelyard.harness.runs import suite, tuning
from steelyard.harness.runs.corpora import parse_roots
from steelyard.harness.runs.run import Job, finished
from steelyard.harness.runs.suite import Entry, Suite
from steelyard.tasks._lmms import stock
from steelyard.tasks.corruptions import STANDARD

TRAINING_SHARE = 0.6  # of a run's progress bar; the rest is evaluation
ONE_PART = ("tasks", "evaluate", "backbone", "backbone_set", "budget", "extra", "data_set")
"""Options that make no sense for a target that stands for several suites."""


def suites_from(target: str, given: Mapping[str, Any]) -> list[Suite]:
    """The suites that a target and its options describe: one, unless the target lists several."""
    options = parse_pairs(given["sets"])
    if target in suite.shipped() or target.endswith((".yaml", ".yml")):
        if options:
            raise UserError("--set goes with a single method; a suite names its own options.")
        bases = suite.load(target)
    elif target in methods.names() or target.endswith(".py"):
        bases = (_suite_of_one(target, options, given["backbone"]),)
    else:
        raise unknown("suite or method", target, [*suite.shipped(), *methods.names()])
    used = [f"--{name.replace('_', '-')}" for name in ONE_PART if given[name]]
    if len(bases) > 1 and used:
        names = " and ".join(base.name for base in bases)
        raise UserError(f"{target} stands for {names}: give {used[0]} with one of them.")
    made = _with_tuned([_changed(base, given) for base in bases], given)
    return [part for whole in made for part in suite.by_track(whole)]


def _with_tuned(suites: Sequence[Suite], given: Mapping[str, Any]) -> list[Suite]:
    """Suites with the settings that were chosen for their entries, as entries of their own."""
    if given["oracle"] and not given["tuned"]:
        raise UserError("--oracle goes with --tuned FILE, and with 'steelyard tune'.")
    made = list(suites)
    for path in given["tuned"]:
        content = tuning.read(path)
        found = [tuning.chosen_entries(content, each, oracle=given["oracle"]) for each in suites]
        if not any(found):
            names = ", ".join(sorted(entry["label"] for entry in content["entries"]))
            raise UserError(
                f"{path} tuned {names} with backbone {content['backbone']} on "
                f"{', '.join(content['tasks'])}: none of that is run here."
            )
        made = [
            replace(each, entries=(*each.entries, *more))
            for each, more in zip(made, found, strict=True)
        ]
    for each in made:
        suite.check(each)
    return made


def _changed(base: Suite, given: Mapping[str, Any]) -> Suite:
    """A suite with the options of the command line in place of its own."""
    entries = (*base.entries, *(Entry(method) for method in given["extra"]))
    chosen = given["tasks"] or base.tasks
    stock.include(given["include_path"])
    named = suite.scored_tasks(given["evaluate"])
    scored = named or (() if given["tasks"] else base.evaluate)
    loader = {key: str(value) for key, value in parse_pairs(given["data_set"]).items()}
    made = replace(
        base,
        entries=entries,
        tasks=tuple(chosen),
        evaluate=scored,
        corruptions=tuple(given["corruptions"]) or base.corruptions,
        seeds=parse_seeds(given["seeds"]) if given["seeds"] else base.seeds,
        budget=given["budget"] or base.budget,
        backbone=given["backbone"] or base.backbone,
        backbone_options={**base.backbone_options, **parse_pairs(given["backbone_set"])},
        data_options=dict.fromkeys(chosen, loader) if loader else base.data_options,
        limit=given["limit"] or base.limit,
        split=given["split"] or base.split,
        track=given["track"] or base.track,
        wall=given["wall"] or base.wall,
    )
    suite.check(made)
    return made


def _suite_of_one(method: str, options: Mapping[str, Any], backbone: str | None) -> Suite:
    """One method on the data it is for: a vlm learns from questions and is asked several sets."""
    entry = Entry(method, options)
    about = methods.about(method)
    kind = registry.kind_of(backbone) if backbone else about.backbones[0]
    if kind == "classifier":
        return Suite("run", (entry,), ("food101",), STANDARD)
    return Suite(
        "run",
        (entry,),
        ("instruct",),
        STANDARD,
        evaluate=("prior_conflict", "pope", "vqa", "chair"),
        backbone="tiny-vlm",
    )


def run_suites(
    suites: Sequence[Suite], runs: Path, given: Mapping[str, Any], *, evaluate: bool = True
) -> list[Record]:
    """Run suites one after another."""
    return [found for made in suites for found in run_suite(made, runs, given, evaluate=evaluate)]


def run_suite(
    made: Suite, runs: Path, given: Mapping[str, Any], *, evaluate: bool = True
) -> list[Record]:
    """Run what has no record yet, with progress; prints the plan only when asked to."""
    corpora = open_corpora(made, given)
    if not given.get("dry_run"):
        make_ready(made.backbone, made.backbone_options)
    jobs = suite.jobs(made, corpora)
    if not evaluate:
        jobs = [replace(job, variants=()) for job in jobs]
    return run_jobs(jobs, corpora, runs, given)


def open_corpora(made: Suite, given: Mapping[str, Any]) -> dict[str, Corpus]:
    """A suite's data sets, with a line on the rows that could not be used."""
    roots = parse_roots(given.get("data_root") or (), (*made.tasks, *made.evaluate))
    with reading():
        corpora = suite.load_corpora(made, roots, given.get("max_bad", 0.01))
    for corpus in corpora.values():
        report_skipped(corpus)
    return corpora


def run_jobs(
    jobs: Sequence[Job], corpora: Mapping[str, Corpus], runs: Path, given: Mapping[str, Any]
) -> list[Record]:
    """Run those jobs that have no record yet, or only print the plan."""
    device = pick_device(given.get("device") or "auto")
    workers = given.get("jobs") or (1 if device.startswith("cuda") else os.cpu_count() or 1)
    if given.get("dry_run"):
        print_plan(jobs, runs, workers)
        return []
    records = _run_with_progress(jobs, corpora, runs, device, workers)
    failed = [found for found in records if found.status == "failed"]
    for found in failed:
        console.print(f"[red]failed[/] {found.id}: {found.failure}", highlight=False)
    done = len(records) - len(failed)
    console.print(f"{done} runs done, {len(failed)} failed, in {runs}", highlight=False)
    return records


def make_ready(backbone: str, options: Mapping[str, Any]) -> None:
    """What all runs start from, made before they begin and by one process."""
    with progress_bar() as bar:
        line = bar.add_task("base model", total=1.0)

        def report(stage: str, share: float) -> None:
            bar.update(line, description=f"base model, once: {stage}", completed=share)

        registry.ensure_base(backbone, options, report)


@contextmanager
def reading() -> Iterator[None]:
    """A bar while data is read, with the time left as soon as there are images to decode."""
    with progress_bar() as bar:
        line = bar.add_task("reading data", total=None)
        with image_scan.report_images(
            lambda done, total: bar.update(line, completed=done, total=total)
        ):
            yield


def _run_with_progress(
    jobs: Sequence[Job], corpora: Mapping[str, Corpus], runs: Path, device: str, workers: int
) -> list[Record]:
    from steelyard.harness.runs.parallel import execute

    known = [(job, finished(job, runs)) for job in jobs]
    records = [found for _, found in known if found is not None]
    waiting = [job for job, found in known if found is None]
    if records and waiting:
        console.print(f"{len(records)} runs are done already, {len(waiting)} to go")
    shares: dict[str, float] = {}
    with progress_bar() as bar:
        line = bar.add_task("starting", total=max(len(waiting), 1))

        def report(identity: str, doing: str, share: float) -> None:
            done = TRAINING_SHARE * share if doing == "training" else 0.0
            if doing.startswith("evaluating"):
                done = TRAINING_SHARE + (1 - TRAINING_SHARE) * share
            shares[identity] = done
            bar.update(line, description=f"{identity}: {doing}", completed=sum(shares.values()))

        start = time.monotonic()
        for found in execute(waiting, corpora, runs, device=device, workers=workers, report=report):
            records.append(found)
            shares[found.id] = 1.0
            bar.update(line, completed=sum(shares.values()))
            if not console.is_terminal:
                count = f"{len(records)}/{len(jobs)}"
                seconds = time.monotonic() - start
                console.print(f"{count} {found.status} {found.id} ({seconds:.0f} s)")
    return records


def demo(name: str, runs: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Run a shipped suite and print its board."""
    if run_suites(suite.load(name), runs, given):
        from steelyard.harness.cli.leaderboard import boards

        boards((runs,), out)


def print_plan(jobs: Sequence[Job], runs: Path, workers: int) -> None:
    """What would be run, what is done, and what the rest will cost."""
    table = Table("entry", "run", "state", "budget", "variants")
    seconds: list[float] = []
    pending = 0
    most: dict[str, float] = {}
    for job in jobs:
        found = finished(job, runs)
        budget = parse_budget(job.spec.budget, job.spec.track, job.spec.wall)
        if found is None:
            pending += 1
        else:
            seconds.append(found.ledger.total_seconds)
        if found is None:
            unit, amount = ("items", budget.items) if budget.items else ("FLOPs", budget.flops)
            most[unit] = most.get(unit, 0.0) + amount
        state = "to run" if found is None else found.status
        table.add_row(job.label, job.spec.id, state, str(budget), str(len(job.variants)))
    console.print(table)
    whole = " and ".join(f"{amount:.3g} {unit}" for unit, amount in most.items()) or "nothing"
    console.print(f"{pending} of {len(jobs)} runs to do, at most {whole} of training.")
    if seconds and pending:
        estimate = sum(seconds) / len(seconds) * pending / workers
        console.print(
            f"Training took {sum(seconds) / len(seconds):.0f} s a run so far: about "
            f"{estimate / 60:.0f} min with {workers} at a time, evaluation not counted."
        )
    elif pending:
        console.print("How long that takes here is not known before a first run is done.")


def report_skipped(corpus: Corpus) -> None:
    """Say how many rows of a data set could not be used, and which."""
    if not corpus.skipped:
        return
    first = "; ".join(f"{row.split}/{row.id}: {row.reason}" for row in corpus.skipped[:3])
    console.print(f"[yellow]{corpus.name}: {len(corpus.skipped)} rows skipped[/] ({first} ...)")


def pick_device(name: str) -> str:
    """``auto`` takes the first GPU if there is one; a device that is not there is an error."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda") or not torch.cuda.is_available():
        raise UserError(f"Device '{name}' is not available here; use cpu or auto.")
    return name
