"""Estimate the uncertainty of scores and paired differences over seeds, clusters and items.

score = Sample(values, draws, clusters)   # [S] and [S, R]
interval(score)                           # mean, 95 % interval, p-value
paired_difference(score, control)
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize.elementwise import find_root
from scipy.special import bdtr, stdtr, stdtrit

from steelyard.harness.core.seeds import seed_for

Floats = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)

LEAST_P = 1e-12
"""Smallest p-value; below it are rounding errors of a variance of zero, which vary by machine."""
SIGNIFICANT = 0.05
CONFIDENCE = 1 - SIGNIFICANT
DRAWS = 500
"""Resamples of the test items: the Monte Carlo error of a standard error is about 3 %."""
MIXING = 1.5
"""Exponent of the seeds' fraction of variance, which weighs the Student quantiles in ``margin``."""
FLOOR = 0.5
"""Smallest margin as a fraction of the margin from items alone, see ``margin``."""

AT_ONCE = 25
"""Samples processed together: few enough for their draws to fit a processor's cache."""
ROUNDING = 1e-6
"""Widening of the search bracket, in units of the logarithm of a p-value."""
ROUNDED = 1e-12
"""Fraction of two variances below which their difference is a rounding error."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Score of S training seeds on the test items and on R resamples of them."""

    values: Floats
    """[S] on the test items."""
    draws: Floats
    """[S, R]; resample r holds the same items for every seed, entry and variant."""
    clusters: int
    """Independent clusters of items behind the resamples."""
    rate: bool = False
    """Whether it is a fraction: its interval ends at 0 and 1."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean over training seeds with its two-sided 95 % interval."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided p-value of the hypothesis that the mean is zero; meant for differences."""
    values: tuple[float, ...]
    """Value of each seed, in seed order; with one seed the interval lacks training variance."""
    clusters: int
    """Independent clusters of test items."""

    @property
    def ends(self) -> tuple[float, float, float]:
        """Mean, low and high."""
        return self.mean, self.low, self.high

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    @property
    def is_cut(self) -> bool:
        """Return whether an end is that of a rate, so that the mean is not in the middle."""
        return abs(self.low + self.high - 2 * self.mean) > ROUNDED


@dataclass(frozen=True, slots=True)
class Spread:
    """Two parts of the variance of K means over seeds, each with its degrees of freedom."""

    seeds: Floats
    """[K] variance between seeds divided by S; includes the interaction of seeds and items."""
    items: Floats
    """[K] covariance of seeds due to common test items; more seeds do not shrink it."""
    floor: Floats
    """[K] variance over items of the mean over seeds, ignoring training variance."""
    seed_freedom: int
    """S - 1; with a single seed both this and ``seeds`` are 0."""
    item_freedom: NDArray[np.int64]
    """[K]"""


def resample_weights(clusters: NDArray[np.str_], draws: int, *names: object) -> Floats:
    """Return how often each item is drawn when clusters are drawn with replacement: [draws, n].

    Items within a drawn cluster are not resampled: that would count their variance twice.
    ``names`` seed the generator.
    """
    groups, codes = np.unique(clusters, return_inverse=True)
    # Never the name of an entry or variant: all share the draws, which pairs them.
    generator = np.random.default_rng(seed_for("resamples", *names))
    counts = generator.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)
    # As floats, since BLAS multiplies no integers.
    return counts[:, codes].astype(np.float64)


def interval(sample: Sample) -> Interval:
    return intervals([sample])[0]


def intervals(samples: Sequence[Sample]) -> list[Interval]:
    """Return Student intervals of means over seeds; all samples need the same number of seeds.

    The variance is a sum of two parts: the variance between seeds divided by S (training, and the
    interaction of seeds and items), and the covariance of seeds due to common test items (mean
    covariance of the resamples of two seeds). With few seeds a plain bootstrap covers far too
    little and a single Welch-Satterthwaite quantile still too little (92 % at three seeds), see
    ``margin``; ``python tests/bench/bench_coverage.py`` prints the coverage of all of them.
    Intervals of rates are cut at 0 and 1, which cannot lose the true rate.
    """
    means = np.array([sample.values.mean() for sample in samples])
    spread = spread_of(samples)
    halves, p = margin(spread, SIGNIFICANT), _p_values(spread, means)
    lows, highs = means - halves, means + halves
    rates = np.array([sample.rate for sample in samples])
    lows = np.where(rates, np.fmin(np.fmax(lows, 0.0), means), lows)
    highs = np.where(rates, np.fmax(np.fmin(highs, 1.0), means), highs)
    columns = (array.tolist() for array in (means, lows, highs, p))
    return [
        Interval(mean, low, high, chance, tuple(sample.values.tolist()), sample.clusters)
        for sample, mean, low, high, chance in zip(samples, *columns, strict=True)
    ]


