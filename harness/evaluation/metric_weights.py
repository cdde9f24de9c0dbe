"""Weights of a metric's items, found by calling the metric with made-up numbers.

A board resamples items, so it needs the contribution of each item to a metric. lmms-eval's metrics
are functions of all items' results; this finds out which of them are weighted means, and with
which weights. Other metrics (F1, pairs of questions) have no interval on boards.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError

MOST_CALLS = 3000
"""Number of items above which a metric is not called once per item."""
EXACT = 1e-9


def metric_weights(
    metric: Callable[..., Any], results: Sequence[Any], key: str
) -> NDArray[np.float64] | None:
    """Return the weight [n] of each item in a metric that is a weighted sum of one number per item.

    None for any other metric, and for one that also writes files or calls a judge (``args``).

        >>> def mean_of_categories(results):         # of two items of "a" and one of "b"
        ...     groups = [[r["score"] for r in results if r["kind"] == kind] for kind in "ab"]
        ...     return sum(sum(group) / len(group) for group in groups) / 2
        >>> results = [{"score": 1.0, "kind": kind} for kind in "aab"]
        >>> metric_weights(mean_of_categories, results, "score").tolist()
        [0.25, 0.25, 0.5]

    Three probes (all ones, uniform numbers, random 0 and 1) test a candidate: first equal weights,
    then those found with one call per item, 1 for the item and 0 for the others. ``results`` are
    numbers, or mappings with a number under ``key`` and further inputs of the metric.
    """
    if "args" in inspect.signature(metric).parameters:
        return None
    count = len(results)
    probe_results, current = list(results), np.full(count, np.nan)

    def call(numbers: NDArray[np.float64]) -> float:
        # Only changed items are rebuilt: consecutive probes often differ in two.
        for index in np.flatnonzero(numbers != current).tolist():
            number, result = float(numbers[index]), results[index]
            probe_results[index] = {**result, key: number} if isinstance(result, dict) else number
        current[:] = numbers
        value = metric(list(probe_results))
        return float(value) if is_number(value) else math.nan

    # A fixed seed: whether a metric gets an interval must not depend on chance.
    rng = np.random.default_rng(0)
    probes = (np.ones(count), rng.random(count), rng.integers(2, size=count).astype(float))
    try:
        values = [call(probe) for probe in probes]
        # A weighted sum of zeros is 0, and of ones the sum of the weights.
        if call(np.zeros(count)) != 0 or not values[0]:
            return None
        equal = np.full(count, values[0] / count)
        if _fits(equal, probes, values):
            return equal
        # A sum is linear; this spares one call per item for most other metrics.
        middle = call((probes[0] + probes[1]) / 2)
        if count > MOST_CALLS or not math.isclose(2 * middle, values[0] + values[1]):
            return None
        weights = np.array([call((np.arange(count) == index) * 1.0) for index in range(count)])
    except UserError:  # the metric refuses made-up numbers
        return None
    return weights if _fits(weights, probes, values) else None


def _fits(
    weights: NDArray[np.float64], probes: Sequence[NDArray[np.float64]], values: Sequence[float]
) -> bool:
    return all(
        math.isclose(weights @ probe, value, rel_tol=EXACT, abs_tol=EXACT)
        for probe, value in zip(probes, values, strict=True)
    )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)
