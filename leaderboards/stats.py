"""Uncertainty of a score and of a paired difference: training seeds, then clusters, then items."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from steelyard.harness.seeds import seed_for

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 500
"""Resamples of the test items; the Monte Carlo error of a standard error is then about 3 %."""


@dataclass(frozen=True, slots=True)
class Items:
    """The scored items of one variant, sorted by id."""

    ids: NDArray[np.str_]
    """[n]"""
    clusters: NDArray[np.str_]
    """[n]; items of one cluster are resampled together."""
    target: NDArray[np.bool_]
    """[n, C] which classes the item carries."""
    predicted: NDArray[np.bool_]
    """[n, C]"""
    score: Floats
    """[n] the item's own score."""
    confidence: Floats
    """[n] for AUROC, the probability of class 1."""


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


def resample_weights(clusters: NDArray[np.str_], draws: int, *names: object) -> Floats:
    """How often each item is drawn when whole clusters are drawn with replacement: [draws, n]."""
    groups, codes = np.unique(clusters, return_inverse=True)
    generator = np.random.default_rng(seed_for("resamples", *names))
    counts = generator.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)
    return counts[:, codes].astype(np.float64)


def resampled(metric: str, items: Items, weights: Floats) -> Floats:
    """The metric under each row of item weights [R, n]: [R].

    A metric not in ``METRICS`` is taken as the weighted mean of the items' own scores.
    """
    return METRICS.get(metric, _mean_score)(items, weights)


def interval(sample: Sample) -> Interval:
    """Student interval of the mean over seeds.

    Two variances add up: that between seeds, divided by S, and that over items of the
    seed-averaged score. The second does not shrink with more seeds, because all seeds meet the
    same items. What is particular to one seed and one item is in both and is counted once. Each
    part keeps its own Student quantile, for with few seeds a common Welch-Satterthwaite quantile
    is too narrow (about 92 % instead of 95 % in simulation).
    """
    mean = float(sample.values.mean())
    parts = _variances(sample)
    half = _margin(parts, 1 - CONFIDENCE)
    values = tuple(sample.values.tolist())
    return Interval(mean, mean - half, mean + half, _p(parts, mean), values, sample.clusters)


def paired_difference(a: Sample, b: Sample) -> Interval:
    """Interval of ``a - b``, paired by training seed and by test item."""
    return interval(Sample(a.values - b.values, a.draws - b.draws, a.clusters))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment: the chance of any false claim in the family stays bounded."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def ranks(scores: Floats, *, higher_is_better: bool) -> Floats:
    """Rank of each entry, 1 the best and equals sharing their mean: [E] or [E, R] as given."""
    ordered = scores if higher_is_better else -scores
    better = (ordered[None, :] > ordered[:, None]).sum(axis=1)
    equal = (ordered[None, :] == ordered[:, None]).sum(axis=1)
    return np.asarray(1 + better + (equal - 1) / 2, dtype=np.float64)


def rank_draws(samples: Sequence[Sample], *names: object, higher_is_better: bool) -> Floats:
    """Ranks of E entries when seeds are resampled, then items, alike for all entries: [E, R]."""
    seeds, draws = samples[0].draws.shape
    generator = np.random.default_rng(seed_for("seeds", *names))
    shares = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).T / seeds
    scores = np.stack([(shares * sample.draws).sum(axis=0) for sample in samples])
    return ranks(scores, higher_is_better=higher_is_better)


def central(draws: Floats) -> Floats:
    """Lower and upper end of the middle 95 % along the last axis: [..., 2]."""
    tail = (1 - CONFIDENCE) / 2
    ends = np.nanquantile(draws, (tail, 1 - tail), axis=-1, method="inverted_cdf")
    return np.asarray(np.moveaxis(ends, 0, -1), dtype=np.float64)