def named_intervals(samples: Mapping[Name, Sample]) -> dict[Name, Interval]:
    """Return the intervals by name, computed at once: much faster than one by one."""
    return dict(zip(samples, intervals([*samples.values()]), strict=True)) if samples else {}


def minus(a: Sample, b: Sample) -> Sample:
    """Subtract, paired by training seed and test item."""
    return Sample(a.values - b.values, a.draws - b.draws, a.clusters)


def paired_difference(a: Sample, b: Sample) -> Interval:
    return interval(minus(a, b))


def scaled(sample: Sample, factor: float) -> Sample:
    return Sample(factor * sample.values, factor * sample.draws, sample.clusters)


def averaged(samples: Sequence[Sample]) -> Sample:
    """Return the mean of several samples of one entry, paired by seed and resample."""
    values = np.mean([sample.values for sample in samples], axis=0)
    draws = np.mean([sample.draws for sample in samples], axis=0)
    # The fewest clusters give the widest Student quantile.
    clusters = min(sample.clusters for sample in samples)
    return Sample(values, draws, clusters, all(sample.rate for sample in samples))


def pair_p_values(samples: Sequence[Sample]) -> Floats:
    """Return p-values of all paired differences of E samples: [E, E], 1 on the diagonal."""
    values = np.stack([sample.values for sample in samples])
    draws = np.stack([sample.draws for sample in samples])
    entries, seeds = values.shape
    rows, columns = np.triu_indices(entries, 1)
    p = np.ones((entries, entries))
    if np.isnan(draws).any():  # each pair uses the resamples on which both have a value
        for a, b in zip(rows.tolist(), columns.tolist(), strict=True):
            p[a, b] = p[b, a] = paired_difference(samples[a], samples[b]).p
        return p
    # One matrix product per seed, instead of one pass over the draws per pair.
    over = _difference_variances(draws.mean(axis=1))[rows, columns]
    between, shared = np.zeros_like(over), over
    if seeds > 1:
        single = np.mean([_difference_variances(draws[:, s]) for s in range(seeds)], axis=0)
        between = _difference_variances(values)[rows, columns] / seeds
        shared = _shared(over, single[rows, columns], seeds)
    # Compared entries share their test items, hence their clusters.
    freedom = np.full(len(over), samples[0].clusters - 1)
    means = values.mean(axis=1)
    spread = Spread(between, shared, over, seeds - 1, freedom)
    p[rows, columns] = p[columns, rows] = _p_values(spread, means[rows] - means[columns])
    return p


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted by Holm's step-down method, which bounds the family-wise error."""
    adjusted = holm_adjusted(np.array([*p_values.values()]))
    return dict(zip(p_values, adjusted.tolist(), strict=True))


def holm_adjusted(p_values: Floats) -> Floats:
    """Return [K] p-values adjusted by Holm's step-down method, in the input order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * p_values[order]
    adjusted = np.empty_like(p_values)
    # Holm stops at the first failure, so a larger p-value is never adjusted to a smaller one.
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def mcnemar(only_first: int, only_second: int) -> float:
    """Return McNemar's exact two-sided p-value; counts of items only one of two models got."""
    discordant = only_first + only_second
    # Twice a tail that includes the middle exceeds 1 if both counts are equal.
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)))


