"""Metrics of scored items in closed form under item weights, for many resamples at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.leaderboards.stats.intervals import Floats


@dataclass(frozen=True, slots=True)
class Items:
    """The scored items of one variant, sorted by id; what its metric does not use may be empty."""

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


ItemCounts = NDArray[np.signedinteger[Any]]


def resampled(metric: str, items: Items, weights: Floats) -> Floats:
    """The metric under each row of weights [R, n], how often each item is drawn: [R].

    A metric not in ``METRICS`` is taken as the weighted mean of the items' own scores.
    """
    return np.asarray(all_resampled(metric, [items], weights)[0])


def all_resampled(metric: str, variants: Sequence[Items], weights: Floats) -> Floats:
    """The metric of V variants of the same items under each row of weights [R, n]: [V, R]."""
    return METRICS.get(metric, _mean_scores)(variants, weights)


def shares(marks: NDArray[np.bool_], weights: Floats) -> Floats:
    """The share of marked items under each row of weights [R, n]: [..., R] of marks [..., n]."""
    flat = marks.reshape(-1, marks.shape[-1]).astype(np.float64)  # BLAS takes no truth values
    marked = flat @ weights.T / weights.sum(axis=1)
    return np.asarray(marked).reshape(*marks.shape[:-1], len(weights))


def _mean_scores(variants: Sequence[Items], weights: Floats) -> Floats:
    scores = np.stack([items.score for items in variants], axis=1)
    return _ratio((weights @ scores).T, weights.sum(axis=1)[None, :])


@dataclass(frozen=True, slots=True)
class _BinaryItems:
    """The items of class 1 and the rest, P and N of them, drawn in R resamples."""

    positive: NDArray[np.bool_]
    """[n]"""
    drawn: ItemCounts
    """[P, R]"""
    others: Sequence[ItemCounts]
    """N rows [R]"""
    pairs: ItemCounts
    """[R] pairs of one of each."""
    below: ItemCounts
    """[N + 1, R] room for sums over others; the first row is zero."""
    rows: Sequence[ItemCounts]
    """Those of ``below``."""
    beaten: ItemCounts
    """[2, P, R] more room: a new array for each variant takes longer than what is done in it."""


def _aurocs(variants: Sequence[Items], weights: Floats) -> Floats:
    """Class 1 against the rest, ties counting half; NaN where a resample lacks one of the two."""
    found, modalities = [], _modalities(variants[0].target[:, 1], weights)
    for items in variants:
        if not np.array_equal(items.target[:, 1], modalities.positive):
            modalities = _modalities(items.target[:, 1], weights)
        found.append(_auroc(items.confidence, modalities))
    return np.stack(found)


def _modalities(positive: NDArray[np.bool_], weights: Floats) -> _BinaryItems:
    # Whole numbers of the smallest kind that holds twice the pairs of a resample.
    kind = np.int32 if weights.sum(axis=1).max() < 2**16 else np.int64
    by_item: ItemCounts = weights.T.astype(kind, order="C")
    drawn, others = by_item[positive], by_item[~positive]
    pairs = drawn.sum(axis=0) * others.sum(axis=0)
    below = np.zeros((len(others) + 1, len(weights)), dtype=kind)
    beaten = np.empty((2, *drawn.shape), dtype=kind)
    return _BinaryItems(positive, drawn, [*others], pairs, below, [*below], beaten)


def _auroc(confidence: Floats, modalities: _BinaryItems) -> Floats:
    own, rest = confidence[modalities.positive], confidence[~modalities.positive]
    order = np.argsort(rest, kind="stable")
    ordered, rows, others = rest[order], modalities.rows, modalities.others
    # A row at a time: numpy's cumsum down the columns takes longer.
    for row, other in enumerate(order.tolist()):
        np.add(rows[row], others[other], rows[row + 1])
    strictly, with_ties = modalities.beaten
    np.take(modalities.below, np.searchsorted(ordered, own, "left"), 0, strictly, mode="clip")
    np.take(modalities.below, np.searchsorted(ordered, own, "right"), 0, with_ties, mode="clip")
    strictly += with_ties
    wins = np.einsum("pr,pr->r", strictly, modalities.drawn) / 2
    undefined = np.full(len(modalities.pairs), np.nan)
    return np.asarray(np.divide(wins, modalities.pairs, out=undefined, where=modalities.pairs > 0))


def _class_counts(variants: Sequence[Items], weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weighted hits, targets and predictions of each class: [V, R, C] each."""
    hits = [items.target & items.predicted for items in variants]
    target = [items.target for items in variants]
    predicted = [items.predicted for items in variants]
    return _counts(hits, weights), _counts(target, weights), _counts(predicted, weights)


def _counts(indicators: Sequence[NDArray[np.bool_]], weights: Floats) -> Floats:
    wide = np.concatenate(indicators, axis=1).astype(np.float64)
    counted = (weights @ wide).reshape(len(weights), len(indicators), -1)
    return counted.transpose(1, 0, 2)


def _macro_f1(variants: Sequence[Items], weights: Floats) -> Floats:
    hits, target, predicted = _class_counts(variants, weights)
    return np.asarray(_ratio(2 * hits, target + predicted).mean(axis=2))


def _weighted_f1(variants: Sequence[Items], weights: Floats) -> Floats:
    hits, target, predicted = _class_counts(variants, weights)
    by_class = _ratio(2 * hits, target + predicted)
    return _ratio((by_class * target).sum(axis=2), target.sum(axis=2))


def _micro_f1(variants: Sequence[Items], weights: Floats) -> Floats:
    hits, target, predicted = _class_counts(variants, weights)
    return _ratio(2 * hits.sum(axis=2), (target + predicted).sum(axis=2))


def _samples_f1(variants: Sequence[Items], weights: Floats) -> Floats:
    hits = [(items.target & items.predicted).sum(axis=1) for items in variants]
    sizes = [items.target.sum(axis=1) + items.predicted.sum(axis=1) for items in variants]
    by_item = _ratio(2 * np.stack(hits, axis=1), np.stack(sizes, axis=1))
    return _ratio((weights @ by_item).T, weights.sum(axis=1)[None, :])


def _ratio(top: NDArray[np.generic], bottom: NDArray[np.generic]) -> Floats:
    """Element-wise ``top / bottom``, 0 where ``bottom`` is 0; shapes broadcast."""
    out = np.zeros(np.broadcast_shapes(np.shape(top), np.shape(bottom)))
    return np.asarray(np.divide(top, bottom, out=out, where=bottom != 0))


METRICS: Mapping[str, Callable[[Sequence[Items], Floats], Floats]] = {
    "accuracy": _mean_scores,
    "auroc": _aurocs,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "samples_f1": _samples_f1,
    "weighted_f1": _weighted_f1,
}
"""Metrics with a closed form under item weights; all are shares, shown as percentages."""
