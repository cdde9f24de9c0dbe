"""Command pack: many runs in a few Parquet files."""

from pathlib import Path

import click

from steelyard.harness.cli.options import output_folder
from steelyard.harness.core.files import user_path
from steelyard.harness.core.progress import echo, show_progress


@click.command()
@click.argument("runs", type=Path)
@click.option("--out", required=True, type=user_path, callback=output_folder, metavar="DIR",
              help="New folder.")  # fmt: skip
def pack(runs: Path, out: Path) -> None:
    """Write many runs into a few Parquet files.

    The new folder has the records and the scored items of all runs below RUNS, and leaderboard,
    compare and validate read it as they read RUNS. Weights and logs stay behind.

    \b
    Examples:
      steelyard pack runs --out packed
      steelyard leaderboard packed
    """
    from steelyard.leaderboards.loading import pack as packing

    with show_progress() as progress:
        count = packing.pack(runs, out, progress)
    echo(f"{count} runs in {out}")
