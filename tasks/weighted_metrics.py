"""Class metrics under item weights, for many resamples at once; importing this needs no torch.

weights = np.ones((1, len(items.ids)))            # every item once: the plain metric
all_resampled("macro_f1", [items], weights)[0, 0]
all_resampled("auroc", [clean, corrupted], draws)  # [2, R], how often each item was drawn [R, n]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Bools = NDArray[np.bool_]
DrawCounts = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Items:
    """Scored items of one variant, sorted by id; arrays that its metric does not need are empty."""

    ids: NDArray[np.str_]
    """[n]"""
    clusters: NDArray[np.str_]
    """[n]; items of one cluster are resampled together."""
    target: Bools
    """[n, C] classes of each item."""
    predicted: Bools
    """[n, C]"""
    score: FloatArray
    """[n] score of each item."""
    confidence: FloatArray
    """[n] probability of class 1, for AUROC."""


def all_resampled(metric: str, variants: Sequence[Items], weights: FloatArray) -> FloatArray:
    """Return the metric of V variants of the same items in R resamples: [V, R].

    A row of the weights [R, n] says how often each item is drawn. A metric not in ``METRICS`` is
    the weighted mean of the items' scores.
    """
    return METRICS.get(metric, _mean_scores)(variants, weights)


def fractions(marks: Bools, weights: FloatArray) -> FloatArray:
    """Return the weighted fraction of marked items: [..., R] of marks [..., n], weights [R, n]."""
    flat = marks.reshape(-1, marks.shape[-1]).astype(np.float64)  # BLAS takes no truth values
    marked = flat @ weights.T / weights.sum(axis=1)
    return np.asarray(marked).reshape(*marks.shape[:-1], len(weights))


def _ratio(top: NDArray[np.generic], bottom: NDArray[np.generic]) -> FloatArray:
    """Divide element by element, 0 where ``bottom`` is 0; shapes broadcast."""
    # ``where`` leaves elements of ``out`` as they are: they must begin as 0.
    out = np.zeros(np.broadcast_shapes(np.shape(top), np.shape(bottom)))
    return np.asarray(np.divide(top, bottom, out=out, where=bottom != 0))


def _mean_scores(variants: Sequence[Items], weights: FloatArray) -> FloatArray:
    # One matrix product for all variants is faster than one for each.
    scores = np.stack([items.score for items in variants], axis=1)
    return _ratio((weights @ scores).T, weights.sum(axis=1)[None, :])


@dataclass(frozen=True, slots=True)
class _ByClass:
    """Draws of the P items of class 1 and of the N others, in R resamples."""

    is_positive: Bools
    """[n]"""
    positives: DrawCounts
    """[P, R]"""
    negatives: Sequence[DrawCounts]
    """N rows [R]"""
    pairs: DrawCounts
    """[R] number of pairs of a positive and a negative."""
    below: DrawCounts
    """[N + 1, R] buffer for sums over negatives; the first row is zero."""
    rows: Sequence[DrawCounts]
    """Views of the rows of ``below``."""
    wins: DrawCounts
    """[2, P, R] buffer: a new array for each variant takes longer than the sums in it."""


def _aurocs(variants: Sequence[Items], weights: FloatArray) -> FloatArray:
    """Rank class 1 against the rest, ties count half; NaN where a resample lacks one of the two."""
    scores, classes = [], _by_class(variants[0].target[:, 1], weights)
    for items in variants:
        # Variants of a task share their targets, so that this is rare.
        if not np.array_equal(items.target[:, 1], classes.is_positive):
            classes = _by_class(items.target[:, 1], weights)
        scores.append(_auroc(items.confidence, classes))
    return np.stack(scores)


def _by_class(is_positive: Bools, weights: FloatArray) -> _ByClass:
    # The smallest integers that hold twice the pairs of a resample.
    integer = np.int32 if weights.sum(axis=1).max() < 2**16 else np.int64
    # C order: an item's draws are contiguous, for the sums over items.
    by_item: DrawCounts = weights.T.astype(integer, order="C")
    positives, negatives = by_item[is_positive], by_item[~is_positive]
    pairs = positives.sum(axis=0) * negatives.sum(axis=0)
    below = np.zeros((len(negatives) + 1, len(weights)), dtype=integer)
    wins = np.empty((2, *positives.shape), dtype=integer)
    return _ByClass(is_positive, positives, [*negatives], pairs, below, [*below], wins)


def _auroc(confidence: FloatArray, classes: _ByClass) -> FloatArray:
    positive, negative = confidence[classes.is_positive], confidence[~classes.is_positive]
    order = np.argsort(negative, kind="stable")
    ordered, rows, negatives = negative[order], classes.rows, classes.negatives
    # A row at a time: numpy's cumsum down the columns takes longer.
    for row, index in enumerate(order.tolist()):
        np.add(rows[row], negatives[index], rows[row + 1])
    # Draws of negatives below each positive, and of those not above it: the mean counts ties half.
    strict, with_ties = classes.wins
    # With mode="raise" numpy would buffer the output.
    np.take(classes.below, np.searchsorted(ordered, positive, "left"), 0, strict, mode="clip")
    np.take(classes.below, np.searchsorted(ordered, positive, "right"), 0, with_ties, mode="clip")
    strict += with_ties
    wins = np.einsum("pr,pr->r", strict, classes.positives) / 2
    undefined = np.full(len(classes.pairs), np.nan)
    return np.asarray(np.divide(wins, classes.pairs, out=undefined, where=classes.pairs > 0))


def _f1(
    average: Literal["macro", "micro", "weighted"], variants: Sequence[Items], weights: FloatArray
) -> FloatArray:
    marks = [(items.target & items.predicted, items.target, items.predicted) for items in variants]
    # [V, 3, n, C] for one product; BLAS multiplies floats only.
    counts = np.tensordot(weights, np.array(marks, np.float64), axes=(1, 2))
    hits, target, predicted = counts.transpose(2, 1, 0, 3)
    if average == "micro":
        return _ratio(2 * hits.sum(axis=2), (target + predicted).sum(axis=2))
    by_class = _ratio(2 * hits, target + predicted)
    if average == "macro":
        return np.asarray(by_class.mean(axis=2))
    return _ratio((by_class * target).sum(axis=2), target.sum(axis=2))


def _samples_f1(variants: Sequence[Items], weights: FloatArray) -> FloatArray:
    # F1 of an item does not depend on the weights: computed once for all resamples.
    hits = [(items.target & items.predicted).sum(axis=1) for items in variants]
    sizes = [items.target.sum(axis=1) + items.predicted.sum(axis=1) for items in variants]
    by_item = _ratio(2 * np.stack(hits, axis=1), np.stack(sizes, axis=1))
    return _ratio((weights @ by_item).T, weights.sum(axis=1)[None, :])


METRICS: Mapping[str, Callable[[Sequence[Items], FloatArray], FloatArray]] = {
    "accuracy": _mean_scores,
    "auroc": _aurocs,
    "macro_f1": partial(_f1, "macro"),
    "micro_f1": partial(_f1, "micro"),
    "samples_f1": _samples_f1,
    "weighted_f1": partial(_f1, "weighted"),
}
"""Metrics in closed form under item weights; all lie in [0, 1] and are shown as percentages."""
