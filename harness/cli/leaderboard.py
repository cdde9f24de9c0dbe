"""From records to boards on disk and on the terminal."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from steelyard import methods
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import console, progress_bar

if TYPE_CHECKING:
    from steelyard.harness.core.progress import Progress
    from steelyard.leaderboards.output.sheet import Sheet


def boards(
    folders: Sequence[Path],
    out: Path,
    control: str | None = None,
    backbone: str | None = None,
    budget: str | None = None,
    track: str | None = None,
    html: bool = False,
    jobs: int | None = None,
) -> None:
    """Write boards from records, of one backbone, budget and track where given, and print them."""
    from steelyard.leaderboards.publish import publish

    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"No folder of runs at {folder}; 'steelyard run demo' makes one.")
    shared: dict[str, Any] = {
        "control": control,
        "kinds": {name: methods.about(name).kind for name in methods.names()},
        "backbone": backbone,
        "jobs": jobs or os.cpu_count() or 1,
    }
    if track == "anytime":
        if budget is not None:
            raise UserError("--track anytime shows every budget: leave out --budget.")
        if html:
            raise UserError("--html shows one budget: leave out --html or --track anytime.")
        _anytime_boards(folders, out, **shared)
        return
    if track == "both":
        _boards_of_both(folders, out, budget=budget, html=html, **shared)
        return
    with progress() as report:
        published = publish(
            folders, out, budget=budget, track=track, html=html, report=report, **shared
        )
    from steelyard.leaderboards.boards import profile_tables
    from steelyard.leaderboards.boards.tables import terminal

    for board in published.boards:
        console.print(terminal(board, console.width))
    for profile in published.profiles:
        console.print(profile_tables.terminal(profile, console.width))
    first = out / ("index.html" if html else "board.md")
    console.print(f"{len(published.files)} files in {out}, begin with {first}")


@contextmanager
def progress() -> "Iterator[Progress]":
    """A bar while boards are made or records checked."""
    with progress_bar() as bar:
        line = bar.add_task("starting", total=1.0)
        yield lambda doing, share: bar.update(line, description=escape(doing), completed=share)


def _anytime_boards(folders: Sequence[Path], out: Path, **options: Any) -> None:
    from steelyard.leaderboards.tracks import anytime

    with progress() as report:
        made = anytime.publish_anytime(folders, out, report=report, **options)
    _print_sheets(made.sheets)
    console.print(f"{len(made.files)} files in {out}, begin with {out / 'anytime.md'}")


def _boards_of_both(folders: Sequence[Path], out: Path, **options: Any) -> None:
    from steelyard.leaderboards.tracks import rank_change

    with progress() as report:
        made = rank_change.publish_tracks(folders, out, report=report, **options)
    _print_sheets(made.sheets)
    for task in made.rank_changes:
        console.print(rank_change.sentence(task), markup=False, highlight=False)
    console.print(f"{len(made.files)} files in {out}, begin with {out / 'rank-change.md'}")


def _print_sheets(sheets: "Sequence[Sheet]") -> None:
    for sheet in sheets:
        shown = Table(title=Text(sheet.title))
        for name in sheet.header:
            shown.add_column(Text(name))
        for row in sheet.rows:
            shown.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        console.print(shown)
