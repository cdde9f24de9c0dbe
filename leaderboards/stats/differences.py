"""Compare entries with the control: paired differences, Holm-corrected verdicts, power."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri, ndtr

from steelyard.leaderboards.stats import intervals as stats
from steelyard.leaderboards.stats.intervals import Interval, Sample, Spread

POWER = 0.80


@dataclass(frozen=True, slots=True)
class ControlDifference:
    """Entry minus control, paired by seed and item."""

    interval: Interval
    adjusted: float
    """Holm-adjusted p-value over the entries of the task."""
    verdict: str
    """``better`` or ``worse`` than the control where the adjusted p is below 5 %, else empty."""


@dataclass(frozen=True, slots=True)
class DetectableDifference:
    """Smallest difference to the control that is detected with 80 % power.

    From the median spread of the board's paired differences, so it holds for its seeds and items.
    """

    alone: float
    """If a single entry is compared."""
    corrected: float
    """If it must pass Holm's first step over all entries."""


class Comparison(NamedTuple):
    differences: Mapping[str, Mapping[str, ControlDifference]]
    """By label and column, Holm-adjusted within a column; empty for the control."""
    detectable: Mapping[str, DetectableDifference]
    """By column."""


def compare(
    columns: Mapping[str, Mapping[str, Sample]],
    control: str,
    is_higher_better: Callable[[str], bool],
) -> Comparison:
    """Compare all entries with the control, by samples of each column and label."""
    by_label: dict[str, dict[str, ControlDifference]] = {
        label: {} for samples in columns.values() for label in samples
    }
    smallest = {}
    for name, samples in columns.items():
        up = is_higher_better(name)
        for label, difference in differences(samples, control, higher_is_better=up).items():
            by_label[label][name] = difference
        if (limit := detectable(samples, control)) is not None:
            smallest[name] = limit
    return Comparison(by_label, smallest)


def differences(
    samples: Mapping[str, Sample], control: str, *, higher_is_better: bool
) -> dict[str, ControlDifference]:
    """Return every other entry minus the control, by label; empty without the control."""
    intervals = stats.named_intervals(_minus_control(samples, control))
    # Entries of one column are one family of tests: each column answers its own question.
    adjusted = stats.holm({label: interval.p for label, interval in intervals.items()})
    result = {}
    for label, interval in intervals.items():
        good = (interval.mean > 0) == higher_is_better
        verdict = ("better" if good else "worse") if adjusted[label] < stats.SIGNIFICANT else ""
        result[label] = ControlDifference(interval, adjusted[label], verdict)
    return result


def detectable(samples: Mapping[str, Sample], control: str) -> DetectableDifference | None:
    """Return the smallest detectable difference; None if nothing is compared with the control."""
    pairs = [*_minus_control(samples, control).values()]
    if not pairs:
        return None
    return DetectableDifference(
        detectable_difference(pairs),
        # Holm's first step divides by all tests; its later steps are easier to pass.
        detectable_difference(pairs, tests=len(pairs)),
    )


def _minus_control(samples: Mapping[str, Sample], control: str) -> dict[str, Sample]:
    if control not in samples:
        return {}
    base = samples[control]
    return {name: stats.minus(entry, base) for name, entry in samples.items() if name != control}


def detectable_difference(samples: Sequence[Sample], *, tests: int = 1) -> float:
    """Return the true difference whose interval excludes zero with probability ``POWER``.

    Uses only the median spread of the samples. The seeds' part has few degrees of freedom, so
    interval widths vary; the probability averages over that.

    Args:
        samples: paired differences.
        tests: number of tests to correct for; the smallest p-value must be below 5 % / tests.
    """
    spread = stats.spread_of(samples)
    # Chi-square needs a degree of freedom; with one seed the part it scales is 0 anyway.
    free = max(spread.seed_freedom, 1)
    # Variance estimates are skewed: of many, the median is below the mean by this factor.
    median_ratio = chdtri(free, 0.5) / free if len(samples) > 2 else 1.0
    seeds, items, floor = (
        float(np.median(part)) for part in (spread.seeds / median_ratio, spread.items, spread.floor)
    )
    # Midpoints of 400 equally likely slices: an integral that is the same in every build.
    chances = (np.arange(400) + 0.5) / 400
    estimates = seeds * chdtri(free, chances) / free
    clusters = np.full(400, np.median(spread.item_freedom), dtype=np.int64)
    same = np.ones(400)
    simulated = Spread(estimates, items * same, floor * same, spread.seed_freedom, clusters)
    halves, deviation = stats.margin(simulated, stats.SIGNIFICANT / tests), math.sqrt(seeds + items)
    # Three deviations above the widest margin the power is 99.9 %.
    low, high = 0.0, float(halves.max()) + 3 * deviation
    # 50 halvings use up the digits of a double.
    for _ in range(50):
        middle = (low + high) / 2
        # Only this tail: at 80 % power a verdict of the wrong sign is negligibly rare.
        power = ndtr((middle - halves) / deviation).mean() if deviation else 1.0
        low, high = (low, middle) if power >= POWER else (middle, high)
    return high
