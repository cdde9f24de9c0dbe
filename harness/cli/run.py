"""Commands that train: run, train and demo."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from steelyard import methods
from steelyard.harness.cli.leaderboard import BoardOptions, write_boards
from steelyard.harness.cli.options import pass_options
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.options import parse_pairs, parse_seeds
from steelyard.harness.core.progress import echo
from steelyard.harness.engines import Resources, find
from steelyard.harness.engines.launch import EngineOptions, run_on
from steelyard.harness.models import registry
from steelyard.harness.records.record import Record
from steelyard.harness.runs import cards, tuning
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import ensure_base_model, open_suite, run_suite
from steelyard.harness.runs.plan import make
from steelyard.harness.runs.suite import (
    Suite,
    SuiteEntry,
    check,
    expand_groups,
    load,
    shipped,
    with_types,
)
from steelyard.harness.training import tracking
from steelyard.tasks._lmms import stock

NONE = "none"
"""Value of ``--corruption`` that leaves out those of a suite."""


@click.command()
@click.argument("target")
@pass_options(EngineOptions, into="engine")
@pass_options(RunOptions)
def run(target: str, options: RunOptions, engine: EngineOptions) -> None:
    """Train and evaluate a suite, or one method.

    TARGET is the name of a suite or a method, or a file: a suite's .yaml, a method's .py.

    \b
    Examples:
      steelyard run demo
      steelyard run my_suite.yaml --jobs 4
      steelyard run mine.py --set amount=0.2 --corruption image-blank
      steelyard run joint --task food101 --data-root ~/food101 --method mine.py
      steelyard run world --on slurm --workers 16 --gpus 1 --minutes 240 --site partition=gpu

    A run that raises or that kills its process is a failed run with its reason, its traceback is in
    the run's folder, and the others go on; the same command tries it again.
    """
    resources = engine.resources()
    suites = suites_from(target, options)
    if engine.on is not None and not options.dry_run:
        sys.exit(_run_on(engine.on, resources, Path(target).stem, suites, options))
    if records := _run(suites, options):
        track = " --track anytime" if options.track == "anytime" else ""
        echo(f"Next: steelyard leaderboard {shlex.quote(str(options.runs))}{track}")
    _exit_if_failed(records)


@click.command()
@click.argument("target")
@pass_options(RunOptions)
def train(target: str, options: RunOptions) -> None:
    """Train without evaluation; evaluate later.

    \b
    Example:
      steelyard train joint --task hateful_memes --seeds 0
    """
    suites = suites_from(target, options)
    _exit_if_failed(_run(suites, options, evaluate=False))


@click.command()
@click.option("--quick", is_flag=True, help="One seed and four methods: about a minute.")
@pass_options(BoardOptions, "out", into="board")
@pass_options(RunOptions, "runs", "jobs", "dry_run")
def demo(quick: bool, options: RunOptions, board: BoardOptions) -> None:
    """Run both tracks on generated data and print the boards.

    One track trains classifiers, the other a small vision-language model.

    \b
    Examples:
      steelyard demo
      steelyard demo --quick
    """
    name = "quick" if quick else "demo"
    # A folder of its own: the boards show these runs alone.
    options = replace(options, runs=options.runs / name)
    suites = suites_from(name, options)
    if records := _run(suites, options):
        write_boards((options.runs,), board)
    _exit_if_failed(records)


def _run(suites: Sequence[Suite], options: RunOptions, *, evaluate: bool = True) -> list[Record]:
    """Run suites, or on a dry run print what they cost on the GPU at hand or the CPU."""
    if not options.dry_run:
        return [r for suite in suites for r in run_suite(suite, options, evaluate=evaluate)]
    for suite in suites:
        # Imported here, because it takes torch and help must be fast.
        from steelyard.harness.runs.estimate import plan_suite

        opened = open_suite(suite, options, evaluate=evaluate)
        plan_suite(opened, options, cards.find(None), cards.UTILISATION)
    return []


def _run_on(
    name: str, resources: Resources, stem: str, suites: Sequence[Suite], options: RunOptions
) -> int:
    """Plan and prepare suites, start workers on them, and watch; return the exit code."""
    if options.jobs is not None or options.device != "auto":
        raise UserError("--jobs and --device go without --on: give --workers and --gpus.")
    opened = [open_suite(suite, options) for suite in suites]
    for suite in suites:
        ensure_base_model(suite.backbone, suite.backbone_options)
        registry.fetch(suite.backbone, suite.backbone_options)
    plan = make(opened, options)
    runs = options.runs.absolute()
    plan.write(file := runs / f"{stem}.plan.json")
    return run_on(find(name), plan, file, runs, resources)


def _exit_if_failed(records: Sequence[Record]) -> None:
    if any(record.status == "failed" for record in records):
        sys.exit(1)


def suites_from(target: str, options: RunOptions) -> list[Suite]:
    """Return the suites of a target with the options of the command line, checked."""
    if options.oracle and not options.tuned:
        raise UserError("--oracle goes with --tuned FILE, and with 'steelyard tune'.")
    tracking.check_packages(options.log)
    is_suite = target in shipped() or target.endswith((".yaml", ".yml"))
    if is_suite:
        single = {"--set": options.method_set, "--trl": options.trl, "--label": options.label}
        for name, value in single.items():
            if value:
                raise UserError(f"{name} goes with a single method; a suite has its own entries.")
        bases = load(target)
    elif target in methods.names() or target.endswith(".py"):
        bases = (_suite_of_one(target, options),)
    else:
        for file in (f"{target}.py", f"{target}.yaml", f"{target}.yml"):
            if Path(file).is_file():
                raise UserError(f"Unknown suite or method '{target}'. Did you mean '{file}'?")
        raise unknown("suite or method", target, [*shipped(), *methods.names()])
    for_one_suite = {
        "--task": options.tasks,
        "--evaluate": options.evaluate,
        "--backbone": options.backbone,
        "--backbone-set": options.backbone_set,
        "--budget": options.budget,
        "--method": options.methods,
        "--data-set": options.data_set,
        "--data-root": options.data_root,
    }
    conflicts = [name for name, value in for_one_suite.items() if value]
    if len(bases) > 1 and conflicts:
        names = " and ".join(base.name for base in bases)
        raise UserError(f"{target} consists of {names}: give {conflicts[0]} with one of them.")
    # Groups of a user's folder must be known before they are replaced by their tasks.
    stock.include(options.include_path)
    try:
        suites = [_changed(base, options) for base in bases]
        for path in options.tuned:
            suites = tuning.add_chosen(suites, path, oracle=options.oracle)
        # Once, after all changes: a wrong name in the second suite must not wait for the first.
        for suite in suites:
            check(suite)
    except UserError as error:
        raise UserError(f"{target}: {error}" if is_suite else str(error)) from error
    return suites


def _suite_of_one(method: str, options: RunOptions) -> Suite:
    """Return one method on default tasks of its kind of backbone."""
    settings = parse_pairs(options.method_set), options.label or ""
    entries = (SuiteEntry(method, *settings, trl=parse_pairs(options.trl)),)
    kinds = methods.about(method).backbones
    kind = registry.kind_of(options.backbone) if options.backbone else kinds[0]
    if kind == "classifier":
        return Suite("run", entries, ("food101",))
    # A vision-language model learns from one pool of questions and is scored on other sets.
    evaluate = ("prior_conflict", "pope", "vqa", "chair")
    return Suite("run", entries, ("instruct",), evaluate=evaluate, backbone="tiny-vlm")


def _changed(base: Suite, options: RunOptions) -> Suite:
    """Return a suite with the options of the command line."""
    # Other training tasks replace all tasks of the suite, also those that are only scored.
    tasks = options.tasks or base.tasks
    evaluate = () if options.tasks else base.evaluate
    corruptions = options.corruptions or base.corruptions
    if NONE in corruptions:
        if len(corruptions) > 1:
            raise UserError(f"--corruption {NONE} scores clean items alone: give no other.")
        corruptions = ()
    loader = parse_pairs(options.data_set)
    same = ("budget", "backbone", "limit", "split", "track", "wall")
    changed = replace(
        base,
        entries=(*base.entries, *map(SuiteEntry, options.methods)),
        tasks=tasks,
        corruptions=corruptions,
        evaluate=expand_groups(options.evaluate) or evaluate,
        seeds=parse_seeds(options.seeds) if options.seeds else base.seeds,
        backbone_options={**base.backbone_options, **parse_pairs(options.backbone_set)},
        data_options=dict.fromkeys(tasks, loader) if loader else base.data_options,
        **{name: value for name in same if (value := getattr(options, name))},
    )
    return with_types(changed)
