"""The files of one task's board or profile: figures, a page, CSV, JSON and LaTeX."""

from collections.abc import Sequence

from steelyard.leaderboards import (
    export,
    factors,
    plots,
    profile_plots,
    profile_tables,
    tables,
)
from steelyard.leaderboards.board import Board
from steelyard.leaderboards.escape import file_name
from steelyard.leaderboards.factors import Factorial
from steelyard.leaderboards.profile import Profile


def board_stem(task: str) -> str:
    """File name of a task's board, without ending."""
    return f"board-{file_name(task)}"


def profile_stem(profile: Profile) -> str:
    """File name of a profile, without ending."""
    return f"profile-{file_name(profile.trained_on)}"


def of_board(board: Board, labels: Sequence[str]) -> dict[str, bytes]:
    """A board's files by name; ``labels`` are those of all boards, for equal looks."""
    name = board_stem(board.task)
    figures = {f"{name}-{end}": content for end, content in plots.figures(board, labels)}
    pictures = [file for file in figures if file.endswith(".svg")]
    return figures | {
        f"{name}.md": tables.markdown(board, pictures).encode(),
        f"{name}.csv": export.as_csv(board).encode(),
        f"{name}.json": export.as_json(board).encode(),
        f"{name}.tex": tables.latex(board).encode(),
    }


def of_profile(profile: Profile, designs: Sequence[Factorial]) -> dict[str, bytes]:
    """A profile's files by name, with the factorials among its entries."""
    name = profile_stem(profile)
    figures = {f"{name}-{end}": content for end, content in profile_plots.figures(profile)}
    pictures = [file for file in figures if file.endswith(".svg")]
    made = figures | {
        f"{name}.md": profile_tables.markdown(profile, designs, pictures).encode(),
        f"{name}.csv": profile_tables.as_csv(profile).encode(),
        f"{name}.json": profile_tables.as_json(profile, designs).encode(),
        f"{name}.tex": profile_tables.latex(profile, designs).encode(),
    }
    return made | ({f"{name}-factors.csv": factors.as_csv(designs).encode()} if designs else {})
