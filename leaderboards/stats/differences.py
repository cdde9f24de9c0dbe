"""Compare entries with the control: paired differences, Holm-corrected verdicts, power."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from steelyard.leaderboards.stats import intervals as stats
from steelyard.leaderboards.stats import power
from steelyard.leaderboards.stats.intervals import Interval, Sample


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
    return DetectableDifference(power.detectable(pairs), power.detectable(pairs, tests=len(pairs)))


def _minus_control(samples: Mapping[str, Sample], control: str) -> dict[str, Sample]:
    if control not in samples:
        return {}
    base = samples[control]
    return {name: stats.minus(entry, base) for name, entry in samples.items() if name != control}
