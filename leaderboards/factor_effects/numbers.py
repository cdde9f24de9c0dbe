"""Effect of one factor on reliance: profiles by level, and differences to the reference level.

Input are the tables of answers of ``harness.reliance``, one per seed and level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from steelyard.leaderboards.reliance.numbers import NUMBERS, measure
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import Interval, Sample

MAIN_NUMBERS = (
    "score.full",
    "score.text.blank",
    "gain.image.shuffled",
    "gain.text.shuffled",
    "same.text.blank",
    "conflict.text",
    "conflict.image",
)
"""Numbers in the page's tables; the CSV and JSON files have all."""


@dataclass(frozen=True, slots=True)
class LevelAnswers:
    """Answers of all seeds of one level on one task."""

    task: str
    parameter: str
    about: str
    """The parameter in words."""
    value: str
    reference: bool
    by_seed: Mapping[int, pd.DataFrame]


@dataclass(frozen=True, slots=True)
class LevelSamples:
    """Numbers of one level on one task, by seed and resample."""

    task: str
    parameter: str
    about: str
    value: str
    reference: bool
    seeds: tuple[int, ...]
    items: int
    samples: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class LevelNumbers:
    """Numbers of one level, and their differences to the reference level."""

    value: str
    reference: bool
    numbers: Mapping[str, Interval]
    effects: Mapping[str, Interval]
    """Differences, paired by seed and item; empty for the reference level."""

    @property
    def name(self) -> str:
        return f"{self.value} (reference)" if self.reference else self.value


@dataclass(frozen=True, slots=True)
class FactorCurve:
    """Levels of one parameter on one task."""

    task: str
    parameter: str
    about: str
    seeds: tuple[int, ...]
    items: int
    levels: tuple[LevelNumbers, ...]
    """In the order of the command."""


@dataclass(frozen=True, slots=True)
class Factor:
    """Parameters varied by one command."""

    name: str
    settings: Mapping[str, str]
    curves: tuple[FactorCurve, ...]


def measure_level(level: LevelAnswers) -> LevelSamples:
    """Compute the numbers of one level over its seeds, in seed order; scores are accuracies."""
    seeds = tuple(sorted(level.by_seed))
    runs = [level.by_seed[seed] for seed in seeds]
    return LevelSamples(
        task=level.task,
        parameter=level.parameter,
        about=level.about,
        value=level.value,
        reference=level.reference,
        seeds=seeds,
        items=int((runs[0]["view"] == "full").sum()),
        samples=measure(runs, level.task, higher_is_better=True),
    )


def build(name: str, levels: Sequence[LevelSamples], settings: Mapping[str, str]) -> Factor:
    """Build one curve per parameter and task; levels keep their order."""
    groups: dict[tuple[str, str], list[LevelSamples]] = {}
    for level in levels:
        groups.setdefault((level.task, level.parameter), []).append(level)
    return Factor(name, dict(settings), tuple(map(_curve, groups.values())))


def _curve(levels: Sequence[LevelSamples]) -> FactorCurve:
    first = levels[0]
    reference = next((level for level in levels if level.reference), None)
    return FactorCurve(
        task=first.task,
        parameter=first.parameter,
        about=first.about,
        seeds=first.seeds,
        items=first.items,
        levels=tuple(_effect(level, reference) for level in levels),
    )


def _effect(level: LevelSamples, reference: LevelSamples | None) -> LevelNumbers:
    names = [name for name in NUMBERS if name in level.samples]
    effects = {}
    if reference is not None and reference is not level:
        effects = {
            name: intervals.paired_difference(level.samples[name], reference.samples[name])
            for name in names
            if name in reference.samples
        }
    numbers = {name: intervals.interval(level.samples[name]) for name in names}
    return LevelNumbers(level.value, level.reference, numbers, effects)
