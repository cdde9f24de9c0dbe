"""From records to boards on disk and on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from steelyard import methods
from steelyard.harness.commands import console
from steelyard.harness.errors import UserError


def boards(
    folders: Sequence[Path],
    out: Path,
    control: str | None = None,
    backbone: str | None = None,
    budget: str | None = None,
    track: str | None = None,
) -> None:
    """Write boards from records, of one backbone, budget and track where given, and print them."""
    from steelyard.leaderboards import profile_tables, publish
    from steelyard.leaderboards.tables import terminal

    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"No folder of runs at {folder}; 'steelyard run demo' makes one.")
    kinds = {name: methods.load(name).ABOUT.kind for name in methods.names()}
    if track == "anytime":
        if budget is not None:
            raise UserError("--track anytime shows every budget: leave out --budget.")
        _anytime_boards(folders, out, control=control, kinds=kinds, backbone=backbone)
        return
    with console.status("making boards"):
        published = publish(
            folders, out, control=control, kinds=kinds, backbone=backbone, budget=budget,
            track=track,
        )  # fmt: skip
    for board in published.boards:
        console.print(terminal(board, console.width))
    for profile in published.profiles:
        console.print(profile_tables.terminal(profile, console.width))
    console.print(f"{len(published.files)} files in {out}, begin with {out / 'board.md'}")


def _anytime_boards(folders: Sequence[Path], out: Path, **options: Any) -> None:
    from steelyard.leaderboards import anytime

    with console.status("making the boards of every budget"):
        made = anytime.publish_anytime(folders, out, **options)
    for sheet in made.sheets:
        shown = Table(*sheet.header, title=sheet.title)
        for row in sheet.rows:
            shown.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        console.print(shown)
    console.print(f"{len(made.files)} files in {out}, begin with {out / 'anytime.md'}")
