"""Command validate: check records."""

import sys
from pathlib import Path

import click

from steelyard.harness.core.files import user_path
from steelyard.harness.core.progress import echo, show_progress
from steelyard.harness.runs.options import METHOD_FILE


@click.command()
@click.argument("path", type=Path)
@click.option("--method", type=user_path, metavar=METHOD_FILE.metavar, help=f"{METHOD_FILE.text}.")
@click.option("--against", type=user_path, metavar="DIR",
              help="Published records that the same runs must agree with.")  # fmt: skip
def validate(path: Path, method: Path | None, against: Path | None) -> None:
    """Check records: hashes, scores, ledgers, seeds, tuning.

    Checks all records under PATH and computes their scores again from their items. Prints one line
    per finding; exit code 1 if there is any.

    \b
    Examples:
      steelyard validate runs
      steelyard validate submission/records --method submission/mine.py \\
          --against leaderboards/records
    """
    from steelyard.leaderboards import validate as validation

    with show_progress() as progress:
        report = validation.validate(path, report=progress, method=method, against=against)
    for finding in report.findings:
        echo(str(finding))
    echo(f"{len(report.runs)} records checked, {len(report.findings)} findings")
    if report.without_checksum:
        echo(f"{report.without_checksum} of them have schema 1, which had no checksum")
    if report.unchecked:
        echo(f"scores not computed again, no items: {', '.join(report.unchecked)}")
    if report.findings:
        sys.exit(1)
