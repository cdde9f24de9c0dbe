"""Commands that read records and write results: leaderboard, compare."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from steelyard import methods
from steelyard.harness.cli import options as shared
from steelyard.harness.cli.options import RUNS
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import console, show_progress
from steelyard.harness.records.budget import TRACKS

if TYPE_CHECKING:
    from steelyard.leaderboards.output.sheet import Sheet

BOARD = Path("board")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardOptions:
    """Options of ``steelyard leaderboard``."""

    out: Path = BOARD
    control: str | None = None
    backbone: str | None = None
    budget: str | None = None
    track: str | None = None
    html: bool = False
    jobs: int | None = None


@click.command()
@click.argument("folders", nargs=-1, type=Path)
@shared.out(BOARD)
@click.option("--control", help="Entry to compute differences to [default: joint, or sft].")
@shared.only_backbone
@shared.only_budget
@click.option("--track", type=click.Choice((*TRACKS, "both")),
              help="Only runs of this track; anytime shows scores over budgets, both how ranks "
              "change from equal data to equal compute.")  # fmt: skip
@click.option("--html", is_flag=True, help="Also index.html: one page that needs no server.")
@shared.jobs()
@shared.pass_options(BoardOptions)
def leaderboard(folders: tuple[Path, ...], options: BoardOptions) -> None:
    """Write tables and plots from records.

    Tables are Markdown, CSV, JSON and LaTeX, plots PNG and SVG. FOLDERS hold runs [default: runs].

    \b
    Examples:
      steelyard leaderboard
      steelyard leaderboard runs other_runs --out board --html
    """
    write_boards(folders or (RUNS,), options)


@click.command()
@click.argument("left")
@click.argument("right")
@click.option("--runs", "folders", multiple=True, type=Path, metavar="DIR",
              help=f"Folder of runs to find entries in [default: {RUNS}].")  # fmt: skip
@click.option("--variant", "variants", multiple=True, default=("clean",), show_default=True,
              help="Variant that both were scored on, or all.")  # fmt: skip
@click.option("--task", help="Only runs trained on this task.")
@shared.only_backbone
@shared.only_budget
def compare(left: str, right: str, folders: tuple[Path, ...], **filters: Any) -> None:
    """Compare two run folders, or two entries of a board.

    Prints the difference paired by seed and item with its interval, and McNemar's exact test.

    \b
    Examples:
      steelyard compare runs/joint-food101-tiny-S-s0-1a2b3c4d runs/mine-food101-tiny-S-s0-5e6f7a8b
      steelyard compare joint mine --runs runs --variant all
    """
    from steelyard.leaderboards.boards import compare as comparison

    comparison.show(left, right, folders or (RUNS,), **filters)


def write_boards(folders: Sequence[Path], options: BoardOptions) -> None:
    """Write the boards of the records in folders and print them."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"No folder of runs at {folder}; 'steelyard run demo' makes one.")
    # Kinds are read without importing the methods, which would import torch.
    common: dict[str, Any] = {
        "control": options.control,
        "kinds": {name: methods.about(name).kind for name in methods.names()},
        "backbone": options.backbone,
        "jobs": options.jobs or os.cpu_count() or 1,
    }
    if options.track == "anytime":
        if options.budget is not None:
            raise UserError("--track anytime shows every budget: leave out --budget.")
        if options.html:
            raise UserError("--html shows one budget: leave out --html or --track anytime.")
        _write_anytime(folders, options.out, **common)
        return
    common |= {"budget": options.budget, "html": options.html}
    if options.track == "both":
        _write_rank_changes(folders, options.out, **common)
        return
    from steelyard.leaderboards.publish import publish

    with show_progress() as progress:
        published = publish(folders, options.out, track=options.track, report=progress, **common)
    from steelyard.leaderboards.boards import profile_tables
    from steelyard.leaderboards.boards.tables import terminal

    for board in published.boards:
        console.print(terminal(board, console.width))
    for profile in published.profiles:
        console.print(profile_tables.terminal(profile, console.width))
    _print_files(published.files, options.out, "index.html" if options.html else "board.md")


def _write_anytime(folders: Sequence[Path], out: Path, **common: Any) -> None:
    from steelyard.leaderboards.tracks import anytime

    with show_progress() as progress:
        published = anytime.publish_anytime(folders, out, report=progress, **common)
    _print_sheets(published.sheets)
    _print_files(published.files, out, "anytime.md")


def _write_rank_changes(folders: Sequence[Path], out: Path, **common: Any) -> None:
    from steelyard.leaderboards.tracks import rank_change

    with show_progress() as progress:
        published = rank_change.publish_tracks(folders, out, report=progress, **common)
    _print_sheets(published.sheets)
    for task in published.rank_changes:
        console.print(rank_change.sentence(task), markup=False, highlight=False)
    _print_files(published.files, out, "rank-change.md")


def _print_files(files: Sequence[Any], out: Path, first: str) -> None:
    console.print(f"{len(files)} files in {out}, begin with {out / first}")


def _print_sheets(sheets: "Sequence[Sheet]") -> None:
    for sheet in sheets:
        table = Table(title=Text(sheet.title))
        for name in sheet.header:
            table.add_column(Text(name))
        for row in sheet.rows:
            table.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        console.print(table)
