"""Commands before runs start: plan and prepare."""

import shlex
from dataclasses import fields
from pathlib import Path

import click

from steelyard.harness.cli.options import output_file, pass_options
from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import user_path, write_json
from steelyard.harness.core.progress import echo
from steelyard.harness.models import registry
from steelyard.harness.runs import cards
from steelyard.harness.runs import plan as plans
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import ensure_base_model, open_suite

OPTIONS = [field.name for field in fields(RunOptions) if field.name not in ("dry_run", "jobs")]


@click.command()
@click.argument("targets", nargs=-1, required=True)
@click.option("-o", "--out", type=user_path, callback=output_file, metavar="FILE",
              help="File to write the plan to, for 'steelyard work'.")  # fmt: skip
@click.option("--no-estimate", is_flag=True, help="Write the plan without trying the methods.")
@click.option(
    "--card",
    metavar="NAME",
    help=f"Card to plan for: {', '.join(cards.CARDS)} [default: the GPU at hand, or cpu].",
)
@click.option(
    "--mfu",
    default=cards.UTILISATION,
    show_default=True,
    help="Fraction of the card's peak rate that runs reach.",
)
@click.option("--json", "file", type=user_path, callback=output_file, metavar="FILE",
              help="File to write the estimates to.")  # fmt: skip
@pass_options(RunOptions, *OPTIONS)
def plan(
    targets: tuple[str, ...],
    out: Path | None,
    no_estimate: bool,
    card: str | None,
    mfu: float,
    file: Path | None,
    options: RunOptions,
) -> None:
    """Estimate FLOPs, hours, memory and disk of runs, and start none.

    TARGET is what 'steelyard run' takes: a suite or a method by name, or a file. Each method is
    tried for some steps with the model that it would train. Runs that do not fit the card are
    refused. With -o the runs become a file from which 'steelyard work' takes them, on any number of
    machines.

    \b
    Examples:
      steelyard plan world_vlm --card H100
      steelyard plan world -o plan.json
      steelyard plan sft --backbone tiny-vlm --budget 1e12 --card L40S --mfu 0.2
      steelyard plan mine.py --task food101 --json estimates.json
    """
    # Imported here, because it takes torch and help must be fast.
    from steelyard.harness.runs.estimate import Estimate, as_json, plan_suite

    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: give a fraction above 0 and at most 1.")
    if no_estimate and (file is not None or out is None):
        raise UserError("--no-estimate goes with -o FILE, and without --json.")
    suites = [suite for target in targets for suite in suites_from(target, options)]
    opened = [open_suite(suite, options) for suite in suites]
    chosen = cards.find(None if no_estimate else card)
    parts = [] if no_estimate else [plan_suite(part, options, chosen, mfu) for part in opened]
    if file is not None:
        write_json(file, as_json([run for part in parts for run in part.values()], chosen, mfu))
    if out is not None:
        estimates: dict[str, Estimate] = dict(item for part in parts for item in part.items())
        needs = {
            key: plans.Needs(run.hours, sum(run.memory.values()) / cards.GB)
            for key, run in estimates.items()
        }
        content = plans.make(opened, options, needs, "" if no_estimate else chosen.name)
        content.write(out)
        echo(f"{len(content.cells)} runs in {out}. Next: steelyard work {shlex.quote(str(out))}")


@click.command()
@click.argument("file", type=user_path, metavar="PLAN")
def prepare(file: Path) -> None:
    """Read the data of a plan and fetch its models, before workers start.

    Without it each worker does so: they would wait for one another, or all ask the hub at once.

    \b
    Example:
      steelyard prepare plan.json
    """
    content = plans.read(file)
    plans.enter(content)
    for index, data in enumerate(content.data):
        plans.open_data(content, index)
        ensure_base_model(data.backbone, data.backbone_options)
        registry.fetch(data.backbone, data.backbone_options)
    echo(f"The data and models of {len(content.cells)} runs are ready.")
