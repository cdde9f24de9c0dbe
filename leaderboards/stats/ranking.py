"""Rank entries: mean ranks, wins, Borda points, statistical ties, critical difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import fdtrc, ndtr

from steelyard.harness.core.seeds import seed_for
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import (
    CONFIDENCE,
    SIGNIFICANT,
    Floats,
    Interval,
    Sample,
    averaged,
)

FEWEST_BLOCKS = 10
"""Blocks that Friedman's and Nemenyi's tests need at least (Demšar, JMLR 2006)."""


def bootstrap(samples: Sequence[Sample], *names: object) -> Floats:
    """Return means of E entries when seeds, then clusters of items are resampled: [E, R].

    All entries share the draws. Resampling S seeds gives only (S - 1) / S of their variance, so
    their weights are stretched by sqrt(S / (S - 1)).
    """
    seeds, draws = samples[0].draws.shape
    # A stream of its own: which seeds are drawn is independent of which items are.
    generator = np.random.default_rng(seed_for("seeds", *names))
    even = 1 / seeds
    weights = generator.multinomial(seeds, np.full(seeds, even), size=draws).T / seeds
    if seeds > 1:
        weights = even + (weights - even) * math.sqrt(seeds / (seeds - 1))
    return np.stack([(weights * sample.draws).sum(axis=0) for sample in samples])


def ranks(scores: Floats, *, higher_is_better: bool) -> Floats:
    """Return the rank of each entry along the first axis; 1 is best, ties share the mean rank.

    All are NaN if any is: ranks among some entries are not comparable with ranks among all.
    """
    flat = scores.reshape(len(scores), -1)
    # pandas ranks every column at once and keeps NaN.
    ranked = pd.DataFrame(-flat if higher_is_better else flat).rank().to_numpy()
    complete = ~np.isnan(flat).any(axis=0)
    return np.where(complete, ranked, np.nan).reshape(scores.shape)


def central(draws: Floats, point: Floats) -> Floats:
    """Return the middle 95 % along the last axis, extended to include ``point``: [..., 2].

    Resampling adds noise to noisy data and so pulls ranks towards the middle.
    """
    tail = SIGNIFICANT / 2
    # Ends are drawn ranks: a value between two of them is no rank.
    low, high = np.nanquantile(draws, (tail, 1 - tail), axis=-1, method="inverted_cdf")
    return np.stack([np.fmin(low, point), np.fmax(high, point)], axis=-1)


def wins(samples: Sequence[Sample], *, higher_is_better: bool) -> list[Sample]:
    """Return the win rate of each entry by seed: the fraction of the others it beats, ties half.

    Needs two entries. Samples of several tasks can be averaged, since their seeds are paired.
    """

    def rates(scores: Floats) -> Floats:
        # Rank r leaves E - r behind it; the mean rank of ties counts each as half.
        return (len(scores) - ranks(scores, higher_is_better=higher_is_better)) / (len(scores) - 1)

    values = rates(np.stack([sample.values for sample in samples]))
    draws = rates(np.stack([sample.draws for sample in samples]))
    clusters = [sample.clusters for sample in samples]
    return [Sample(*parts, rate=True) for parts in zip(values, draws, clusters, strict=True)]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Scores of all entries on one task, by label and over its seeds."""

    task: str
    seeds: tuple[int, ...]
    higher_is_better: bool
    samples: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class OverallRank:
    """Rank of an entry over several tasks, each with one vote."""

    ranks: Mapping[str, float]
    """By task, from the means over seeds."""
    mean_rank: float
    low: float
    high: float
    """Middle 95 % of mean ranks when seeds and test items are resampled."""
    first: float
    last: float
    """Middle 95 % of the final ranks that these mean ranks give."""
    borda: float
    """Entries beaten, summed over tasks, ties half; orders as the mean rank does."""
    wins: Interval | None
    """Fraction of the other entries beaten, by seed, mean over tasks; None for a single entry or if
    the tasks share no seed."""
    ties: tuple[str, ...]
    """Letters; entries that share one do not differ in ``wins`` after Holm's correction. Empty for
    one task, whose score tells more."""


