"""Uncertainty of a score and of a paired difference: training seeds, then clusters, then items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize.elementwise import find_root
from scipy.special import bdtr, stdtr, stdtrit

from steelyard.harness.core.seeds import seed_for

Floats = NDArray[np.float64]

LEAST_P = 1e-12
"""Smaller chances are rounding errors of a variance that is zero, which differ by machine."""
SIGNIFICANT = 0.05
CONFIDENCE = 1 - SIGNIFICANT
DRAWS = 500
"""Resamples of the test items; the Monte Carlo error of a standard error is then about 3 %."""
MIXING = 1.5
"""Power of the seeds' share of variance that weighs the two Student quantiles in ``margin``."""
FLOOR = 0.5
"""Share of the items' own margin that no margin falls below, see ``margin``."""

AT_ONCE = 25
"""Samples whose draws are gone through together: few enough to stay in a processor's cache."""
ROUNDING = 1e-6
"""Of a logarithm of a chance."""
ROUNDED = 1e-12
"""Share of two variances below which their difference is a rounding error, another by machine."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A score of S training seeds, measured on the test items and on R resamples of them."""

    values: Floats
    """[S] on the test items."""
    draws: Floats
    """[S, R]; resample r holds the same items for every seed, entry and variant."""
    clusters: int
    """Independent clusters of items behind the resamples."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over training seeds with its two-sided 95 % interval."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided p-value of a mean of zero; of interest for differences."""
    values: tuple[float, ...]
    """The seeds' own values, in seed order; with one, training variance is not in the interval."""
    clusters: int
    """Independent clusters of test items."""

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Spread:
    """Two parts of the variance of K means over seeds, each with its degrees of freedom."""

    seeds: Floats
    """[K] variance between seeds over their number; what is particular to a seed and an item is
    in here."""
    items: Floats
    """[K] what seeds share because they meet the same items; more seeds do not shrink it."""
    floor: Floats
    """[K] variance over items of the mean over seeds, as if training varied nothing."""
    seed_freedom: int
    """One less than there are seeds; 0 for a single seed, whose ``seeds`` is 0."""
    item_freedom: NDArray[np.int64]
    """[K]"""


def resample_weights(clusters: NDArray[np.str_], draws: int, *names: object) -> Floats:
    """How often each item is drawn when whole clusters are drawn with replacement: [draws, n].

    The items of a drawn cluster are kept as they are: to resample them too would count the
    variance within clusters twice.
    """
    groups, codes = np.unique(clusters, return_inverse=True)
    generator = np.random.default_rng(seed_for("resamples", *names))
    counts = generator.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)
    return counts[:, codes].astype(np.float64)


def interval(sample: Sample) -> Interval:
    """The interval of one mean, as ``intervals`` gives it."""
    return intervals([sample])[0]


def intervals(samples: Sequence[Sample]) -> list[Interval]:
    """Student intervals of means over seeds, all of the same number of seeds.

    Two variances add up. That between seeds, divided by S, holds what training does and what is
    particular to a seed and an item. The other is what seeds share because they meet the same
    items: the mean covariance of two seeds' resamples. A plain bootstrap over so few seeds covers
    far too little and one Welch-Satterthwaite quantile still too little (92 % at three seeds), see
    ``margin``; ``python tests/bench/bench_coverage.py`` prints the coverage of all of them.
    """
    means = np.array([sample.values.mean() for sample in samples])
    spread = spread_of(samples)
    halves, p = margin(spread, SIGNIFICANT), _p_values(spread, means)
    return [
        Interval(mean, mean - half, mean + half, chance, tuple(s.values.tolist()), s.clusters)
        for s, mean, half, chance in zip(
            samples, means.tolist(), halves.tolist(), p.tolist(), strict=True
        )
    ]


def minus(a: Sample, b: Sample) -> Sample:
    """``a - b``, paired by training seed and by test item."""
    return Sample(a.values - b.values, a.draws - b.draws, a.clusters)


def paired_difference(a: Sample, b: Sample) -> Interval:
    """Interval of ``a - b``, paired by training seed and by test item."""
    return interval(minus(a, b))


def pair_p_values(samples: Sequence[Sample]) -> Floats:
    """p-values of the paired differences of every two of E samples: [E, E], 1 on the diagonal."""
    values = np.stack([sample.values for sample in samples])
    draws = np.stack([sample.draws for sample in samples])
    entries, seeds = values.shape
    one, other = np.triu_indices(entries, 1)
    p = np.ones((entries, entries))
    if np.isnan(draws).any():  # each pair then keeps the resamples on which both have a value
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            p[a, b] = p[b, a] = paired_difference(samples[a], samples[b]).p
        return p
    over = _difference_variances(draws.mean(axis=1))[one, other]
    between, shared = np.zeros_like(over), over
    if seeds > 1:
        own = np.mean([_difference_variances(draws[:, s]) for s in range(seeds)], axis=0)
        between = _difference_variances(values)[one, other] / seeds
        shared = _shared(over, own[one, other], seeds)
    freedom = np.full(len(over), samples[0].clusters - 1)
    means = values.mean(axis=1)
    spread = Spread(between, shared, over, seeds - 1, freedom)
    p[one, other] = p[other, one] = _p_values(spread, means[one] - means[other])
    return p


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment: the chance of any false claim in the family stays bounded."""
    names = sorted(p_values, key=lambda name: (p_values[name], name))
    adjusted = holm_adjusted(np.array([p_values[name] for name in names]))
    return dict(zip(names, adjusted.tolist(), strict=True))


def holm_adjusted(p_values: Floats) -> Floats:
    """Holm's step-down adjustment of [K] p-values, in their order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * p_values[order]
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def mcnemar(only_one: int, only_other: int) -> float:
    """McNemar's exact two-sided p-value from the items that only one of two models got right."""
    discordant = only_one + only_other
    return min(1.0, 2 * float(bdtr(min(only_one, only_other), discordant, 0.5)))


