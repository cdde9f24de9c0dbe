"""Tell whether balance comes from a better weak modality or from a worse strong one."""

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.leaderboards.stats.differences import ControlDifference, differences
from steelyard.leaderboards.stats.intervals import Sample, minus, scaled

OTHER = {"text": "image", "image": "text"}


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Both modalities of one entry against those of the control.

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
    clean: Mapping[str, ControlDifference],
    control: str,
    *,
    higher_is_better: bool,
) -> tuple[str, dict[str, Tradeoff]]:
    """Return the control's strong modality, and the tradeoff of every other entry by label.

    Args:
        samples: by label, the scores with ``image`` and with ``text`` corrupted.
        clean: differences to the control on clean inputs.
        control: label of the control; without it the result is empty.
        higher_is_better: direction of the metric.
    """
    if control not in samples:
        return "", {}
    only_text, only_image = (samples[control][name].values.mean() for name in ("image", "text"))
    strong = "text" if (only_text > only_image) == higher_is_better else "image"
    weak = OTHER[strong]
    strong_scores = {label: entry[weak] for label, entry in samples.items()}
    weak_scores = {label: entry[strong] for label, entry in samples.items()}
    sign = 1 if higher_is_better else -1
    gaps = {
        label: scaled(minus(strong_scores[label], weak_scores[label]), sign) for label in samples
    }
    strong_differences, weak_differences = (
        differences(scores, control, higher_is_better=higher_is_better)
        for scores in (strong_scores, weak_scores)
    )
    sizes = {label: abs(float(gap.values.mean())) for label, gap in gaps.items()}
    result = {}
    for label, gap in differences(gaps, control, higher_is_better=False).items():
        closes = gap.verdict == "better" and sizes[label] < sizes[control]
        hurts = "worse" in (strong_differences[label].verdict, clean[label].verdict)
        result[label] = Tradeoff(
            strong_differences[label], weak_differences[label], gap, closes and hurts
        )
    return strong, result
