"""Command that estimates runs before they start: plan."""

from dataclasses import fields
from pathlib import Path

import click

from steelyard.harness.cli.options import output_file, pass_options
from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import user_path, write_json
from steelyard.harness.runs import cards
from steelyard.harness.runs.options import RunOptions

OPTIONS = [field.name for field in fields(RunOptions) if field.name not in ("dry_run", "jobs")]


@click.command()
@click.argument("targets", nargs=-1, required=True)
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
    targets: tuple[str, ...], card: str | None, mfu: float, file: Path | None, options: RunOptions
) -> None:
    """Estimate FLOPs, hours, memory and disk of runs, and start none.

    TARGET is what 'steelyard run' takes: a suite or a method by name, or a file. Each method is
    tried for some steps with the model that it would train. Runs that do not fit the card are
    refused.

    \b
    Examples:
      steelyard plan world_vlm --card H100
      steelyard plan sft --backbone tiny-vlm --budget 1e12 --card L40S --mfu 0.2
      steelyard plan mine.py --task food101 --json plan.json
    """
    # Imported here, because it takes torch and help must be fast.
    from steelyard.harness.runs.estimate import as_json, plan_suite

    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: give a fraction above 0 and at most 1.")
    chosen = cards.find(card)
    estimates = [
        estimate
        for target in targets
        for suite in suites_from(target, options)
        for estimate in plan_suite(suite, options, chosen, mfu)
    ]
    if file is not None:
        write_json(file, as_json(estimates, chosen, mfu))
