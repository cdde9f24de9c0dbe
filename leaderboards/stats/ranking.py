"""Places of entries: ranks, wins and Borda points, statistical ties, the critical difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import fdtrc

from steelyard.harness.core.seeds import seed_for
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import CONFIDENCE, SIGNIFICANT, Floats, Interval, Sample

FEWEST_BLOCKS = 10
"""Blocks below which Friedman's and Nemenyi's tests are not to be trusted (Demšar, JMLR 2006)."""


def bootstrap(samples: Sequence[Sample], *names: object) -> Floats:
    """Means of E entries when seeds are resampled, then clusters of items: [E, R].

    Seeds and items are drawn alike for all entries. Resampling S seeds gives only (S - 1) / S of
    their variance, so their weights are stretched to give all of it.
    """
    seeds, draws = samples[0].draws.shape
    generator = np.random.default_rng(seed_for("seeds", *names))
    even = 1 / seeds
    shares = generator.multinomial(seeds, np.full(seeds, even), size=draws).T / seeds
    if seeds > 1:
        shares = even + (shares - even) * math.sqrt(seeds / (seeds - 1))
    return np.stack([(shares * sample.draws).sum(axis=0) for sample in samples])


def ranks(scores: Floats, *, higher_is_better: bool) -> Floats:
    """Rank of each entry, 1 the best and equals sharing their mean: [E] or [E, ...] as given.

    NaN for all where one of them is NaN: a rank among some says nothing of a rank among all.
    """
    flat = scores.reshape(len(scores), -1)
    placed = pd.DataFrame(-flat if higher_is_better else flat).rank().to_numpy()
    known = ~np.isnan(flat).any(axis=0)
    return np.where(known, placed, np.nan).reshape(scores.shape)


def rank_draws(samples: Sequence[Sample], *names: object, higher_is_better: bool) -> Floats:
    """Ranks of E entries when seeds are resampled, then items, alike for all entries: [E, R]."""
    return ranks(bootstrap(samples, *names), higher_is_better=higher_is_better)


def central(draws: Floats, point: Floats) -> Floats:
    """Ends of the middle 95 % along the last axis, moved where they leave out ``point``: [..., 2].

    Resampling adds noise to what is noisy already and so pulls ranks towards the middle.
    """
    tail = SIGNIFICANT / 2
    low, high = np.nanquantile(draws, (tail, 1 - tail), axis=-1, method="inverted_cdf")
    return np.stack([np.fmin(low, point), np.fmax(high, point)], axis=-1)


def wins(samples: Sequence[Sample], *, higher_is_better: bool) -> list[Sample]:
    """By seed, the share of the other entries that each entry beats on that seed, equals half.

    Two entries or more. The samples of several tasks can be averaged, their seeds being paired.
    """
    values = _win_rates(np.stack([sample.values for sample in samples]), higher_is_better)
    draws = _win_rates(np.stack([sample.draws for sample in samples]), higher_is_better)
    return [
        Sample(value, drawn, sample.clusters)
        for value, drawn, sample in zip(values, draws, samples, strict=True)
    ]


def _win_rates(scores: Floats, higher_is_better: bool) -> Floats:
    placed = ranks(scores, higher_is_better=higher_is_better)
    return (len(scores) - placed) / (len(scores) - 1)


def averaged(samples: Sequence[Sample]) -> Sample:
    """The mean of an entry's samples from several tasks, seed by seed and resample by resample."""
    values = np.mean([sample.values for sample in samples], axis=0)
    draws = np.mean([sample.draws for sample in samples], axis=0)
    return Sample(values, draws, min(sample.clusters for sample in samples))


@dataclass(frozen=True, slots=True)
class TaskScores:
    """One task in which entries meet: their scores by label, over its seeds."""

    task: str
    seeds: tuple[int, ...]
    higher_is_better: bool
    samples: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class OverallRank:
    """An entry among others over several tasks, each of which has one vote."""

    ranks: Mapping[str, float]
    """By task, of the means over seeds."""
    mean_rank: float
    low: float
    high: float
    """Middle 95 % of mean ranks when seeds and test items are resampled."""
    first: float
    last: float
    """Middle 95 % of the places that these mean ranks give."""
    borda: float
    """Sum over tasks of the number of entries beaten, equals half: as the mean rank orders."""
    wins: Interval | None
    """Share of the other entries beaten, seed by seed, mean over tasks; None when alone or when
    the tasks share no seed."""
    ties: tuple[str, ...]
    """Letters; entries that share one are not told apart by ``wins``, after Holm's correction."""


def overall_ranks(
    task_scores: Sequence[TaskScores], labels: Sequence[str]
) -> dict[str, OverallRank]:
    """Places by label, best mean rank first, of entries that are in every task."""
    met = [[task.samples[label] for label in labels] for task in task_scores]
    points, draws = [], []
    for task, samples in zip(task_scores, met, strict=True):
        up, means = task.higher_is_better, np.array([each.values.mean() for each in samples])
        points.append(ranks(means, higher_is_better=up))
        draws.append(rank_draws(samples, task.task, higher_is_better=up))
    by_entry = np.stack(points, axis=1)
    mean = np.asarray(by_entry.mean(axis=1), dtype=np.float64)
    ranges = central(np.asarray(np.mean(draws, axis=0), dtype=np.float64), mean)
    order = sorted(range(len(labels)), key=lambda place: (mean[place], labels[place]))
    standing = np.asarray(1.0 + np.argsort(order), dtype=np.float64)
    spans = central(ranks(np.mean(draws, axis=0), higher_is_better=False), standing)
    won = _wins_of(task_scores, [labels[place] for place in order])
    rates: list[Interval | None] = [*intervals.intervals(won)] if won else [None] * len(order)
    letters = ties(won) if won else [()] * len(order)
    tasks = [task.task for task in task_scores]
    return {
        labels[place]: OverallRank(
            ranks=dict(zip(tasks, by_entry[place].tolist(), strict=True)),
            mean_rank=float(mean[place]),
            low=float(ranges[place, 0]),
            high=float(ranges[place, 1]),
            first=float(spans[place, 0]),
            last=float(spans[place, 1]),
            borda=float((len(labels) - by_entry[place]).sum()),
            wins=rate,
            ties=letter,
        )
        for place, rate, letter in zip(order, rates, letters, strict=True)
    }


