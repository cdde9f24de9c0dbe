"""How entries stand damage: what they lose, at which strength, at worst, and what they still say.

A pure function of records and items. Every number is an average over severities first, then over
corruptions, then over the two sides, as on the board; damage of both sides at once is a group of
its own and in no such average. Differences to the control are paired by seed and by item.

Drop and relative drop follow MMI, (S_clean - S_damaged) / S_clean (Qiu et al., MM_Robustness, arXiv
2212.08044); the area is MultiBench's relative robustness, the area under the score against severity
(Liang et al., 2021), without its scaling to hard-coded best and worst curves; self-consistency is
MMCBench's answer to the damaged input compared with that to the clean one, which needs no labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.leaderboards.boards.measure import CLEAN
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.differences import ControlDifference, differences
from steelyard.leaderboards.stats.intervals import Interval, Sample
from steelyard.tasks.corruptions.columns import corruption_of, modality_of

MODALITIES = ("image", "text")
GROUPS = (*MODALITIES, "both")
NUMBERS = {
    "clean": "score of undamaged items",
    "drop": "clean minus damaged, mean over the two sides",
    "relative": "the drop as a share of the clean score",
    "drop.image": "clean minus damaged, image corruptions",
    "drop.text": "clean minus damaged, text corruptions",
    "drop.both": "clean minus damaged, damage of both sides at once",
    "area": "area under the score against severity, of corruptions with two severities or more",
    "worst": "score under the one variant that hurts most",
    "same": "answers equal to those on clean items, mean over the two sides",
    "same.image": "answers equal to those on clean items, image corruptions",
    "same.text": "answers equal to those on clean items, text corruptions",
    "same.both": "answers equal to those on clean items, damage of both sides at once",
}
"""Every number and what it is."""
COMPARED = ("drop", "relative", "area", "worst", "same")
"""Numbers in which every entry is compared with the control."""

Variants = Mapping[str, Sample]
"""A number of one entry by variant."""


@dataclass(frozen=True, slots=True)
class CorruptionVariants:
    """One corruption, or one combination of two."""

    name: str
    modality: str
    """A member of ``GROUPS``."""
    variants: tuple[str, ...]
    """In order of strength, where it has any."""
    levels: tuple[int, ...]
    """Severities or rates, one a variant; empty where strength is not a number."""


@dataclass(frozen=True, slots=True)
class VariantScores:
    """What is known of the entries of one task."""

    task: str
    metric: str
    higher_is_better: bool
    percent: bool
    """Whether the metric is a share, to be shown as a percentage."""
    scores: Mapping[str, Variants]
    """The main metric by label and variant, the clean one too."""
    same: Mapping[str, Variants]
    """The share of unchanged answers by label and damaged variant."""


@dataclass(frozen=True, slots=True)
class RobustnessRow:
    """One complete entry."""

    label: str
    worst: str
    """The variant that hurts it most, by the mean over seeds."""
    numbers: Mapping[str, Interval]
    """By the names of ``NUMBERS``, those that its variants give."""
    differences: Mapping[str, ControlDifference]
    """By the names of ``COMPARED``; empty for the control and where it is absent."""
    curves: Mapping[str, tuple[Interval, ...]]
    """By corruption, the score minus the clean one at each of its variants."""


@dataclass(frozen=True, slots=True)
class Robustness:
    """All entries of one task."""

    task: str
    metric: str
    higher_is_better: bool
    percent: bool
    control: str
    seeds: int
    clusters: int
    corruptions: tuple[CorruptionVariants, ...]
    rows: tuple[RobustnessRow, ...]
    """Least mean drop first; those without one last, by label."""


def corruptions_of(variants: Sequence[str]) -> tuple[CorruptionVariants, ...]:
    """The corruptions among these variants, in order of side and name."""
    named: dict[str, list[str]] = {}
    for variant in variants:
        if variant != CLEAN:
            named.setdefault(corruption_of(variant), []).append(variant)
    found = []
    for name, own in named.items():
        ends = [variant.partition(":")[2] for variant in own]
        graded = "+" not in name and all(end.isdecimal() for end in ends)
        ordered = sorted(own, key=lambda v: int(v.partition(":")[2])) if graded else sorted(own)
        levels = tuple(sorted(map(int, ends))) if graded else ()
        found.append(CorruptionVariants(name, modality_of(ordered[0]), tuple(ordered), levels))
    return tuple(sorted(found, key=lambda each: (GROUPS.index(each.modality), each.name)))


def build(measured: VariantScores, control: str) -> Robustness | None:
    """The summary of one task; None where nothing was damaged or no entry is complete."""
    if not measured.scores:
        return None
    first = next(iter(measured.scores.values()))
    corruptions = corruptions_of(list(first))
    if not corruptions:
        return None
    sign = 1 if measured.higher_is_better else -1
    found = {
        label: _summary(corruptions, scores, measured.same.get(label, {}), sign)
        for label, scores in measured.scores.items()
    }
    compared = {
        name: differences(
            {label: each[name] for label, each in found.items() if name in each},
            control,
            higher_is_better=_better(name, measured.higher_is_better),
        )
        for name in COMPARED
    }
    numbers = {name: _intervals(found, name) for name in NUMBERS}
    changes = _changes(corruptions, measured.scores)
    rows = [
        RobustnessRow(
            label=label,
            worst=_worst(corruptions, measured.scores[label], sign),
            numbers={name: by[label] for name, by in numbers.items() if label in by},
            differences={n: by[label] for n, by in compared.items() if label in by},
            curves={d.name: tuple(changes[v][label] for v in d.variants) for d in corruptions},
        )
        for label in found
    ]
    clean = first[CLEAN]
    return Robustness(
        task=measured.task,
        metric=measured.metric,
        higher_is_better=measured.higher_is_better,
        percent=measured.percent,
        control=control,
        seeds=len(clean.values),
        clusters=clean.clusters,
        corruptions=corruptions,
        rows=tuple(sorted(rows, key=_standing)),
    )


def _better(name: str, higher_is_better: bool) -> bool:
    """Whether more of a number is better."""
    if name in ("drop", "relative"):
        return False
    return True if name == "same" else higher_is_better


def _standing(row: RobustnessRow) -> tuple[float, str]:
    drop = row.numbers.get("drop")
    return (np.inf if drop is None else drop.mean, row.label)


def _summary(
    corruptions: Sequence[CorruptionVariants], scores: Variants, same: Variants, sign: int
) -> dict[str, Sample]:
    """Every number of ``NUMBERS`` that there are variants for."""
    clean = scores[CLEAN]
    found = {"clean": clean, "worst": scores[_worst(corruptions, scores, sign)]}
    drops = {}
    for modality, corrupted in _by_side(corruptions, scores).items():
        drops[modality] = _scaled(intervals.minus(clean, corrupted), sign)
    found |= {f"drop.{modality}": drop for modality, drop in drops.items()}
    if both := [drops[modality] for modality in MODALITIES if modality in drops]:
        found["drop"] = mean(both)
        relative = _over(found["drop"], clean)
        found |= {"relative": relative} if np.isfinite(relative.values).all() else {}
    kept = _by_side(corruptions, same) if same else {}
    found |= {f"same.{modality}": share for modality, share in kept.items()}
    if both := [kept[modality] for modality in MODALITIES if modality in kept]:
        found["same"] = mean(both)
    areas = [
        mean([area(each, scores) for each in graded])
        for modality in MODALITIES
        if (graded := [d for d in corruptions if d.modality == modality and len(d.levels) > 1])
    ]
    return found | ({"area": mean(areas)} if areas else {})


def _by_side(corruptions: Sequence[CorruptionVariants], numbers: Variants) -> dict[str, Sample]:
    """Averages over variants, then over corruptions, of each side and of both together."""
    return {
        modality: mean([mean([numbers[v] for v in each.variants]) for each in own])
        for modality in GROUPS
        if (own := [corruption for corruption in corruptions if corruption.modality == modality])
    }


def _worst(corruptions: Sequence[CorruptionVariants], scores: Variants, sign: int) -> str:
    variants = [variant for corruption in corruptions for variant in corruption.variants]
    return min(variants, key=lambda v: (sign * float(scores[v].values.mean()), v))


def area(corruption: CorruptionVariants, scores: Variants) -> Sample:
    """Area under the score against strength from clean to the strongest, divided by its width.

    By the trapezoidal rule; a score that does not fall has an area equal to itself.
    """
    places = np.array([0, *corruption.levels], dtype=np.float64) / corruption.levels[-1]
    steps = np.diff(places)
    weights = np.concatenate([steps, [0]]) / 2 + np.concatenate([[0], steps]) / 2
    samples = [scores[CLEAN], *(scores[variant] for variant in corruption.variants)]
    values = sum(w * each.values for w, each in zip(weights, samples, strict=True))
    draws = sum(w * each.draws for w, each in zip(weights, samples, strict=True))
    return Sample(np.asarray(values), np.asarray(draws), samples[0].clusters)


def mean(samples: Sequence[Sample]) -> Sample:
    """Their mean, seed by seed and resample by resample."""
    values = np.mean([each.values for each in samples], axis=0)
    draws = np.mean([each.draws for each in samples], axis=0)
    return Sample(values, draws, samples[0].clusters)


def _scaled(sample: Sample, sign: int) -> Sample:
    return Sample(sign * sample.values, sign * sample.draws, sample.clusters)


def _over(drop: Sample, clean: Sample) -> Sample:
    """A drop as a share of the clean score, NaN where that is 0."""
    shares = [
        np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
        for top, bottom in ((drop.values, clean.values), (drop.draws, clean.draws))
    ]
    return Sample(shares[0], shares[1], drop.clusters)


def _intervals(samples: Mapping[str, Variants], name: str) -> dict[str, Interval]:
    """One number of every entry that has it, by label: of all at once, which is much faster."""
    own = {label: each[name] for label, each in samples.items() if name in each}
    return dict(zip(own, intervals.intervals(list(own.values())), strict=True)) if own else {}


def _changes(
    corruptions: Sequence[CorruptionVariants], scores: Mapping[str, Variants]
) -> dict[str, dict[str, Interval]]:
    """Every variant's score minus the entry's clean one, by variant and label."""
    return {
        variant: _intervals(
            {k: {variant: intervals.minus(own[variant], own[CLEAN])} for k, own in scores.items()},
            variant,
        )
        for corruption in corruptions
        for variant in corruption.variants
    }