def spread_of(samples: Sequence[Sample]) -> Spread:
    """The two parts of each mean's variance; resamples without a value are left out."""
    seeds = len(samples[0].values)
    parts = [
        _item_variances(draws)
        for start in range(0, len(samples), AT_ONCE)
        for draws in _known([sample.draws for sample in samples[start : start + AT_ONCE]])
    ]
    over, own = (np.concatenate(modality) for modality in zip(*parts, strict=True))
    freedom = np.array([sample.clusters - 1 for sample in samples])
    if seeds == 1:
        return Spread(np.zeros_like(over), over, over, 0, freedom)
    between = np.stack([sample.values for sample in samples]).var(axis=1, ddof=1) / seeds
    return Spread(between, _shared(over, own, seeds), over, seeds - 1, freedom)


def _known(draws: Sequence[Floats]) -> list[Floats]:
    """K draws [S, R] as one [K, S, R], or where one lacks a value each without such resamples."""
    together = np.stack(draws)
    if not np.isnan(together).any():
        return [together]
    return [each[None, :, ~np.isnan(each).any(axis=0)] for each in draws]


def _item_variances(draws: Floats) -> tuple[Floats, Floats]:
    """Of [K, S, R] draws, the variance of the mean over seeds and the mean of the seeds' own."""
    over = draws.mean(axis=1).var(axis=1, ddof=1)
    return np.asarray(over), np.asarray(draws.var(axis=2, ddof=1).mean(axis=1))


def margin(spread: Spread, chance: float | Floats) -> Floats:
    """[K] half widths of intervals that miss with this chance.

    The critical value lies between Student's for the seeds and for the items. Its square is
    weighed by w = share ** 1.5, share being the seeds' part of the variance: with the share itself
    intervals of three seeds hold up to 97.7 %, with its square down to 94.1 %, with this 94.8 to
    96.5 % and, where 99.5 % are asked for, 99.3 to 99.8 %. Seeds that agree by chance make nothing
    certain: half of the margin that the items alone give is the least, which moves none of these.
    """
    by_items = stdtrit(np.maximum(spread.item_freedom, 1), np.asarray(chance) / 2)
    both = _critical(spread, chance) * np.sqrt(spread.seeds + spread.items)
    return np.asarray(np.maximum(both, FLOOR * np.sqrt(spread.floor) * np.abs(by_items)))


def _critical(spread: Spread, chance: float | Floats) -> Floats:
    return _quantile(np.asarray(chance), *_mixture(spread))


def _mixture(spread: Spread) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """The weight of the seeds' Student quantile, and the degrees of freedom of both: [K] each."""
    total = spread.seeds + spread.items
    share = np.divide(spread.seeds, total, out=np.zeros_like(total), where=total > 0)
    by_seeds = np.full(total.shape, max(spread.seed_freedom, 1))
    return share**MIXING, by_seeds, np.maximum(spread.item_freedom, 1)


def _quantile(
    chance: Floats, weight: Floats, by_seeds: NDArray[np.int64], by_items: NDArray[np.int64]
) -> Floats:
    tail = chance / 2
    squares = weight * stdtrit(by_seeds, tail) ** 2 + (1 - weight) * stdtrit(by_items, tail) ** 2
    return np.asarray(np.sqrt(squares))


def _p_values(spread: Spread, means: Floats) -> Floats:
    """The chances at which the intervals' ends would touch zero."""
    weight, *free = _mixture(spread)
    distance, floor = np.abs(means), FLOOR * np.sqrt(spread.floor)
    total = np.sqrt(spread.seeds + spread.items)
    # As the critical value lies between two of Student's, so does the chance between theirs.
    ends = np.log([_tails(distance, total, each) for each in free])
    ratio = np.divide(distance, total, out=np.zeros_like(total), where=total > 0)
    found = find_root(
        lambda chance, wanted, *mixture: _quantile(np.exp(chance), *mixture) - wanted,
        (ends.min(axis=0) - ROUNDING, ends.max(axis=0) + ROUNDING),
        args=(ratio, weight, *free),
    )
    # There is nothing to search where the mean or its variance is zero.
    chance = np.where(found.success, found.x, ends.max(axis=0))
    least = np.maximum(_tails(distance, floor, free[1]), LEAST_P)
    return np.asarray(np.maximum(np.exp(chance), least))


def _tails(distance: Floats, deviation: Floats, freedom: int | NDArray[np.int64]) -> Floats:
    """Both tails beyond a distance of this many deviations: 1 for no distance, never 0."""
    ratio = np.divide(distance, deviation, out=np.full_like(distance, np.inf), where=deviation > 0)
    tails = 2 * stdtr(freedom, -np.where(distance > 0, ratio, 0.0))
    return np.asarray(np.maximum(tails, 1e-100))


def _shared(over: Floats, own: Floats, seeds: int) -> Floats:
    """Mean covariance of two seeds, from the variances of their mean and of one: not below 0."""
    return _unrounded((seeds * over - own) / (seeds - 1), own)


def _difference_variances(rows: Floats) -> Floats:
    """Variances of the differences of every two of E rows: [E, E]."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    products = centred @ centred.T / (rows.shape[1] - 1)
    own = np.diagonal(products)
    both = own[:, None] + own[None, :]
    return _unrounded(both - 2 * products, both)


def _unrounded(differences: Floats, of: Floats) -> Floats:
    """Differences of numbers as large as ``of``, 0 where rounding is all that can be left."""
    return np.where(differences <= ROUNDED * of, 0.0, differences)
