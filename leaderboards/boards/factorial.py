"""Analyse a factorial of one method's options: scores by level, and the effect of each level."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations

from steelyard import methods
from steelyard.harness.models import registry
from steelyard.leaderboards.boards.board import Board, task_samples
from steelyard.leaderboards.boards.cells import with_half, words
from steelyard.leaderboards.boards.columns import COMPOSITE, Column
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.output.files import csv_text
from steelyard.leaderboards.output.sheet import Sheet, text_sheet
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import Interval, Sample

FEWEST = 4
"""Entries of one method that a factorial needs at least."""
RATE = "learning_rate"
OptionLevel = str | int | float | bool
Levels = Mapping[str, Mapping[str, OptionLevel]]
"""By label and factor."""
Samples = Mapping[str, dict[str, Sample]]
"""By label and column."""


@dataclass(frozen=True, slots=True)
class FactorialCell:
    """Entry of a factorial."""

    label: str
    levels: Mapping[str, OptionLevel]
    scores: Mapping[str, Interval]
    """By column name, with the composite."""


@dataclass(frozen=True, slots=True)
class FactorialEffect:
    """Effect of one level of a factor, over pairs of entries equal in all other factors."""

    factor: str
    level: OptionLevel
    baseline: OptionLevel
    pairs: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Factorial:
    """Entries of one method that differ in two or more options."""

    method: str
    factors: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[FactorialCell, ...]
    effects: tuple[FactorialEffect, ...]


def of_board(board: Board) -> list[Factorial]:
    """Find the factorials among the complete entries of a board of several scores."""
    samples = {
        label: {column.name: scores[column.task].column(column) for column in board.clean}
        for label, scores in board.measured.items()
    }
    return factorials(board.groups, samples, board.clean)


def factorials(
    groups: Mapping[str, Sequence[Run]], samples: Samples, clean: Sequence[Column]
) -> list[Factorial]:
    """Find the factorials among complete entries, at most one per method."""
    by_method: dict[str, list[str]] = {}
    for label, runs in groups.items():
        # Default options of a user's file are known only by running it.
        if not runs[0].record.spec.method.endswith(".py"):
            by_method.setdefault(runs[0].record.spec.method, []).append(label)
    result = []
    for method, labels in sorted(by_method.items()):
        levels = {label: options(groups[label][0]) for label in labels}
        changed = {name for label in labels for name in groups[label][0].record.spec.options}
        candidates = [*sorted(changed), RATE]
        # An option that was set alike in all entries is no factor.
        factors = [n for n in candidates if len({levels[label][n] for label in labels}) > 1]
        if len(factors) >= 2 and len(labels) >= FEWEST:
            by_label = {label: {n: levels[label][n] for n in factors} for label in labels}
            result.append(_factorial(method, factors, by_label, samples, clean))
    return result


def options(run: Run) -> dict[str, OptionLevel]:
    """Return all options of a run's method, with defaults and its learning rate.

    The learning rate is a factor like any other: entries that differ in it are not equal.
    """
    spec = run.record.spec
    method = methods.load(spec.method)
    config = methods.configure(method, spec.options, registry.kind_of(spec.backbone))
    rate = "default" if spec.learning_rate is None else spec.learning_rate
    return {**asdict(config), RATE: rate}


def _factorial(
    method: str,
    factors: Sequence[str],
    levels: Levels,
    samples: Samples,
    clean: Sequence[Column],
) -> Factorial:
    names = (COMPOSITE, *(column.name for column in clean if column.compared))
    scores = {
        label: samples[label]
        | {COMPOSITE: intervals.averaged([*task_samples(clean, samples[label]).values()])}
        for label in levels
    }
    cells = [
        FactorialCell(
            label,
            levels[label],
            intervals.named_intervals({name: scores[label][name] for name in names}),
        )
        # As text: levels of one factor may mix numbers and words.
        for label in sorted(levels, key=lambda label: [str(levels[label][f]) for f in factors])
    ]
    effects = []
    for factor in factors:
        by_name = sorted({entry[factor] for entry in levels.values()}, key=str)
        # Each pair of levels once; the opposite effect is the same number negated.
        for baseline, level in combinations(by_name, 2):
            pairs = [
                (a, b)
                for a, b in permutations(sorted(levels), 2)
                if levels[a][factor] == level and levels[b] == {**levels[a], factor: baseline}
            ]
            if pairs:
                differences = {
                    # Averaged before the interval: pairs share seeds and items.
                    name: intervals.averaged(
                        [intervals.minus(scores[a][name], scores[b][name]) for a, b in pairs]
                    )
                    for name in names
                }
                means = intervals.named_intervals(differences)
                effects.append(FactorialEffect(factor, level, baseline, len(pairs), means))
    return Factorial(method, tuple(factors), names, tuple(cells), tuple(effects))


def sheets(factorials: Sequence[Factorial]) -> list[Sheet]:
    """Build two tables per factorial: entries by their levels, and the effect of each level."""
    tables = []
    for factorial in factorials:
        names = map(words, factorial.columns)
        rows = [
            (*map(_level, cell.levels.values()), *map(with_half, cell.scores.values()))
            for cell in factorial.cells
        ]
        tables.append(
            text_sheet(f"{factorial.method}: factorial", (*factorial.factors, *names), rows)
        )
        rows = []
        for effect in factorial.effects:
            texts = [effect.factor, _comparison(effect), str(effect.pairs)]
            for score in effect.scores.values():
                mark = "" if score.low <= 0 <= score.high else " *"
                texts.append(with_half(score, sign="+") + mark)
            rows.append(tuple(texts))
        title = (
            f"{factorial.method}: effect of each level, over pairs equal in all other factors "
            "(* interval without 0, not corrected for the number of effects)"
        )
        names = map(words, factorial.columns)
        tables.append(text_sheet(title, ("factor", "levels", "pairs", *names), rows))
    return tables


def _comparison(effect: FactorialEffect) -> str:
    return f"{_level(effect.level)} against {_level(effect.baseline)}"


def _level(level: OptionLevel) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def as_csv(factorials: Sequence[Factorial]) -> str:
    """Write one row per entry or effect and column; levels as ``option=level``."""
    lines = [["method", "row", "name", "levels", "pairs", "column", "mean", "low", "high"]]
    for factorial in factorials:
        starts = []
        for cell in factorial.cells:
            levels = " ".join(f"{name}={_level(level)}" for name, level in cell.levels.items())
            starts.append((["entry", cell.label, levels, ""], cell.scores))
        for effect in factorial.effects:
            names = ["effect", effect.factor, _comparison(effect), str(effect.pairs)]
            starts.append((names, effect.scores))
        for start, scores in starts:
            for column, score in scores.items():
                ends = [f"{value:.6g}" for value in score.ends]
                lines.append([factorial.method, *start, column, *ends])
    return csv_text(lines)
