"""What one factor does to reliance: profiles by level, and differences to the reference level.

A pure function of the answers of ``harness.reliance``, one table a seed and level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from steelyard.leaderboards.reliance.numbers import NUMBERS, measure
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import Interval, Sample

SHOWN = (
    "score.full",
    "score.text.blank",
    "gain.image.shuffled",
    "gain.text.shuffled",
    "same.text.blank",
    "conflict.text",
    "conflict.image",
)
"""Numbers of the page's tables; the CSV and JSON files have all."""


@dataclass(frozen=True, slots=True)
class Group:
    """The answers about one task of all seeds of one level."""

    task: str
    knob: str
    about: str
    """The knob in words."""
    value: str
    reference: bool
    by_seed: Mapping[int, pd.DataFrame]


@dataclass(frozen=True, slots=True)
class Measured:
    """A group with its numbers."""

    task: str
    knob: str
    about: str
    value: str
    reference: bool
    seeds: tuple[int, ...]
    items: int
    samples: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class Point:
    """One level."""

    value: str
    reference: bool
    numbers: Mapping[str, Interval]
    effects: Mapping[str, Interval]
    """Minus the reference level, paired by seed and item; empty for that level itself."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One knob and one task."""

    task: str
    knob: str
    about: str
    seeds: tuple[int, ...]
    items: int
    points: tuple[Point, ...]
    """In the order in which they were given."""


@dataclass(frozen=True, slots=True)
class Factor:
    """Everything that one command varied."""

    name: str
    settings: Mapping[str, str]
    curves: tuple[Curve, ...]


def measured(group: Group) -> Measured:
    """The numbers of one level over its seeds, in seed order; scores are accuracies."""
    seeds = tuple(sorted(group.by_seed))
    runs = [group.by_seed[seed] for seed in seeds]
    samples = measure(runs, group.task, higher_is_better=True)
    items = int((runs[0]["view"] == "full").sum())
    place = (group.task, group.knob, group.about, group.value, group.reference)
    return Measured(*place, seeds, items, samples)


def build(name: str, found: Sequence[Measured], settings: Mapping[str, str]) -> Factor:
    """One curve a knob and task; levels keep their order."""
    kinds = list(dict.fromkeys((each.task, each.knob) for each in found))
    curves = [_curve([each for each in found if (each.task, each.knob) == kind]) for kind in kinds]
    return Factor(name, dict(settings), tuple(curves))


def _curve(levels: Sequence[Measured]) -> Curve:
    first = levels[0]
    usual = next((each for each in levels if each.reference), None)
    return Curve(
        task=first.task,
        knob=first.knob,
        about=first.about,
        seeds=first.seeds,
        items=first.items,
        points=tuple(_point(each, usual) for each in levels),
    )


def _point(level: Measured, usual: Measured | None) -> Point:
    names = [name for name in NUMBERS if name in level.samples]
    compared = [] if usual in (None, level) else [n for n in names if n in usual.samples]
    effects = {
        name: intervals.paired_difference(level.samples[name], usual.samples[name])
        for name in compared
        if usual is not None
    }
    numbers = {name: intervals.interval(level.samples[name]) for name in names}
    return Point(level.value, level.reference, numbers, effects)
