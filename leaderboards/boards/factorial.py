"""A factorial of one method's options: a table by levels, and what each level does on average."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from steelyard import methods
from steelyard.harness.models import registry
from steelyard.leaderboards.boards.profile import COMPOSITE, composite
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.output.sheet import Cell, Sheet
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import Interval, Sample

FEWEST = 4
"""Entries of one method below which its options are no design."""
RATE = "learning_rate"
OptionLevel = str | int | float | bool


@dataclass(frozen=True, slots=True)
class FactorialCell:
    """One entry of the factorial."""

    label: str
    levels: Mapping[str, OptionLevel]
    scores: Mapping[str, Interval]
    """By column name, the composite included."""


@dataclass(frozen=True, slots=True)
class LevelEffect:
    """One level of a factor against another, over pairs of entries equal in all else."""

    factor: str
    level: OptionLevel
    other: OptionLevel
    pairs: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Factorial:
    """All entries of one method that differ in two or more options."""

    method: str
    factors: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[FactorialCell, ...]
    effects: tuple[LevelEffect, ...]


def factorials(
    groups: Mapping[str, Sequence[Run]],
    samples: Mapping[str, Mapping[str, Sample]],
    shown: Sequence[ProfileColumn],
) -> list[Factorial]:
    """The factorials among complete entries; a method without one gives none."""
    by_method: dict[str, list[str]] = {}
    for label, runs in groups.items():
        if not runs[0].record.spec.method.endswith(".py"):
            by_method.setdefault(runs[0].record.spec.method, []).append(label)
    found = []
    for method, labels in sorted(by_method.items()):
        levels = {label: options(groups[label][0]) for label in labels}
        given = {name for label in labels for name in groups[label][0].record.spec.options}
        varied = [*sorted(given), RATE]
        factors = [n for n in varied if len({levels[label][n] for label in labels}) > 1]
        if len(factors) >= 2 and len(labels) >= FEWEST:
            chosen = {label: {n: levels[label][n] for n in factors} for label in labels}
            found.append(_factorial(method, factors, chosen, samples, shown))
    return found


def options(run: Run) -> dict[str, OptionLevel]:
    """All options of a run's method, defaults included, and its learning rate.

    A rate of its own is a factor as any other: entries that differ in it are equal in less.
    """
    spec = run.record.spec
    method = methods.load(spec.method)
    config = methods.configure(method, spec.options, registry.kind_of(spec.backbone))
    rate = "default" if spec.learning_rate is None else spec.learning_rate
    return {**asdict(config), RATE: rate}


def _factorial(
    method: str,
    factors: Sequence[str],
    levels: Mapping[str, Mapping[str, OptionLevel]],
    samples: Mapping[str, Mapping[str, Sample]],
    shown: Sequence[ProfileColumn],
) -> Factorial:
    columns = [column.name for column in shown if column.higher_is_better is not None]
    full = {
        label: {**{name: samples[label][name] for name in columns},
                COMPOSITE: composite(shown, samples[label])}
        for label in levels
    }  # fmt: skip
    names = (COMPOSITE, *columns)
    cells = [
        FactorialCell(label, levels[label], {n: intervals.interval(full[label][n]) for n in names})
        for label in sorted(levels, key=lambda label: [str(levels[label][f]) for f in factors])
    ]
    effects = [
        effect
        for factor in factors
        for one, other in combinations(sorted({levels[k][factor] for k in levels}, key=str), 2)
        if (effect := _effect(factor, other, one, levels, full, names)) is not None
    ]
    return Factorial(method, tuple(factors), names, tuple(cells), tuple(effects))


def _effect(
    factor: str,
    level: OptionLevel,
    other: OptionLevel,
    levels: Mapping[str, Mapping[str, OptionLevel]],
    full: Mapping[str, Mapping[str, Sample]],
    names: Sequence[str],
) -> LevelEffect | None:
    """Mean paired difference over entries that differ in this factor alone; None without any."""

    def rest(label: str) -> list[tuple[str, OptionLevel]]:
        return sorted((k, v) for k, v in levels[label].items() if k != factor)

    pairs = [
        (a, b)
        for a in sorted(levels)
        for b in sorted(levels)
        if levels[a][factor] == level and levels[b][factor] == other and rest(a) == rest(b)
    ]
    if not pairs:
        return None
    scores = {}
    for name in names:
        values = np.mean([full[a][name].values - full[b][name].values for a, b in pairs], axis=0)
        draws = np.mean([full[a][name].draws - full[b][name].draws for a, b in pairs], axis=0)
        scores[name] = intervals.interval(Sample(values, draws, full[pairs[0][0]][name].clusters))
    return LevelEffect(factor, level, other, len(pairs), scores)


def sheets(found: Factorial) -> tuple[Sheet, Sheet]:
    """The entries by their levels, and the effect of each level."""
    names = [name.replace("_", " ") for name in found.columns]
    rows = [
        tuple(Cell(text) for text in (
            *(_level(cell.levels[factor]) for factor in found.factors),
            *(f"{100 * cell.scores[n].mean:.1f} ± {100 * cell.scores[n].half:.1f}"
              for n in found.columns)))
        for cell in found.cells
    ]  # fmt: skip
    effects = []
    for effect in found.effects:
        texts = [effect.factor, _against(effect), str(effect.pairs)]
        for name in found.columns:
            each = effect.scores[name]
            clear = "" if each.low <= 0 <= each.high else " *"
            texts.append(f"{100 * each.mean:+.1f} ± {100 * each.half:.1f}{clear}")
        effects.append(tuple(Cell(text) for text in texts))
    return (
        Sheet(f"{found.method}: factorial", (*found.factors, *names), tuple(rows)),
        Sheet(
            f"{found.method}: what each level does, over pairs equal in all else (* interval "
            "without 0, not corrected for the number of effects)",
            ("factor", "levels", "pairs", *names),
            tuple(effects),
        ),
    )


def _against(effect: LevelEffect) -> str:
    return f"{_level(effect.level)} against {_level(effect.other)}"


def _level(level: OptionLevel) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def as_csv(designs: Sequence[Factorial]) -> str:
    """One line a cell or effect and column: levels as ``option=level``, mean and interval."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["method", "row", "name", "levels", "pairs", "column", "mean", "low", "high"])
    for design in designs:
        for cell in design.cells:
            levels = " ".join(f"{name}={_level(level)}" for name, level in cell.levels.items())
            table.writerows(_lines([design.method, "entry", cell.label, levels, ""], cell.scores))
        for effect in design.effects:
            start = [design.method, "effect", effect.factor, _against(effect), str(effect.pairs)]
            table.writerows(_lines(start, effect.scores))
    return out.getvalue()


def _lines(start: Sequence[str], scores: Mapping[str, Interval]) -> list[list[str]]:
    return [
        [*start, name, *(f"{value:.6g}" for value in (each.mean, each.low, each.high))]
        for name, each in scores.items()
    ]
