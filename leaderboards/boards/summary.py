"""What is published about all tasks together: board, figure, every score, the front page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.leaderboards.boards import export, oracle, plots, profile_tables
from steelyard.leaderboards.boards import front_page as front
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.names import board_stem, profile_stem
from steelyard.leaderboards.boards.overall import Overall, overall
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.output.style import Figures
from steelyard.leaderboards.robustness.files import links


@dataclass(frozen=True, slots=True)
class Summary:
    """All boards and profiles, and what is made of all of them."""

    boards: tuple[Board, ...]
    profiles: tuple[Profile, ...]
    overall: Overall
    files: Mapping[str, bytes]
    """But figures, by name; without the front page, which names the files of all tasks."""
    figures: Figures
    """By stem."""


def build(runs: Runs, made: Sequence[Board | Profile]) -> Summary:
    """The whole of what was made of each task."""
    boards = tuple(each for each in made if isinstance(each, Board))
    profiles = tuple(each for each in made if isinstance(each, Profile))
    combined = overall(boards)
    files = {"scores.csv": runs.scores.to_csv(index=False, float_format="%.10g").encode()}
    if runs.oracle:
        files["oracle.md"] = oracle.markdown(runs.oracle).encode()
        files["oracle.csv"] = oracle.as_csv(runs.oracle).encode()
    figures: Figures = {}
    if boards:
        labels = sorted({run.record.label for run in runs.runs})
        files["overall.json"] = export.as_json(combined).encode()
        figures = plots.critical(combined, labels, boards[0].control)
    return Summary(boards, profiles, combined, files, figures)


def front_page(runs: Runs, whole: Summary, others: Sequence[str]) -> bytes:
    """The front page; ``others`` are the names of the files of single tasks."""
    stems = {board.task: board_stem(board.task) for board in whole.boards}
    drawn = [f"{stem}.svg" for stem in whole.figures]
    shown = {*stems, *(profile.trained_on for profile in whole.profiles)}
    unfinished = [task for task in runs.tasks() if task not in shown]
    page = front.index(whole.overall, whole.boards, stems, unfinished, drawn)
    sections = [profile_tables.index_section(each, profile_stem(each)) for each in whole.profiles]
    return "\n".join([page, *sections, *links(others)]).encode()
