"""Tell whether balance comes from a better weak modality or from a worse strong one."""

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.leaderboards.stats.differences import ControlDifference, differences
from steelyard.leaderboards.stats.intervals import Sample, minus, scaled
from steelyard.tasks.corruptions.variants import CLEAN

OTHER = {"text": "image", "image": "text"}


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Differences of both modalities to the control.

    The score of a modality is the score with the other modality corrupted.
    """

    strong: ControlDifference
    """Of the modality that is the stronger one in the control."""
    weak: ControlDifference
    gap: ControlDifference
    """Of strong minus weak; ``better`` if the gap closes."""
    traded: bool
    """The gap closes while the strong modality or the clean score falls, each significant after
    Holm's correction: balance traded for performance."""

    @property
    def by_name(self) -> dict[str, ControlDifference]:
        return {"strong": self.strong, "weak": self.weak, "gap": self.gap}


def tradeoffs(
    samples: Mapping[str, Mapping[str, Sample]],
    compared: Mapping[str, Mapping[str, ControlDifference]],
    control: str,
    up: Mapping[str, bool],
) -> tuple[str, dict[str, Tradeoff]]:
    """Return the control's strong modality, and the tradeoff of every other entry by label.

    Args:
        samples: by label and column; the result is empty unless both modalities have one.
        compared: differences to the control by label and column.
        control: label of the control; without it the result is empty.
        up: whether higher is better, by column.
    """
    if control not in samples or not OTHER.keys() <= samples[control].keys():
        return "", {}
    higher = up[CLEAN]
    only_text, only_image = (samples[control][name].values.mean() for name in ("image", "text"))
    strong = "text" if (only_text > only_image) == higher else "image"
    # The score of a modality is the one with the other corrupted.
    strong_scores = {label: entry[OTHER[strong]] for label, entry in samples.items()}
    weak_scores = {label: entry[strong] for label, entry in samples.items()}
    # Positive where the strong modality is ahead, in either direction of the metric.
    gaps = {
        label: scaled(minus(score, weak_scores[label]), 1 if higher else -1)
        for label, score in strong_scores.items()
    }
    strong_differences, weak_differences = (
        differences(scores, control, higher_is_better=higher)
        for scores in (strong_scores, weak_scores)
    )
    sizes = {label: abs(float(gap.values.mean())) for label, gap in gaps.items()}
    result = {}
    for label, gap in differences(gaps, control, higher_is_better=False).items():
        difference = strong_differences[label]
        # A gap that turns around falls too, and may be wider than before.
        closes = gap.verdict == "better" and sizes[label] < sizes[control]
        hurts = "worse" in (difference.verdict, compared[label][CLEAN].verdict)
        result[label] = Tradeoff(difference, weak_differences[label], gap, closes and hurts)
    return strong, result
