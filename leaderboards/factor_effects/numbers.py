"""Effect of one factor on reliance: profiles by level, and differences to the reference level.

Input are the tables of answers of ``harness.reliance``, one per seed and level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from steelyard.leaderboards.reliance.numbers import NUMBERS, measure
from steelyard.leaderboards.stats.intervals import Interval, Sample, interval, paired_difference


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


def build(name: str, levels: Sequence[LevelAnswers], settings: Mapping[str, str]) -> Factor:
    """Build one curve per parameter and task; levels keep their order. Scores are accuracies."""
    groups: dict[tuple[str, str], list[LevelAnswers]] = {}
    for level in levels:
        groups.setdefault((level.task, level.parameter), []).append(level)
    return Factor(name, dict(settings), tuple(map(_curve, groups.values())))


def _curve(levels: Sequence[LevelAnswers]) -> FactorCurve:
    first = levels[0]
    seeds = tuple(sorted(first.by_seed))
    tables = [[level.by_seed[seed] for seed in sorted(level.by_seed)] for level in levels]
    samples = [measure(runs, first.task, higher_is_better=True) for runs in tables]
    pairs = list(zip(levels, samples, strict=True))
    reference = next((sample for level, sample in pairs if level.reference), {})
    return FactorCurve(
        task=first.task,
        parameter=first.parameter,
        about=first.about,
        seeds=seeds,
        items=int((tables[0][0]["view"] == "full").sum()),
        levels=tuple(_level(level, sample, reference) for level, sample in pairs),
    )


def _level(
    level: LevelAnswers, samples: Mapping[str, Sample], reference: Mapping[str, Sample]
) -> LevelNumbers:
    numbers = {name: interval(samples[name]) for name in NUMBERS if name in samples}
    effects = {
        name: paired_difference(samples[name], reference[name])
        for name in numbers
        if name in reference and samples is not reference
    }
    return LevelNumbers(level.value, level.reference, numbers, effects)
