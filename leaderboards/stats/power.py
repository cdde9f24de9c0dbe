"""Estimate the smallest true difference that a board's seeds and items would show."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import chdtri, ndtr

from steelyard.leaderboards.stats.intervals import SIGNIFICANT, Sample, Spread, margin, spread_of

POWER = 0.80


def detectable(samples: Sequence[Sample], *, tests: int = 1) -> float:
    """Return the true difference whose interval excludes zero with probability ``POWER``.

    Uses only the median spread of the samples. The seeds' part has few degrees of freedom, so
    interval widths vary; the probability averages over that.

    Args:
        samples: paired differences.
        tests: number of tests to correct for; the smallest p-value must be below 5 % / tests.
    """
    spread = spread_of(samples)
    free = max(spread.seed_freedom, 1)
    middle = chdtri(free, 0.5) / free if len(samples) > 2 else 1.0
    seeds, items, floor = (
        float(np.median(part)) for part in (spread.seeds / middle, spread.items, spread.floor)
    )
    chances = (np.arange(400) + 0.5) / 400
    estimates = seeds * chdtri(free, chances) / free
    clusters = np.full(400, np.median(spread.item_freedom), dtype=np.int64)
    same = np.ones(400)
    simulated = Spread(estimates, items * same, floor * same, spread.seed_freedom, clusters)
    halves, deviation = margin(simulated, SIGNIFICANT / tests), math.sqrt(seeds + items)
    low, high = 0.0, float(halves.max()) + 3 * deviation
    for _ in range(50):
        middle = (low + high) / 2
        power = ndtr((middle - halves) / deviation).mean() if deviation else 1.0
        low, high = (low, middle) if power >= POWER else (middle, high)
    return high