def _variances(sample: Sample) -> list[tuple[float, int]]:
    """Variance of the mean and its degrees of freedom, between seeds and over items."""
    seeds = len(sample.values)
    draws = sample.draws[:, ~np.isnan(sample.draws).any(axis=0)]
    over_items = float(draws.mean(axis=0).var(ddof=1))
    if seeds == 1:
        return [(over_items, sample.clusters - 1)]
    between = float(sample.values.var(ddof=1)) / seeds
    own = float(draws.var(axis=1, ddof=1).mean())
    shared = min(max(own - over_items, 0.0) / (seeds - 1), between, over_items)
    return [(between, seeds - 1), (over_items - shared, sample.clusters - 1)]


def _margin(parts: Sequence[tuple[float, int]], chance: float) -> float:
    """Half width of the interval that misses with this chance, margins added in quadrature."""
    squares = [v * float(stdtrit(freedom, 1 - chance / 2)) ** 2 for v, freedom in parts]
    return math.sqrt(sum(squares))


def _p(parts: Sequence[tuple[float, int]], mean: float) -> float:
    """The chance at which the interval's end would touch zero, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _margin(parts, middle) >= abs(mean):
            low = middle
        else:
            high = middle
    return high


def _mean_score(items: Items, weights: Floats) -> Floats:
    return _ratio(weights @ items.score, weights.sum(axis=1))


def _auroc(items: Items, weights: Floats) -> Floats:
    """Class 1 against the rest, ties counting half; NaN where a resample lacks one of the two."""
    positive = np.flatnonzero(items.target[:, 1])
    negative = np.flatnonzero(~items.target[:, 1])
    negative = negative[np.argsort(items.confidence[negative], kind="stable")]
    lower = np.searchsorted(items.confidence[negative], items.confidence[positive], "left")
    not_higher = np.searchsorted(items.confidence[negative], items.confidence[positive], "right")
    below = np.zeros((len(weights), len(negative) + 1))
    np.cumsum(weights[:, negative], axis=1, out=below[:, 1:])
    drawn = weights[:, positive]
    beaten = below[:, lower]
    beaten += below[:, not_higher]
    wins = np.einsum("rp,rp->r", drawn, beaten) / 2
    pairs = drawn.sum(axis=1) * below[:, -1]
    undefined = np.full(len(weights), np.nan)
    return np.asarray(np.divide(wins, pairs, out=undefined, where=pairs > 0))


def _class_counts(items: Items, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weighted hits, targets and predictions of each class: [R, C] each."""
    hits = (items.target & items.predicted).astype(np.float64)
    target, predicted = items.target.astype(np.float64), items.predicted.astype(np.float64)
    return weights @ hits, weights @ target, weights @ predicted


def _macro_f1(items: Items, weights: Floats) -> Floats:
    hits, target, predicted = _class_counts(items, weights)
    return np.asarray(_ratio(2 * hits, target + predicted).mean(axis=1))


def _weighted_f1(items: Items, weights: Floats) -> Floats:
    hits, target, predicted = _class_counts(items, weights)
    by_class = _ratio(2 * hits, target + predicted)
    return _ratio((by_class * target).sum(axis=1), target.sum(axis=1))


def _micro_f1(items: Items, weights: Floats) -> Floats:
    hits, target, predicted = _class_counts(items, weights)
    return _ratio(2 * hits.sum(axis=1), (target + predicted).sum(axis=1))


def _samples_f1(items: Items, weights: Floats) -> Floats:
    hits = (items.target & items.predicted).sum(axis=1)
    sizes = items.target.sum(axis=1) + items.predicted.sum(axis=1)
    return _ratio(weights @ _ratio(2 * hits, sizes), weights.sum(axis=1))


def _ratio(top: NDArray[np.generic], bottom: NDArray[np.generic]) -> Floats:
    """Element-wise ``top / bottom``, 0 where ``bottom`` is 0."""
    return np.asarray(np.divide(top, bottom, out=np.zeros(np.shape(bottom)), where=bottom != 0))


METRICS: Mapping[str, Callable[[Items, Floats], Floats]] = {
    "accuracy": _mean_score,
    "auroc": _auroc,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "samples_f1": _samples_f1,
    "weighted_f1": _weighted_f1,
}
"""Metrics with a closed form under item weights; all are shares, shown as percentages."""
