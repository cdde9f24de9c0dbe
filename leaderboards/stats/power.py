"""What a board can see: the smallest true difference that its seeds and items would show."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import chdtri, ndtr

from steelyard.leaderboards.stats.intervals import SIGNIFICANT, Sample, Spread, margin, spread_of

POWER = 0.80


def detectable(samples: Sequence[Sample], *, tests: int = 1) -> float:
    """The true difference whose interval leaves out zero with 80 % chance.

    For paired differences with the median spread of the given ones, of which only that counts.
    The seeds' part is estimated with few degrees of freedom, so intervals of one truth differ in
    width; the chance is taken over all of them.

    Args:
        samples: paired differences.
        tests: how many are corrected for; the smallest p-value then has to pass 5 % over these.
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
    alike = Spread(estimates, items * same, floor * same, spread.seed_freedom, clusters)
    halves, deviation = margin(alike, SIGNIFICANT / tests), math.sqrt(seeds + items)
    low, high = 0.0, float(halves.max()) + 3 * deviation
    for _ in range(50):
        middle = (low + high) / 2
        found = ndtr((middle - halves) / deviation).mean() if deviation else 1.0
        low, high = (low, middle) if found >= POWER else (middle, high)
    return high
