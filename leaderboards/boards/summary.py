"""Summarise all tasks: the board over tasks, its figure, every score, the front page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.leaderboards.boards import front_page as front
from steelyard.leaderboards.boards import plots, profile_tables, tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.overall import Overall, overall
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.output.style import Figures


@dataclass(frozen=True, slots=True)
class Summary:
    """Boards and profiles of all tasks, with their common files."""

    boards: tuple[Board, ...]
    profiles: tuple[Profile, ...]
    overall: Overall
    files: Mapping[str, bytes]
    """By name; without figures and without the front page, which links the files of all tasks."""
    figures: Figures
    """By stem."""


def build(runs: Runs, task_boards: Sequence[Board | Profile]) -> Summary:
    """Summarise the boards and profiles of all tasks."""
    boards = tuple(board for board in task_boards if isinstance(board, Board))
    profiles = tuple(board for board in task_boards if isinstance(board, Profile))
    combined = overall(boards)
    files = {"scores.csv": runs.scores.to_csv(index=False, float_format="%.10g").encode()}
    if runs.oracle:
        files |= front.oracle_files(runs.oracle)
    figures: Figures = {}
    if boards:
        labels = sorted({run.record.label for run in runs.runs})
        files["overall.json"] = tables.as_json(combined).encode()
        figures = plots.critical(combined, labels, boards[0].control)
    return Summary(boards, profiles, combined, files, figures)


def front_page(runs: Runs, summary: Summary, sections: Sequence[str]) -> bytes:
    """Write the front page; ``sections`` are appended, such as links to other reports."""
    pictures = [f"{stem}.svg" for stem in summary.figures]
    tasks = {board.task for board in summary.boards}
    tasks |= {profile.trained_on for profile in summary.profiles}
    unfinished = [task for task in runs.tasks() if task not in tasks]
    page = front.index(summary.overall, summary.boards, unfinished, pictures)
    profiles = map(profile_tables.index_section, summary.profiles)
    return "\n".join([page, *profiles, *sections]).encode()
