"""Options that several commands share, each declared once, and their typed collection."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from steelyard.harness.records.budget import TRACKS
from steelyard.harness.runs.suite import RunOptions

RUNS = Path("runs")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])

data_root = click.option(
    "--data-root",
    multiple=True,
    metavar="[TASK=]DIR",
    help="Folder of a task's data [default: generated data].",
)
data_set = click.option(
    "--data-set",
    multiple=True,
    metavar="[TASK.]KEY=VALUE",
    help="Option of a task's loader, for example plot=first or pope.source=gqa.",
)
max_bad = click.option(
    "--max-bad",
    default=0.01,
    show_default=True,
    help="Fraction of unusable rows above which reading fails.",
)
device = click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:1."
)
backbone_set = click.option(
    "--backbone-set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the backbone, for example precision=bf16 or frozen=true.",
)
include_path = click.option(
    "--include-path",
    multiple=True,
    type=Path,
    metavar="DIR",
    help="Folder of your own lmms-eval task files.",
)
seeds = click.option("--seeds", help="Seeds, for example 0,1,2 or 0-4 [default: the suite's].")
budget = click.option(
    "--budget",
    help="Budget of a run: XS, S, M, L, paper, or a number of FLOPs such as 5e12, on the data "
    "track of training items [default: the suite's].",
)
method_file = click.option(
    "--method", type=Path, metavar="FILE.py", help="File of a method that is not in the package."
)
dry_run = click.option("--dry-run", is_flag=True, help="Print the plan and its cost, then stop.")
runs = click.option(
    "--runs",
    type=Path,
    default=RUNS,
    show_default=True,
    help="Folder of runs; finished runs are not repeated.",
)
only_backbone = click.option("--backbone", help="Only runs of this backbone.")
only_budget = click.option("--budget", help="Only runs of this budget.")


def _with_default(
    name: str, kind: type[Any], default: Any, text: str, meaning: str
) -> Callable[[CommandT], CommandT]:
    """Declare an option whose default None has a meaning."""
    text = f"{text}." if default else f"{text} [default: {meaning}]."
    return click.option(name, type=kind, default=default, show_default=bool(default), help=text)


def jobs(default: int | None = None) -> Callable[[CommandT], CommandT]:
    """Declare ``--jobs``."""
    return _with_default(
        "--jobs", int, default, "Number of processes", "one per CPU core, 1 on a GPU"
    )


def limit(default: int | None = None) -> Callable[[CommandT], CommandT]:
    """Declare ``--limit``."""
    return _with_default("--limit", int, default, "Number of items to evaluate on per task", "all")


def out(default: Path | None, meaning: str = "") -> Callable[[CommandT], CommandT]:
    """Declare ``--out``."""
    return _with_default("--out", Path, default, "Output folder", meaning)


def pass_options(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Pass those options of a command that are fields of a dataclass as one ``options``."""
    names = [field.name for field in fields(kind)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def call(**values: Any) -> None:
            options = kind(**{name: values.pop(name) for name in names if name in values})
            command(options=options, **values)

        return call

    return decorate


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Declare the options of the commands that train and pass them as ``RunOptions``."""
    declared = (
        click.option("--task", "tasks", multiple=True, help="Task to train and evaluate on."),
        click.option("--evaluate", multiple=True,
                     help="Further task to score a vision-language model on."),
        click.option("--corruption", "corruptions", multiple=True,
                     help="Corruption to score on, for example image-noise:1-5."),
        seeds,
        budget,
        click.option("--track", type=click.Choice(TRACKS),
                     help="What is equal for all methods: compute [default] or data; anytime runs "
                     "a quarter, a half and all of the compute budget."),
        click.option("--wall", type=float, metavar="SECONDS",
                     help="Cap on device seconds, whichever limit is reached first."),
        click.option("--tuned", multiple=True, type=Path, metavar="FILE",
                     help="Also run the settings chosen in this file of 'steelyard tune'."),
        click.option("--oracle", is_flag=True,
                     help="With --tuned, also the settings that test items choose; never ranked."),
        click.option("--backbone", help="Preset, IMAGE+TEXT encoders, or a model's id or path."),
        backbone_set,
        click.option("--set", "method_set", multiple=True, metavar="KEY=VALUE",
                     help="Option of the method; only with a single method."),
        click.option("--method", "methods", multiple=True, metavar="NAME|FILE.py",
                     help="Method to add to the suite, also from a file of your own."),
        include_path,
        data_root,
        data_set,
        max_bad,
        limit(),
        click.option("--split", help="Split to score [default: test]; val to choose settings."),
        runs,
        jobs(),
        device,
        dry_run,
    )  # fmt: skip
    command = pass_options(RunOptions)(command)
    # A decorator puts its option before those of the decorators below it.
    for option in reversed(declared):
        command = option(command)
    return command