def spread_of(samples: Sequence[Sample]) -> Spread:
    """Return both parts of the variance of each mean; resamples without a value are left out."""
    seeds = len(samples[0].values)
    over, single = np.empty(len(samples)), np.empty(len(samples))
    for start in range(0, len(samples), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        draws = np.stack([sample.draws for sample in samples[part]])
        over[part] = draws.mean(axis=1).var(axis=1, ddof=1)
        single[part] = draws.var(axis=2, ddof=1).mean(axis=1)
        for index in np.flatnonzero(np.isnan(draws).any(axis=(1, 2))).tolist():
            # Dropped for all seeds, which would lose their pairing otherwise.
            complete = draws[index][:, ~np.isnan(draws[index]).any(axis=0)]
            over[start + index] = complete.mean(axis=0).var(ddof=1)
            single[start + index] = complete.var(axis=1, ddof=1).mean()
    freedom = np.array([sample.clusters - 1 for sample in samples])
    # One seed has no variance between seeds: only the items are left.
    if seeds == 1:
        return Spread(np.zeros_like(over), over, over, 0, freedom)
    between = np.stack([sample.values for sample in samples]).var(axis=1, ddof=1) / seeds
    return Spread(between, _shared(over, single, seeds), over, seeds - 1, freedom)


def margin(spread: Spread, chance: float | Floats) -> Floats:
    """Return half widths [K] of intervals that miss the mean with probability ``chance``.

    The squared critical value is a mixture of the squared Student quantiles for seeds and items,
    weighted by w = f ** 1.5 with f the seeds' fraction of the variance. Coverage of intervals of
    three seeds at a nominal 95 %: up to 97.7 % with w = f, down to 94.1 % with w = f ** 2, 94.8 to
    96.5 % with this w (99.3 to 99.8 % at a nominal 99.5 %). Seeds may agree by chance, so the
    margin is at least half of that from items alone; this changes none of the numbers above.
    """
    # A single cluster has no degree of freedom, for which there is no quantile.
    by_items = stdtrit(np.maximum(spread.item_freedom, 1), np.asarray(chance) / 2)
    critical = _quantile(np.asarray(chance), *_mixture(spread))
    both = critical * np.sqrt(spread.seeds + spread.items)
    return np.asarray(np.maximum(both, FLOOR * np.sqrt(spread.floor) * np.abs(by_items)))


def _mixture(spread: Spread) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Return the weight of the seeds' Student quantile and both degrees of freedom: [K] each."""
    total = spread.seeds + spread.items
    fraction = np.divide(spread.seeds, total, out=np.zeros_like(total), where=total > 0)
    by_seeds = np.full(total.shape, max(spread.seed_freedom, 1))
    return fraction**MIXING, by_seeds, np.maximum(spread.item_freedom, 1)


def _quantile(
    chance: Floats, weight: Floats, by_seeds: NDArray[np.int64], by_items: NDArray[np.int64]
) -> Floats:
    tail = chance / 2
    # The lower tail, squared: 1 - tail would round to 1 for tiny chances.
    squares = weight * stdtrit(by_seeds, tail) ** 2 + (1 - weight) * stdtrit(by_items, tail) ** 2
    return np.asarray(np.sqrt(squares))


def _p_values(spread: Spread, means: Floats) -> Floats:
    """Return the p-values: the error rates at which an end of the interval touches zero."""
    weight, *free = _mixture(spread)
    distance, floor = np.abs(means), FLOOR * np.sqrt(spread.floor)
    total = np.sqrt(spread.seeds + spread.items)
    # The quantile is between the two Student quantiles, so p is between their two tails.
    ends = np.log([_tails(distance, total, degrees) for degrees in free])
    ratio = np.divide(distance, total, out=np.zeros_like(total), where=total > 0)
    # Over the logarithm, since p-values span many orders of magnitude.
    root = find_root(
        lambda chance, target, *mixture: _quantile(np.exp(chance), *mixture) - target,
        (ends.min(axis=0) - ROUNDING, ends.max(axis=0) + ROUNDING),
        args=(ratio, weight, *free),
    )
    # The search fails where the mean or its variance is zero.
    chance = np.where(root.success, root.x, ends.max(axis=0))
    # The interval's floor is a floor of the p-value, so that both give one verdict.
    least = np.maximum(_tails(distance, floor, free[1]), LEAST_P)
    return np.asarray(np.maximum(np.exp(chance), least))


def _tails(distance: Floats, deviation: Floats, freedom: int | NDArray[np.int64]) -> Floats:
    """Return the two-sided tail probability of a distance: 1 for no distance, never 0."""
    ratio = np.divide(distance, deviation, out=np.full_like(distance, np.inf), where=deviation > 0)
    # The lower tail keeps its digits where 1 minus the upper one is 0.
    tails = 2 * stdtr(freedom, -np.where(distance > 0, ratio, 0.0))
    # ``_p_values`` takes the logarithm.
    return np.asarray(np.maximum(tails, 1e-100))


def _shared(over: Floats, single: Floats, seeds: int) -> Floats:
    """Return the mean covariance of two seeds, at least 0.

    ``over`` is the variance of the mean over seeds, ``single`` the mean variance of one seed.
    """
    # Solves over = (single + (seeds - 1) * covariance) / seeds.
    return _unrounded((seeds * over - single) / (seeds - 1), single)


def _difference_variances(rows: Floats) -> Floats:
    """Return the variances of the differences of all pairs of E rows: [E, E]."""
    # Centred first: subtracting products of means would cancel most digits.
    centred = rows - rows.mean(axis=1, keepdims=True)
    products = centred @ centred.T / (rows.shape[1] - 1)
    variances = np.diagonal(products)
    both = variances[:, None] + variances[None, :]
    return _unrounded(both - 2 * products, both)


def _unrounded(differences: Floats, of: Floats) -> Floats:
    """Return the differences, with 0 in place of rounding errors of numbers as large as ``of``."""
    # Negative ones too: they estimate a variance of common items, which is at least 0.
    return np.where(differences <= ROUNDED * of, 0.0, differences)
