"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

from steelyard.harness.records.budget import TRACKS

RUNS = Path("runs")


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options shared by the commands that train."""
    for option in reversed(
        (
            click.option("--task", "tasks", multiple=True, help="Task to train and evaluate on."),
            click.option("--evaluate", multiple=True,
                         help="Further task to score a vision-language model on."),
            click.option("--corruption", "corruptions", multiple=True,
                         help="For example image-noise:1-5; may be repeated."),
            click.option("--seeds", help="For example 0,1,2 or 0-4."),
            click.option("--budget", help="XS, S, M, L, paper, or a number: of FLOPs such as "
                         "5e12, or of training items on the data track."),
            click.option("--track", type=click.Choice(TRACKS),
                         help="What is equal for all: compute [default] or data; anytime runs a "
                         "quarter, a half and the whole of the budget."),
            click.option("--wall", type=float, metavar="SECONDS",
                         help="Cap on device seconds too, whichever comes first."),
            click.option("--tuned", multiple=True, type=Path, metavar="FILE",
                         help="Run chosen settings beside the others; 'steelyard tune' writes it."),
            click.option("--oracle", is_flag=True,
                         help="With --tuned, also what test items would choose; never ranked."),
            click.option("--backbone",
                         help="A preset, IMAGE+TEXT encoders, or a model by hub id or path."),
            click.option("--backbone-set", multiple=True, metavar="KEY=VALUE",
                         help="Backbone option, for example frozen=true."),
            click.option("--set", "sets", multiple=True, metavar="KEY=VALUE",
                         help="Method option; only with a single method."),
            click.option("--method", "extra", multiple=True, metavar="NAME|FILE.py",
                         help="Add a method, also one of your own from a file."),
            click.option("--include-path", multiple=True, type=Path, metavar="DIR",
                         help="Folder of your own lmms-eval task files, for --evaluate."),
            click.option("--data-root", multiple=True, metavar="[TASK=]DIR",
                         help="Folder of a task's data; without it a world is generated."),
            click.option("--data-set", multiple=True, metavar="KEY=VALUE",
                         help="Loader option, for example plot=first."),
            click.option("--max-bad", default=0.01, show_default=True,
                         help="Share of unusable rows at which reading is refused."),
            click.option("--limit", type=int, help="Evaluate this many items a task."),
            click.option("--split", help="Items to score [default: test]; val to choose settings."),
            click.option("--runs", type=Path, default=RUNS, show_default=True,
                         help="Folder of runs; finished ones are not run again."),
            click.option("--jobs", type=int, help="Runs at a time [default: CPU cores; 1 on GPU]."),
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1."),
            click.option("--dry-run", is_flag=True, help="Print the plan and its cost, then stop."),
        )
    ):  # fmt: skip
        command = option(command)
    return command
