"""Entries against the control: paired differences, corrected verdicts, what a board can see."""

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.leaderboards.stats import intervals as stats
from steelyard.leaderboards.stats import power
from steelyard.leaderboards.stats.intervals import Interval, Sample


@dataclass(frozen=True, slots=True)
class ControlDifference:
    """An entry minus the control, paired by seed and item."""

    interval: Interval
    adjusted: float
    """Holm-adjusted p-value over the entries of the task."""
    verdict: str
    """``better`` or ``worse`` than the control where the adjusted p is below 5 %, else empty."""


@dataclass(frozen=True, slots=True)
class DetectableDifference:
    """The smallest difference to the control that is found with 80 % chance.

    From the median spread of the board's own paired differences, so for its seeds and its items.
    """

    alone: float
    """Where one entry is compared."""
    corrected: float
    """Where it has to pass Holm's first step over all entries."""


def differences(
    samples: Mapping[str, Sample], control: str, *, higher_is_better: bool
) -> dict[str, ControlDifference]:
    """Each other entry minus the control, by label; none where the control is not there."""
    others = [label for label in samples if label != control]
    if control not in samples or not others:
        return {}
    pairs = [stats.minus(samples[label], samples[control]) for label in others]
    intervals = dict(zip(others, stats.intervals(pairs), strict=True))
    adjusted = stats.holm({label: interval.p for label, interval in intervals.items()})
    found = {}
    for label, interval in intervals.items():
        good = (interval.mean > 0) == higher_is_better
        verdict = ("better" if good else "worse") if adjusted[label] < stats.SIGNIFICANT else ""
        found[label] = ControlDifference(interval, adjusted[label], verdict)
    return found


def detectable(samples: Mapping[str, Sample], control: str) -> DetectableDifference | None:
    """What differences to the control these samples can show; None where nothing is compared."""
    if control not in samples or len(samples) == 1:
        return None
    base = samples[control]
    pairs = [stats.minus(sample, base) for label, sample in samples.items() if label != control]
    return DetectableDifference(power.detectable(pairs), power.detectable(pairs, tests=len(pairs)))
