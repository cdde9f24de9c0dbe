"""Commands about data sets: check, data."""

import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("task")
@click.option(
    "--data-root",
    multiple=True,
    metavar="DIR",
    help="Folder of the data; without it the generated world is checked.",
)
@click.option(
    "--data-set", multiple=True, metavar="KEY=VALUE", help="Loader option, for example plot=first."
)
@click.option(
    "--max-bad",
    default=0.01,
    show_default=True,
    help="Share of unusable rows at which reading is refused.",
)
@click.option("--out", type=Path, help="Folder for the card [default: in the user's cache].")
def check(task: str, **given: Any) -> None:
    """Look a data folder over: what is there, broken, doubled, leaked or solved without images.

    Writes a data card (card.json, card.md). Exit code 1 where a run would refuse the data.

    \b
    Examples:
      steelyard check food101 --data-root ~/food101
      steelyard check hateful_memes --data-root ~/memes --data-set test=unseen --out card
    """
    from steelyard.harness.cli import data as data_commands

    if not data_commands.check_data(task, **given):
        sys.exit(1)


@click.command()
@click.argument("task", required=False)
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    help="A folder of tables (parquet, arrow), an archive, or a data set of the hub.",
)
@click.option("--to", type=Path, help="New folder for the official tree.")
def data(task: str | None, source: str | None, to: Path | None) -> None:
    """Say how to get the data sets, or make a copy of one into the tree that is read.

    Without --from nothing is fetched; with a hub id, that data set is. Nothing is passed on.

    \b
    Examples:
      steelyard data
      steelyard data pope
      steelyard data pope --from lmms-lab-encoder/POPE --to ~/pope
      steelyard data food101 --from ~/Downloads/archive.zip --to ~/food101
    """
    from steelyard.harness.cli import data as data_commands

    if (source is None) != (to is None) or (source and not task):
        raise click.UsageError("a copy is made by: steelyard data TASK --from SOURCE --to DIR")
    if task and source and to:
        data_commands.convert(task, source, to.expanduser())
    elif task:
        data_commands.print_steps(task)
    else:
        data_commands.print_sources()


COMMANDS = (check, data)