def _wins_of(task_scores: Sequence[TaskScores], labels: Sequence[str]) -> list[Sample]:
    """Mean win rates over tasks on the seeds that all of them have; none without opponents."""
    common = set.intersection(*(set(task.seeds) for task in task_scores))
    if len(labels) < 2 or not common:
        return []
    by_task = []
    for task in task_scores:
        kept = [place for place, seed in enumerate(task.seeds) if seed in common]
        met = [task.samples[label] for label in labels]
        some = [Sample(each.values[kept], each.draws[kept], each.clusters) for each in met]
        by_task.append(wins(some, higher_is_better=task.higher_is_better))
    return [averaged(parts) for parts in zip(*by_task, strict=True)]


def block_ranks(task_scores: Sequence[TaskScores], labels: Sequence[str]) -> dict[str, Floats]:
    """Ranks by label in every block [N]; a block is one seed on one task."""
    parts = []
    for task in task_scores:
        scores = np.stack([task.samples[label].values for label in labels])
        parts.append(ranks(scores, higher_is_better=task.higher_is_better))
    return dict(zip(labels, np.concatenate(parts, axis=1), strict=True))


def ties(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Letters of E entries in order of rank, told apart at 5 % after Holm over all their pairs."""
    p = intervals.pair_p_values(samples)
    one, other = np.triu_indices(len(samples), 1)
    apart = np.zeros(p.shape, dtype=np.bool_)
    apart[one, other] = intervals.holm_adjusted(p[one, other]) < SIGNIFICANT
    return tie_letters(apart | apart.T)


def tie_letters(apart: NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """Letters of E entries in order of rank: two entries share one unless they are told apart.

    Each letter is a largest possible set of entries none of which is told apart from another, so
    ``ab`` is tied with ``a`` and with ``b``, which may differ.

    Args:
        apart: [E, E] which entries are told apart, symmetric.
    """
    groups: list[list[int]] = []
    covered = apart.copy()
    for first, second in np.argwhere(np.triu(~apart)).tolist():
        if covered[first, second]:
            continue
        group = sorted({first, second})
        fitting = np.asarray(~apart[group].any(axis=0))
        fitting[group] = False
        for other in np.flatnonzero(fitting).tolist():
            if fitting[other]:
                group.append(other)
                fitting &= ~apart[other]
        covered[np.ix_(group, group)] = True
        groups.append(sorted(group))
    letters = [(_letter(place), group) for place, group in enumerate(sorted(groups))]
    return [
        tuple(letter for letter, group in letters if entry in group) for entry in range(len(apart))
    ]


def _letter(place: int) -> str:
    """a to z, then a2 to z2 and so on."""
    turn, letter = divmod(place, 26)
    return chr(ord("a") + letter) + (str(turn + 1) if turn else "")


@dataclass(frozen=True, slots=True)
class RankChange:
    """One entry's place before and after."""

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
    """Changes of place between two standings of the same entries, in the order of the second."""
    first = {label: place for place, label in enumerate(before, start=1)}
    found = []
    for place, (label, now) in enumerate(after.items(), start=1):
        then = before[label]
        verdict = "up" if now.last < then.first else "down" if now.first > then.last else ""
        ranges = (then.first, then.last), (now.first, now.last)
        found.append(RankChange(label, first[label], ranges[0], place, ranges[1], verdict))
    return found


@dataclass(frozen=True, slots=True)
class CriticalDifference:
    """Friedman's test over blocks and Nemenyi's critical difference of mean ranks."""

    blocks: int
    p: float
    """Friedman's, by Iman and Davenport's F; small where some entries differ."""
    difference: float
    """Mean ranks further apart than this differ at 5 %, for all pairs together."""
    mean_ranks: Mapping[str, float]
    """By entry, best first."""


def critical(block_ranks: Mapping[str, Floats]) -> CriticalDifference | None:
    """The critical difference of entries by their ranks [N] in N blocks.

    None with fewer than ``FEWEST_BLOCKS`` blocks or three entries: nothing could be said.
    """
    from scipy.stats import friedmanchisquare, studentized_range  # takes a second to import

    table = np.stack(list(block_ranks.values())) if block_ranks else np.zeros((0, 0))
    entries, blocks = table.shape
    if entries < 3 or blocks < FEWEST_BLOCKS:
        return None
    means = table.mean(axis=1)
    p = 1.0  # where all entries are alike in every block
    if (table != table[:1]).any():
        chi = float(friedmanchisquare(*table).statistic)
        freedom, room = entries - 1, blocks * (entries - 1) - chi
        value = (blocks - 1) * chi / room if room > 0 else math.inf
        p = float(fdtrc(freedom, freedom * (blocks - 1), value))
    quantile = float(studentized_range.ppf(CONFIDENCE, entries, math.inf)) / math.sqrt(2)
    difference = quantile * math.sqrt(entries * (entries + 1) / (6 * blocks))
    ordered = sorted(zip(block_ranks, means.tolist(), strict=True), key=lambda pair: pair[::-1])
    return CriticalDifference(blocks, p, difference, dict(ordered))
