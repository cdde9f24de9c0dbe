"""Commands about results rather than runs: tune, validate, reproduce."""

import sys
from pathlib import Path
from typing import Any

import click

from steelyard.harness.cli.options import run_options

REPRODUCED = Path("reproduced")


@click.command()
@click.argument("target")
@click.option("--trials", default=8, show_default=True, help="An entry, its own settings included.")
@click.option(
    "--rule",
    default="best-composite",
    show_default=True,
    help="How validation items choose: best-composite, best-main or best-balanced.",
)
@click.option("--seed", default=0, show_default=True, help="Names the draw of the trials.")
@run_options
def tune(target: str, runs: Path, trials: int, rule: str, seed: int, **given: Any) -> None:
    """Try settings of every entry of a suite, or of one method, and choose by validation items.

    Trial 0 is the entry as it stands; the others draw from the ranges in its method's file and
    from one range of learning rates for all. --oracle scores the trials on test items too.

    \b
    Examples:
      steelyard tune world_vlm
      steelyard tune mine.py --task food101 --trials 4 --budget XS
      steelyard run world_vlm --tuned runs/tuning-world_vlm-S/tuning.json
    """
    from steelyard.harness.cli import tune as command
    from steelyard.harness.runs.tuning import Plan

    plan = Plan(trials, rule, seed, given["oracle"])
    for file in command.tune(target, runs, plan, given):
        click.echo(f"Next: steelyard run {target} --tuned {file}")


@click.command()
@click.argument("path", type=Path)
@click.option("--method", type=Path, metavar="FILE.py", help="The submitted method's file.")
@click.option("--against", type=Path, metavar="DIR",
              help="Published records that the same runs must agree with.")  # fmt: skip
def validate(path: Path, **given: Any) -> None:
    """Check records under PATH: hashes, scores from items, ledgers, seeds, names, tuning.

    One line a finding; exit code 1 where there is any.

    \b
    Examples:
      steelyard validate runs
      steelyard validate submission/records --method submission/mine.py \\
          --against leaderboards/records
    """
    from steelyard.harness.cli.leaderboard import progress
    from steelyard.leaderboards.validate.record import validate as check

    with progress() as report:
        found = check(path, report=report, **given)
    for finding in found.findings:
        click.echo(str(finding))
    click.echo(f"{len(found.runs)} records checked, {len(found.findings)} findings")
    if found.unsealed:
        click.echo(f"{found.unsealed} of them are of schema 1, which had no checksum")
    if found.unchecked:
        click.echo(f"not computed again for want of items: {', '.join(found.unchecked)}")
    if found.findings:
        sys.exit(1)


@click.command()
@click.argument("folder", type=Path)
@click.option(
    "--tolerance", default=0.0, show_default=True, help="How far a score in [0, 1] may be off."
)
@click.option(
    "--out", type=Path, default=REPRODUCED, show_default=True, help="Folder of the new run."
)
@click.option("--method", type=Path, metavar="FILE.py", help="Where a user's method lies now.")
@click.option("--data-root", multiple=True, metavar="[TASK=]DIR", help="Folder of a task's data.")
@click.option("--data-set", multiple=True, metavar="[TASK.]KEY=VALUE", help="Loader option.")
@click.option("--max-bad", default=0.01, show_default=True, help="Share of unusable rows allowed.")
@click.option("--device", default="auto", show_default=True)  # fmt: skip
def reproduce(folder: Path, out: Path, tolerance: float, **given: Any) -> None:
    """Run the record in FOLDER again and compare scores, weights and costs.

    Names what differs here: code, packages, device. Exit code 1 where a score does not hold.

    \b
    Example:
      steelyard reproduce leaderboards/records/world/joint-food101-tiny-S-s0-ad309750
    """
    from steelyard.harness.cli import reproduce as command

    if not command.reproduce(folder, out, tolerance, given):
        sys.exit(1)


COMMANDS = (tune, validate, reproduce)
