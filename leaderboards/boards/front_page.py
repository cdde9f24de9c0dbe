"""The front page of several boards: all tasks together, then each task's ranking and files."""

from collections.abc import Mapping, Sequence

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.overall import Overall, absences
from steelyard.leaderboards.boards.tables import (
    FORMATS,
    RULES,
    blank_row,
    caption,
    name_of,
    ranking,
    remarks,
)
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
from steelyard.leaderboards.stats.intervals import Interval
from steelyard.leaderboards.stats.ranking import FEWEST_BLOCKS, OverallRank

OVERALL_RULE = (
    "Ranks are among the entries complete on every task, by balanced score. Borda counts the "
    "entries beaten on each task, equals half, and orders as the mean rank does; the range is the "
    "middle 95 % of mean ranks when seeds and test items are resampled. The win rate is the share "
    "of the others beaten seed by seed, with its 95 % interval; entries that share a letter under "
    "ties are not told apart by it after Holm's correction over all pairs."
)


NO_DIAGRAM = (
    "No critical-difference diagram: it takes three entries complete on every task and "
    f"{FEWEST_BLOCKS} blocks, a block being one seed on one task."
)


def overall_sheet(overall: Overall) -> Sheet:
    """Borda points, mean rank and mean win rate over tasks."""
    header = ("#", "entry", "ties", "Borda", "mean rank", "range", "win rate", *overall.tasks)
    rows = []
    for number, entry in enumerate(overall.entries, start=1):
        texts = [str(number), name_of(entry.label, entry.kind), *placed(entry.rank)]
        texts += [f"{entry.rank.ranks[task]:g}" for task in overall.tasks]
        rows.append(tuple(map(Cell, texts)))
    blanks = [blank_row(blank.label, blank.kind, len(header)) for blank in overall.blanks]
    return Sheet("All tasks", header, (*rows, *blanks))


def placed(place: OverallRank) -> tuple[str, ...]:
    """Letters, Borda points, mean rank with its range, and win rate, as text."""
    span = f"{place.low:.3g}-{place.high:.3g}"
    return "".join(place.ties), f"{place.borda:g}", f"{place.mean_rank:.2f}", span, won(place.wins)


def won(rate: Interval | None) -> str:
    """A win rate with the part of its interval that win rates can have; empty for none."""
    if rate is None:
        return ""
    low, high = max(100 * rate.low, 0.0), min(100 * rate.high, 100.0)
    return f"{100 * rate.mean:.0f}% ({low:.0f}-{high:.0f})"


def index(
    overall: Overall,
    boards: Sequence[Board],
    files: Mapping[str, str],
    unfinished: Sequence[str],
    pictures: Sequence[str] = (),
) -> str:
    """The front page: the board over tasks, then each task's ranking and its files.

    Args:
        overall: the board over tasks, shown where there are two or more.
        boards: those of single tasks.
        files: by task, the name of its files without ending.
        unfinished: tasks without a finished run.
        pictures: files of figures about all tasks.
    """
    parts = ["# Leaderboards"]
    if len(boards) > 1:
        parts += ["## All tasks\n\n" + sheet_markdown(overall_sheet(overall)), md(OVERALL_RULE)]
        parts += [f"- {md(line)}" for line in absences(overall)]
    parts += [f"![{name.rpartition('.')[0]}]({name})" for name in pictures]
    parts += [md(NO_DIAGRAM)] if boards and overall.critical is None else []
    for board in boards:
        name = files[board.task]
        links = [f"[{kind}]({name}.{end})" for kind, end in FORMATS]
        parts.append(f"## {md(board.task)}\n\n{md(caption(board))}")
        parts += [sheet_markdown(ranking(board)), " · ".join(links)]
        parts += bullets("", remarks(board))
    parts += [f"No board for {md(task)}: none of its runs finished." for task in unfinished]
    parts += bullets("## How to read this\n\n", RULES if boards else ())
    return "\n\n".join(parts) + "\n"
