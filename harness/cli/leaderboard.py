"""Commands that read records and write results: leaderboard, compare."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from steelyard import methods
from steelyard.harness.cli.options import pass_options
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import user_path
from steelyard.harness.core.options import Help
from steelyard.harness.core.progress import console, echo, show_progress
from steelyard.harness.runs.options import JOBS, OUT, RUNS

if TYPE_CHECKING:
    from steelyard.leaderboards.output.sheet import Sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardOptions:
    """Options of ``steelyard leaderboard``."""

    out: Annotated[Path, OUT] = Path("board")
    control: Annotated[str | None, Help("Entry to compute differences to", "joint, or sft")] = None
    backbone: Annotated[str | None, Help("Only runs of this backbone")] = None
    budget: Annotated[str | None, Help("Only runs of this budget")] = None
    track: Annotated[
        Literal["compute", "data", "anytime", "both"] | None,
        Help("Only runs of this track; anytime shows scores over budgets, both how ranks change "
             "from equal data to equal compute"),
    ] = None  # fmt: skip
    html: Annotated[bool, Help("Also index.html: one page that needs no server")] = False
    jobs: Annotated[int | None, JOBS] = None


@click.command()
@click.argument("folders", nargs=-1, type=Path)
@pass_options(BoardOptions)
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
@click.option("--runs", "folders", multiple=True, type=user_path, metavar="DIR",
              help=f"Folder of runs to find entries in [default: {RUNS}].")  # fmt: skip
@click.option("--variant", "variants", multiple=True, default=("clean",), show_default=True,
              help="Variant that both were scored on, or all.")  # fmt: skip
@click.option("--task", help="Only runs trained on this task.")
@pass_options(BoardOptions, "backbone", "budget")
def compare(
    left: str,
    right: str,
    folders: tuple[Path, ...],
    variants: tuple[str, ...],
    task: str | None,
    options: BoardOptions,
) -> None:
    """Compare two run folders, or two entries of a board.

    Prints the difference paired by seed and item with its interval, and McNemar's exact test.

    \b
    Examples:
      steelyard compare runs/joint-food101-tiny-S-s0-1a2b3c4d runs/mine-food101-tiny-S-s0-5e6f7a8b
      steelyard compare joint mine --runs runs --variant all
    """
    from steelyard.leaderboards.boards import compare as comparison

    pairs = comparison.paired_runs(
        left, right, folders or (RUNS,), task, options.backbone, options.budget
    )
    comparisons = comparison.compare(pairs, variants)
    console.print(comparison.terminal(left, right, comparisons, console.width))


def write_boards(folders: Sequence[Path], options: BoardOptions) -> None:
    """Write the boards of the records in folders and print them."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"No folder of runs at {folder}; 'steelyard run demo' makes one.")
    if options.track == "anytime" and options.budget is not None:
        raise UserError("--track anytime shows every budget: leave out --budget.")
    if options.track == "anytime" and options.html:
        raise UserError("--html shows one budget: leave out --html or --track anytime.")
    # Kinds are read without importing the methods, which would import torch.
    common: dict[str, Any] = {
        "control": options.control,
        "kinds": {name: methods.about(name).kind for name in methods.names()},
        "backbone": options.backbone,
        "jobs": options.jobs or os.cpu_count() or 1,
    }
    out = options.out
    if options.track == "anytime":
        from steelyard.leaderboards.tracks import anytime

        with show_progress() as progress:
            curves = anytime.publish_anytime(folders, out, report=progress, **common)
        _print_sheets(curves.sheets)
        files, first = curves.files, "anytime.md"
    elif options.track == "both":
        from steelyard.leaderboards.tracks import rank_change

        common |= {"budget": options.budget, "html": options.html}
        with show_progress() as progress:
            changes = rank_change.publish_tracks(folders, out, report=progress, **common)
        _print_sheets(changes.sheets)
        for task in changes.rank_changes:
            console.print(rank_change.sentence(task))
        files, first = changes.files, "rank-change.md"
    else:
        from steelyard.leaderboards.boards import tables
        from steelyard.leaderboards.publish import publish

        common |= {"budget": options.budget, "html": options.html, "track": options.track}
        with show_progress() as progress:
            published = publish(folders, out, report=progress, **common)
        for board in published.boards:
            console.print(tables.terminal(board, console.width))
        files, first = published.files, "index.html" if options.html else "board.md"
    echo(f"{len(files)} files in {out}, begin with {out / first}")


def _print_sheets(sheets: "Sequence[Sheet]") -> None:
    from steelyard.leaderboards.output.sheet import terminal_tables

    for sheet in sheets:
        console.print(*terminal_tables(sheet, console.width))
