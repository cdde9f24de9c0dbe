"""The files of one task's board or profile: a page, CSV, JSON, LaTeX, and what draws figures."""

from collections.abc import Sequence

from steelyard.leaderboards.boards import (
    export,
    factorial,
    plots,
    profile_plots,
    profile_tables,
    tables,
)
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.factorial import Factorial
from steelyard.leaderboards.boards.names import board_stem, profile_stem
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.output.style import Figures


def of_board(board: Board, labels: Sequence[str]) -> tuple[dict[str, bytes], Figures]:
    """A board's files but figures by name, and its figures by stem.

    ``labels`` are those of all boards, for equal looks.
    """
    name = board_stem(board.task)
    figures = {f"{name}-{end}": make for end, make in plots.figures(board, labels).items()}
    pictures = [f"{stem}.svg" for stem in figures]
    pages = {
        f"{name}.md": tables.markdown(board, pictures).encode(),
        f"{name}.csv": export.as_csv(board).encode(),
        f"{name}.json": export.as_json(board).encode(),
        f"{name}.tex": tables.latex(board).encode(),
    }
    return pages, figures


def of_profile(profile: Profile, designs: Sequence[Factorial]) -> tuple[dict[str, bytes], Figures]:
    """A profile's files but figures by name, and its figures by stem.

    ``designs`` are the factorials among its entries.
    """
    name = profile_stem(profile)
    figures = {f"{name}-{end}": make for end, make in profile_plots.figures(profile).items()}
    pictures = [f"{stem}.svg" for stem in figures]
    pages = {
        f"{name}.md": profile_tables.markdown(profile, designs, pictures).encode(),
        f"{name}.csv": profile_tables.as_csv(profile).encode(),
        f"{name}.json": profile_tables.as_json(profile, designs).encode(),
        f"{name}.tex": profile_tables.latex(profile, designs).encode(),
    }
    if designs:
        pages[f"{name}-factors.csv"] = factorial.as_csv(designs).encode()
    return pages, figures
