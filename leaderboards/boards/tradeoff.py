"""What an entry's balance is made of: the weak side raised, or the strong side lowered."""

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.leaderboards.stats.differences import ControlDifference, differences
from steelyard.leaderboards.stats.intervals import Sample, minus


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """One entry's two sides against the control's.

    A side is measured by what is left to it: its score is that with the other side impaired.
    """

    strong: ControlDifference
    """Of the side that is the stronger one in the control."""
    weak: ControlDifference
    gap: ControlDifference
    """Of strong minus weak; its verdict says ``better`` where the gap closes."""
    traded: bool
    """The gap closes while the strong side or the clean score falls, each after Holm's correction:
    balance bought by hurting the strong modality."""

    @property
    def by_name(self) -> dict[str, ControlDifference]:
        """The three differences."""
        return {"strong": self.strong, "weak": self.weak, "gap": self.gap}


def strong_modality(image: Sample, text: Sample, *, higher_is_better: bool) -> str:
    """The stronger side of an entry, from its scores with ``image`` and with ``text`` impaired."""
    text_left, image_left = image.values.mean(), text.values.mean()
    return "text" if (text_left > image_left) == higher_is_better else "image"


def tradeoffs(
    modalities: Mapping[str, Mapping[str, Sample]],
    clean: Mapping[str, ControlDifference],
    control: str,
    *,
    higher_is_better: bool,
) -> tuple[str, dict[str, Tradeoff]]:
    """The control's strong side, and the trade of every other entry by label.

    Args:
        sides: by label, the samples with ``image`` and with ``text`` impaired.
        clean: differences to the control on clean inputs.
        control: label of the control; without it there is nothing to tell.
        higher_is_better: direction of the metric.
    """
    if control not in modalities:
        return "", {}
    strong = strong_modality(**modalities[control], higher_is_better=higher_is_better)
    other = "image" if strong == "text" else "text"
    # With one side impaired the other is what is left.
    left = {label: (found[other], found[strong]) for label, found in modalities.items()}
    sign = 1 if higher_is_better else -1
    gaps = {label: scaled(minus(one, two), sign) for label, (one, two) in left.items()}
    up, down = (
        differences(
            {label: pair[place] for label, pair in left.items()},
            control,
            higher_is_better=higher_is_better,
        )
        for place in (0, 1)
    )
    before = abs(float(gaps[control].values.mean()))
    closing = differences(gaps, control, higher_is_better=False)
    found = {}
    for label, gap in closing.items():
        narrower = abs(float(gaps[label].values.mean())) < before
        hurt = "worse" in (up[label].verdict, clean[label].verdict)
        bought = gap.verdict == "better" and narrower and hurt
        found[label] = Tradeoff(up[label], down[label], gap, bought)
    return strong, found


def scaled(sample: Sample, sign: int) -> Sample:
    """The sample, or its negative."""
    return Sample(sign * sample.values, sign * sample.draws, sample.clusters)
