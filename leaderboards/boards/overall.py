"""The board over tasks: Borda points and mean win rate of entries complete on every task."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.leaderboards.boards.board import Blank, Board
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.ranking import CriticalDifference, OverallRank, TaskScores


@dataclass(frozen=True, slots=True)
class OverallEntry:
    """One ranked row."""

    label: str
    kind: str
    rank: OverallRank


@dataclass(frozen=True, slots=True)
class Overall:
    """All entries of all tasks."""

    tasks: tuple[str, ...]
    entries: tuple[OverallEntry, ...]
    """Entries complete on every task, by mean rank."""
    blanks: tuple[Blank, ...]
    """The others: a missing task is never a vote."""
    critical: CriticalDifference | None
    """None where there are too few blocks or entries to draw a critical difference."""


def overall(boards: Sequence[Board]) -> Overall:
    """Combine the boards of several tasks."""
    ranked = {entry.label: entry.kind for board in boards for entry in board.entries}
    kinds = ranked | {blank.label: blank.kind for board in boards for blank in board.blanks}
    absent = {
        label: [board.task for board in boards if label not in board.samples] for label in kinds
    }
    full = sorted(label for label in kinds if not absent[label])
    blanks = tuple(
        Blank(label, kinds[label], f"not ranked on {', '.join(absent[label])}")
        for label in sorted(kinds)
        if absent[label]
    )
    task_scores = [
        TaskScores(board.task, board.seeds, board.higher_is_better, board.samples)
        for board in boards
    ]
    ranks = ranking.overall_ranks(task_scores, full) if full else {}
    entries = tuple(OverallEntry(label, kinds[label], rank) for label, rank in ranks.items())
    critical = ranking.critical(ranking.block_ranks(task_scores, full)) if full else None
    return Overall(tuple(board.task for board in boards), entries, blanks, critical)


def absences(overall: Overall) -> list[str]:
    """Which entries are not ranked, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for blank in overall.blanks:
        by_reason.setdefault(blank.missing, []).append(blank.label)
    return [f"{', '.join(labels)}: {reason}." for reason, labels in by_reason.items()]
