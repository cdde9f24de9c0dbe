"""Measure how entries stand corruption: drops, areas, worst cases, unchanged answers.

A pure function of records and items. Numbers are averaged over severities, then corruptions, then
both modalities, as on the board; corruptions of both modalities at once are a group of their own,
in no such average. Differences to the control are paired by seed and item.

Drop and relative drop follow MMI, (S_clean - S_corrupted) / S_clean (Qiu et al., MM_Robustness,
arXiv 2212.08044); the area is MultiBench's relative robustness, the area under the score against
severity (Liang et al., 2021), without its scaling to hard-coded best and worst curves;
self-consistency is MMCBench's comparison of the answers to corrupted and clean input, which needs
no labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.harness.core.examples import MODALITIES
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.differences import ControlDifference, compare
from steelyard.leaderboards.stats.intervals import Interval, Sample, averaged, scaled
from steelyard.tasks.corruptions.columns import corruption_of, modality_of
from steelyard.tasks.corruptions.variants import CLEAN

GROUPS = (*MODALITIES, "both")
NUMBERS = {
    "clean": "score on clean items",
    "drop": "clean minus corrupted, mean over both modalities",
    "relative": "the drop as a fraction of the clean score",
    "drop.image": "clean minus corrupted, image corruptions",
    "drop.text": "clean minus corrupted, text corruptions",
    "drop.both": "clean minus corrupted, corruptions of both modalities at once",
    "area": "area under the score against severity, of corruptions with two severities or more",
    "worst": "score on the variant that hurts most",
    "same": "answers equal to those on clean items, mean over both modalities",
    "same.image": "answers equal to those on clean items, image corruptions",
    "same.text": "answers equal to those on clean items, text corruptions",
    "same.both": "answers equal to those on clean items, corruptions of both modalities at once",
}
"""Every number with its meaning."""
COMPARED = ("drop", "relative", "area", "worst", "same")
"""Numbers in which every entry is compared with the control."""

VariantSamples = Mapping[str, Sample]
"""A number of one entry by variant."""


@dataclass(frozen=True, slots=True)
class CorruptionVariants:
    """Variants of one corruption, or of one combination of two."""

    name: str
    modality: str
    """A member of ``GROUPS``."""
    variants: tuple[str, ...]
    """By ascending severity or rate, if there is one."""
    levels: tuple[int, ...]
    """Severity or rate of each variant; empty if it is not a number."""


@dataclass(frozen=True, slots=True)
class VariantScores:
    """Scores of all complete entries of one task."""

    task: str
    metric: str
    higher_is_better: bool
    percent: bool
    """Whether the metric is a fraction, to be shown as a percentage."""
    scores: Mapping[str, VariantSamples]
    """The main metric by label and variant, with the clean one."""
    same: Mapping[str, VariantSamples]
    """The fraction of unchanged answers by label and corrupted variant."""


@dataclass(frozen=True, slots=True)
class RobustnessRow:
    label: str
    worst: str
    """The variant that hurts it most, by the mean over seeds."""
    numbers: Mapping[str, Interval]
    """By the names of ``NUMBERS`` that its variants give."""
    differences: Mapping[str, ControlDifference]
    """By the names of ``COMPARED``; empty for the control and without it."""
    curves: Mapping[str, tuple[Interval, ...]]
    """By corruption, the score minus the clean one at each of its variants."""


@dataclass(frozen=True, slots=True)
class Robustness:
    task: str
    metric: str
    higher_is_better: bool
    percent: bool
    control: str
    seeds: int
    clusters: int
    corruptions: tuple[CorruptionVariants, ...]
    rows: tuple[RobustnessRow, ...]
    """Smallest mean drop first; those without one last, by label."""


def corruptions_of(variants: Sequence[str]) -> tuple[CorruptionVariants, ...]:
    """Group variants by corruption, in order of modality and name."""
    by_name: dict[str, list[str]] = {}
    for variant in variants:
        if variant != CLEAN:
            by_name.setdefault(corruption_of(variant), []).append(variant)
    corruptions = []
    for name, members in by_name.items():
        ends = [variant.partition(":")[2] for variant in members]
        # A combination has two severities, so no single scale.
        graded = "+" not in name and all(end.isdecimal() for end in ends)
        members = (
            sorted(members, key=lambda v: int(v.partition(":")[2])) if graded else sorted(members)
        )
        levels = tuple(sorted(map(int, ends))) if graded else ()
        modality = modality_of(members[0])
        corruptions.append(CorruptionVariants(name, modality, tuple(members), levels))
    return tuple(sorted(corruptions, key=lambda c: (GROUPS.index(c.modality), c.name)))


def build(variant_scores: VariantScores, control: str) -> Robustness | None:
    """Summarise one task; None without corruptions or without a complete entry."""
    scores, up = variant_scores.scores, variant_scores.higher_is_better
    first = next(iter(scores.values()), None)
    corruptions = corruptions_of(list(first)) if first else ()
    if not first or not corruptions:
        return None
    sign = 1 if up else -1
    variants = [variant for corruption in corruptions for variant in corruption.variants]
    # Chosen once, by the means: the worst of each seed would pick its noise.
    worst = {
        label: min(variants, key=lambda v: (sign * float(entry[v].values.mean()), v))
        for label, entry in scores.items()
    }
    samples = {
        label: _numbers(corruptions, entry, variant_scores.same.get(label, {}), sign)
        | {"worst": entry[worst[label]]}
        for label, entry in scores.items()
    }
    columns = {
        name: {label: entry[name] for label, entry in samples.items() if name in entry}
        for name in NUMBERS
    }
    numbers = {name: intervals.named_intervals(by_label) for name, by_label in columns.items()}
    compared = compare(
        {name: columns[name] for name in COMPARED if columns[name]},
        control,
        # Unchanged answers are good and drops bad under any metric.
        lambda name: name == "same" or (up and name not in ("drop", "relative")),
    ).differences
    changes = {
        variant: intervals.named_intervals(
            {name: intervals.minus(entry[variant], entry[CLEAN]) for name, entry in scores.items()}
        )
        for variant in variants
    }
    rows = [
        RobustnessRow(
            label=label,
            worst=worst[label],
            numbers={name: by[label] for name, by in numbers.items() if label in by},
            differences=compared.get(label, {}),
            curves={c.name: tuple(changes[v][label] for v in c.variants) for c in corruptions},
        )
        for label in scores
    ]
    drops = {label: drop.mean for label, drop in numbers["drop"].items()}
    return Robustness(
        task=variant_scores.task,
        metric=variant_scores.metric,
        higher_is_better=up,
        percent=variant_scores.percent,
        control=control,
        seeds=len(first[CLEAN].values),
        clusters=first[CLEAN].clusters,
        corruptions=corruptions,
        rows=tuple(sorted(rows, key=lambda row: (drops.get(row.label, np.inf), row.label))),
    )


def _numbers(
    corruptions: Sequence[CorruptionVariants],
    scores: VariantSamples,
    same: VariantSamples,
    sign: int,
) -> dict[str, Sample]:
    """Return the numbers of ``NUMBERS`` that the variants give, but the worst."""
    clean = scores[CLEAN]
    numbers = {"clean": clean}
    drops = {
        modality: scaled(intervals.minus(clean, corrupted), sign)
        for modality, corrupted in _by_modality(corruptions, scores).items()
    }
    numbers |= {f"drop.{modality}": drop for modality, drop in drops.items()}
    if parts := [drops[modality] for modality in MODALITIES if modality in drops]:
        numbers["drop"] = averaged(parts)
        drop = numbers["drop"]
        # A clean score of 0 leaves nothing to be relative to; among resamples it gives NaN.
        if clean.values.all():
            nothing = np.full(clean.draws.shape, np.nan)
            draws = np.divide(drop.draws, clean.draws, out=nothing, where=clean.draws != 0)
            numbers["relative"] = Sample(drop.values / clean.values, draws, drop.clusters)
    unchanged = _by_modality(corruptions, same) if same else {}
    numbers |= {f"same.{modality}": sample for modality, sample in unchanged.items()}
    if parts := [unchanged[modality] for modality in MODALITIES if modality in unchanged]:
        numbers["same"] = averaged(parts)
    areas = [
        averaged([area(corruption, scores) for corruption in graded])
        for modality in MODALITIES
        if (graded := [c for c in corruptions if c.modality == modality and len(c.levels) > 1])
    ]
    return numbers | ({"area": averaged(areas)} if areas else {})


def _by_modality(
    corruptions: Sequence[CorruptionVariants], numbers: VariantSamples
) -> dict[str, Sample]:
    """Average over variants, then over corruptions, within each of ``GROUPS``."""
    return {
        # Severities first: a corruption with more of them has no more weight.
        modality: averaged([averaged([numbers[v] for v in c.variants]) for c in members])
        for modality in GROUPS
        if (members := [c for c in corruptions if c.modality == modality])
    }


def area(corruption: CorruptionVariants, scores: VariantSamples) -> Sample:
    """Return the area under the score against severity, from clean to the highest, over its width.

    By the trapezoidal rule; a constant score has an area equal to itself.
    """
    # Severity 0 is clean; the highest is 1, so that the area is a mean height.
    levels = np.array([0, *corruption.levels], dtype=np.float64) / corruption.levels[-1]
    steps = np.diff(levels)
    # As a weighted sum of samples, which keeps the pairing by seed and resample.
    weights = np.concatenate([steps, [0]]) / 2 + np.concatenate([[0], steps]) / 2
    samples = [scores[CLEAN], *(scores[variant] for variant in corruption.variants)]
    values = sum(w * sample.values for w, sample in zip(weights, samples, strict=True))
    draws = sum(w * sample.draws for w, sample in zip(weights, samples, strict=True))
    is_rate = all(sample.rate for sample in samples)
    return Sample(np.asarray(values), np.asarray(draws), samples[0].clusters, is_rate)
