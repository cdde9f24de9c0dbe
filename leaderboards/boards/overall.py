"""Build the board over tasks: Borda points and mean win rate of entries complete on every task."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.leaderboards.boards import evidence
from steelyard.leaderboards.boards.board import Blank, Board
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.ranking import CriticalDifference, OverallRank


@dataclass(frozen=True, slots=True)
class OverallEntry:
    label: str
    kind: str
    rank: OverallRank


@dataclass(frozen=True, slots=True)
class Overall:
    """Ranking over all tasks."""

    tasks: tuple[str, ...]
    generated: tuple[str, ...]
    """Tasks of generated data."""
    preliminary: str
    """Why the ranking cannot carry a conclusion; empty if it can."""
    entries: tuple[OverallEntry, ...]
    """Entries complete on every task, by mean rank."""
    blanks: tuple[Blank, ...]
    """Entries that lack a task: a missing task is never a vote."""
    critical: CriticalDifference | None
    """None with too few blocks or entries."""

    @property
    def title(self) -> str:
        """Heading with the mark *preliminary*; the tasks say themselves what is generated."""
        return evidence.titled("All tasks", generated=False, preliminary=self.preliminary)


def overall(boards: Sequence[Board]) -> Overall:
    """Combine the boards of several tasks."""
    ranked = {entry.label: entry.kind for board in boards for entry in board.entries}
    kinds = ranked | {blank.label: blank.kind for board in boards for blank in board.blanks}
    absent = {
        label: [board.task for board in boards if label not in board.samples] for label in kinds
    }
    complete = sorted(label for label in kinds if not absent[label])
    blanks = tuple(
        Blank(label, kinds[label], f"not ranked on {', '.join(absent[label])}")
        for label in sorted(kinds)
        if absent[label]
    )
    task_scores = [board.task_scores for board in boards]
    ranks = ranking.overall_ranks(task_scores, complete) if complete else {}
    return Overall(
        tasks=tuple(board.task for board in boards),
        generated=tuple(board.task for board in boards if board.generated),
        preliminary=evidence.joined({board.task: board.preliminary for board in boards}),
        entries=tuple(OverallEntry(label, kinds[label], rank) for label, rank in ranks.items()),
        blanks=blanks,
        critical=ranking.critical(ranking.block_ranks(task_scores, complete)) if ranks else None,
    )


def absences(overall: Overall) -> list[str]:
    """Return which entries are not ranked, one line per reason."""
    by_reason: dict[str, list[str]] = {}
    for blank in overall.blanks:
        by_reason.setdefault(blank.missing, []).append(blank.label)
    return [f"{', '.join(labels)}: {reason}." for reason, labels in by_reason.items()]