def overall_ranks(
    task_scores: Sequence[TaskScores], labels: Sequence[str]
) -> dict[str, OverallRank]:
    """Rank the entries that are complete on every task; best mean rank first."""
    rows = [[task.samples[label] for label in labels] for task in task_scores]
    points, draws = [], []
    for task, samples in zip(task_scores, rows, strict=True):
        up, means = task.higher_is_better, np.array([sample.values.mean() for sample in samples])
        points.append(ranks(means, higher_is_better=up))
        # Drawn by task: training on one task is independent of training on another.
        draws.append(ranks(bootstrap(samples, task.task), higher_is_better=up))
    by_entry = np.stack(points, axis=1)
    mean = np.asarray(by_entry.mean(axis=1), dtype=np.float64)
    mean_draws = np.asarray(np.mean(draws, axis=0), dtype=np.float64)
    ranges = central(mean_draws, mean)
    order = sorted(range(len(labels)), key=lambda entry: (mean[entry], labels[entry]))
    # Sorting a permutation inverts it: the final rank of each entry.
    final = np.asarray(1.0 + np.argsort(order), dtype=np.float64)
    # A low mean rank is good.
    spans = central(ranks(mean_draws, higher_is_better=False), final)
    win_rates = _mean_wins(task_scores, [labels[entry] for entry in order])
    rates: list[Interval | None] = [None] * len(order)
    if win_rates:
        rates = [*intervals.intervals(win_rates)]
    letters = ties(win_rates) if win_rates and len(rows) > 1 else [()] * len(order)
    tasks = [task.task for task in task_scores]
    return {
        labels[entry]: OverallRank(
            ranks=dict(zip(tasks, by_entry[entry].tolist(), strict=True)),
            mean_rank=float(mean[entry]),
            low=float(ranges[entry, 0]),
            high=float(ranges[entry, 1]),
            first=float(spans[entry, 0]),
            last=float(spans[entry, 1]),
            borda=float((len(labels) - by_entry[entry]).sum()),
            wins=rate,
            ties=letter,
        )
        for entry, rate, letter in zip(order, rates, letters, strict=True)
    }


def _mean_wins(task_scores: Sequence[TaskScores], labels: Sequence[str]) -> list[Sample]:
    """Return mean win rates over tasks on their common seeds; empty without opponents or seeds."""
    common = set.intersection(*(set(task.seeds) for task in task_scores))
    if len(labels) < 2 or not common:
        return []
    by_task = []
    for task in task_scores:
        # Win rates are averaged by seed, so every task needs the same ones.
        rows = [index for index, seed in enumerate(task.seeds) if seed in common]
        entries = (task.samples[label] for label in labels)
        samples = [Sample(e.values[rows], e.draws[rows], e.clusters) for e in entries]
        by_task.append(wins(samples, higher_is_better=task.higher_is_better))
    return [averaged(parts) for parts in zip(*by_task, strict=True)]


def block_ranks(task_scores: Sequence[TaskScores], labels: Sequence[str]) -> dict[str, Floats]:
    """Return ranks by label in every block [N]; a block is one seed on one task."""
    parts = []
    for task in task_scores:
        scores = np.stack([task.samples[label].values for label in labels])
        parts.append(ranks(scores, higher_is_better=task.higher_is_better))
    return dict(zip(labels, np.concatenate(parts, axis=1), strict=True))


