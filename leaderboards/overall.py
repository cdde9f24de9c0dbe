"""The board over tasks: mean rank and mean win rate of entries complete on every task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.leaderboards import stats
from steelyard.leaderboards.board import Blank, Board


@dataclass(frozen=True, slots=True)
class OverallEntry:
    """One ranked row."""

    label: str
    kind: str
    mean_rank: float
    low: float
    high: float
    """Middle 95 % of mean ranks when seeds and test items are resampled."""
    win_rate: float | None
    """Mean over tasks of the share of other entries beaten, equals half; None when alone."""
    ranks: Mapping[str, float]
    """By task, among the entries that are complete on every task."""


@dataclass(frozen=True, slots=True)
class Overall:
    """All entries of all tasks."""

    tasks: tuple[str, ...]
    entries: tuple[OverallEntry, ...]
    """Entries complete on every task, by mean rank."""
    blanks: tuple[Blank, ...]
    """The others: a missing task is never a vote."""


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
    entries = _ranked(boards, full, kinds) if full else []
    return Overall(tuple(board.task for board in boards), tuple(entries), blanks)


def _ranked(
    boards: Sequence[Board], labels: Sequence[str], kinds: Mapping[str, str]
) -> list[OverallEntry]:
    points, draws = [], []
    for board in boards:
        samples, up = [board.samples[label] for label in labels], board.higher_is_better
        means = np.array([sample.values.mean() for sample in samples])
        points.append(stats.ranks(means, higher_is_better=up))
        draws.append(stats.rank_draws(samples, board.task, higher_is_better=up))
    by_entry = np.stack(points, axis=1).tolist()
    ranges = stats.central(np.mean(draws, axis=0)).tolist()
    entries = []
    for label, ranks, (low, high) in zip(labels, by_entry, ranges, strict=True):
        mean = sum(ranks) / len(ranks)
        others = len(labels) - 1
        by_task = {board.task: rank for board, rank in zip(boards, ranks, strict=True)}
        win_rate = (len(labels) - mean) / others if others else None
        entries.append(OverallEntry(label, kinds[label], mean, low, high, win_rate, by_task))
    return sorted(entries, key=lambda entry: (entry.mean_rank, entry.label))