def ties(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Return tie letters of E entries in rank order: tests at 5 %, Holm over all pairs."""
    p = intervals.pair_p_values(samples)
    rows, columns = np.triu_indices(len(samples), 1)
    apart = np.zeros(p.shape, dtype=np.bool_)
    apart[rows, columns] = intervals.holm_adjusted(p[rows, columns]) < SIGNIFICANT
    return tie_letters(apart | apart.T)


def tie_letters(apart: NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """Return tie letters of E entries in rank order: two share a letter unless they differ.

    Each letter is a maximal set of entries without any difference inside, so ``ab`` is tied with
    ``a`` and with ``b``, which may differ.

    Args:
        apart: [E, E] whether two entries differ significantly, symmetric.
    """
    groups: list[list[int]] = []
    # Pairs that differ count as covered: no letter may join them.
    covered = apart.copy()
    # One set per uncovered pair: the number of all maximal sets can grow exponentially.
    for first, second in np.argwhere(np.triu(~apart)).tolist():
        if covered[first, second]:
            continue
        group = sorted({first, second})
        fitting = np.asarray(~apart[group].any(axis=0))
        fitting[group] = False
        for candidate in np.flatnonzero(fitting).tolist():
            if fitting[candidate]:
                group.append(candidate)
                fitting &= ~apart[candidate]
        covered[np.ix_(group, group)] = True
        groups.append(sorted(group))
    letters: list[tuple[str, ...]] = [()] * len(apart)
    # Sorted by first member: the best entry has an a.
    for index, members in enumerate(sorted(groups)):
        turn, letter = divmod(index, 26)  # a to z, then a2 to z2 and so on
        for entry in members:
            letters[entry] += (chr(ord("a") + letter) + (str(turn + 1) if turn else ""),)
    return letters


@dataclass(frozen=True, slots=True)
class RankChange:
    label: str
    before: int
    before_range: tuple[float, float]
    after: int
    after_range: tuple[float, float]
    verdict: str
    """``up`` or ``down`` where the two ranges do not touch, else empty."""


def changes(
    before: Mapping[str, OverallRank], after: Mapping[str, OverallRank]
) -> list[RankChange]:
    """Return rank changes between two rankings of the same entries, in the order of the second."""
    first = {label: rank for rank, label in enumerate(before, start=1)}
    result = []
    for rank, (label, new) in enumerate(after.items(), start=1):
        old = before[label]
        # Stricter than a test: ranges may touch although the ranks differ.
        verdict = "up" if new.last < old.first else "down" if new.first > old.last else ""
        ranges = (old.first, old.last), (new.first, new.last)
        result.append(RankChange(label, first[label], ranges[0], rank, ranges[1], verdict))
    return result


@dataclass(frozen=True, slots=True)
class CriticalDifference:
    """Friedman's test over blocks and Nemenyi's critical difference of mean ranks."""

    blocks: int
    p: float
    """Of Friedman's test by Iman and Davenport's F; small if some entries differ."""
    difference: float
    """Mean ranks further apart differ at 5 %, corrected for all pairs."""
    mean_ranks: Mapping[str, float]
    """By entry, best first."""


def critical(block_ranks: Mapping[str, Floats]) -> CriticalDifference | None:
    """Return the critical difference of entries by their ranks [N] in N blocks.

    None with fewer than ``FEWEST_BLOCKS`` blocks or three entries.
    """
    table = np.stack(list(block_ranks.values())) if block_ranks else np.zeros((0, 0))
    entries, blocks = table.shape
    if entries < 3 or blocks < FEWEST_BLOCKS:
        return None
    means = table.mean(axis=1)
    middle, p = (entries + 1) / 2, 1.0  # if all entries are equal in every block
    if (table != table[:1]).any():
        # Of the ranks themselves, which corrects for ties; without any it is E (E + 1) / 12.
        variance = ((table - middle) ** 2).sum() / (blocks * (entries - 1))
        chi = float(blocks * ((means - middle) ** 2).sum() / variance)
        freedom, room = entries - 1, blocks * (entries - 1) - chi
        # The F of Iman and Davenport: Friedman's chi-square finds too few differences.
        value = (blocks - 1) * chi / room if room > 0 else math.inf
        p = float(fdtrc(freedom, freedom * (blocks - 1), value))
    # Demšar has 6 for 12, since his quantile is that of the range divided by sqrt(2).
    difference = _range_quantile(entries) * math.sqrt(entries * (entries + 1) / (12 * blocks))
    ordered = sorted(zip(block_ranks, means.tolist(), strict=True), key=lambda pair: pair[::-1])
    return CriticalDifference(blocks, p, difference, dict(ordered))


def _range_quantile(count: int) -> float:
    """Return the 95 % quantile of the range of ``count`` standard normal values.

    ``scipy.stats.studentized_range`` gives the same, but takes a second to import.
    """
    # Beyond 9 deviations the density is below the precision of a double.
    lowest, step = np.linspace(-9, 9, 721, retstep=True)
    density = np.exp(-(lowest**2) / 2) / math.sqrt(2 * math.pi) * step

    def excess(width: float) -> float:
        # All others are at most ``width`` above the lowest.
        others = (ndtr(lowest + width) - ndtr(lowest)) ** (count - 1)
        return float((count * density * others).sum()) - CONFIDENCE

    return float(brentq(excess, 0, 20, xtol=1e-13))
