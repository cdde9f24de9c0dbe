"""One task's board: a pure function of the collected runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.harness.core.progress import no_progress
from steelyard.leaderboards.boards.measure import (
    AT_ONCE,
    CLEAN,
    EntryScores,
    Grid,
    grid_of,
    measure,
    missing,
)
from steelyard.leaderboards.boards.tradeoff import Tradeoff, tradeoffs
from steelyard.leaderboards.loading.collect import Run, Runs, backbone_name, budget_name
from steelyard.leaderboards.loading.costs import Cost, costs_of
from steelyard.leaderboards.stats import intervals, ranking
from steelyard.leaderboards.stats.differences import (
    ControlDifference,
    DetectableDifference,
    detectable,
    differences,
)
from steelyard.leaderboards.stats.intervals import Interval, Sample
from steelyard.tasks.corruptions.columns import columns_of
from steelyard.tasks.weighted_metrics import METRICS

MODALITIES = ("image", "text")
COMPARED = ("clean", "corrupted")
"""Columns in which every entry is compared with the control."""
ROUNDING = 1e-9
"""Means nearer than this are equal: averages over severities carry rounding errors."""

Columns = Mapping[str, Mapping[str, float]]
"""Each column as a weighted sum over variants."""
Scores = tuple[Mapping[str, Interval], Mapping[str, Interval]]
"""An entry's intervals by column and by variant."""


@dataclass(frozen=True, slots=True)
class BoardRank:
    """An entry's place by balanced score."""

    position: int
    ties: tuple[str, ...]
    """Letters; entries that share one are not told apart, after Holm's correction over all pairs
    of the board."""
    low: float
    high: float
    """Middle 95 % of its ranks when seeds and test items are resampled."""
    wins: Interval | None
    """Share of the other entries beaten, seed by seed; None when alone."""
    tied: bool
    """Not first, but not told apart from the first entry either: they share a letter."""


@dataclass(frozen=True, slots=True)
class BoardEntry:
    """One ranked row of a board."""

    label: str
    kind: str
    rank: BoardRank
    scores: Mapping[str, Interval]
    """By column of the board."""
    variants: Mapping[str, Interval]
    """By variant, severities apart."""
    worst: float | None
    """The worse of the two side averages; None, as ``gap``, where only one side is impaired."""
    gap: float | None
    """Distance of the two side averages."""
    better_corrupted: tuple[str, ...]
    """Corruptions under which the entry scores better than clean: negative transfer."""
    differences: Mapping[str, ControlDifference]
    """By column of ``COMPARED``; empty for the control and where it is not ranked."""
    tradeoff: Tradeoff | None
    """Its two sides against the control's; None where there is no control or only one side."""
    cost: Cost


@dataclass(frozen=True, slots=True)
class Blank:
    """An entry without a rank, and why."""

    label: str
    kind: str
    missing: str


@dataclass(frozen=True, slots=True)
class Board:
    """All entries of one task."""

    task: str
    metric: str
    higher_is_better: bool
    backbone: str
    budget: str
    control: str
    seeds: tuple[int, ...]
    items: int
    clusters: int
    columns: tuple[str, ...]
    """balanced, clean, impaired, each side, each corruption; without corruptions the first two."""
    corruptions: tuple[str, ...]
    entries: tuple[BoardEntry, ...]
    """Complete entries, best first."""
    blanks: tuple[Blank, ...]
    """Incomplete entries by label."""
    strong_modality: str
    """The control's stronger side, ``image`` or ``text``; empty without a control or two sides."""
    detectable: Mapping[str, DetectableDifference]
    """By column of ``COMPARED``, the smallest difference to the control that this board can see."""
    notes: tuple[str, ...]
    samples: Mapping[str, Sample]
    """The balanced score of each complete entry, for the board over tasks; not exported."""
    entry_scores: Mapping[str, EntryScores]
    """Each complete entry over all variants, for what else is made of them; not exported."""

    @property
    def percent(self) -> bool:
        """Whether the metric is a share, to be shown as a percentage."""
        return self.metric in METRICS


def build(
    runs: Runs,
    task: str,
    *,
    control: str = "joint",
    kinds: Mapping[str, str] | None = None,
    done: Callable[[float], None] = no_progress,
) -> Board:
    """The board of one task.

    Args:
        runs: everything collected.
        task: a task of which at least one run finished.
        control: label of the entry that all others are compared with.
        kinds: kind of each entry by label, or by method name for all of a method's entries.
        done: told the share of entries that are resampled.

    Raises:
        UserError: the runs disagree about metric or test items, none is scored clean, or a
            variant names no side.
    """
    own = runs.of(task)
    grid = grid_of(task, own)
    columns = columns_of(grid.task, grid.variants)
    groups = runs.groups(task)
    kind = {label: kind_of(group[0], kinds or {}) for label, group in groups.items()}
    lacks = {label: missing(group, grid) for label, group in groups.items()}
    complete = {label: group for label, group in groups.items() if not lacks[label]}
    measured, disagreements = measure(grid, complete, done)
    samples = {label: entry.column(columns["balanced"]) for label, entry in measured.items()}
    costs, compared = costs_of(complete, control), _differences(columns, measured, control)
    strong, traded = _trades(columns, measured, control, compared)
    reference = next(iter(measured.values()), None)
    scores = _scores(grid, columns, measured)
    entries = [
        _entry(x, kind[x], at, grid, scores[x], compared.get(x, {}), traded.get(x), costs[x])
        for x, at in _ranks(grid, samples).items()
    ]
    return Board(
        task=task,
        metric=grid.metric,
        higher_is_better=grid.higher_is_better,
        backbone=backbone_name(own[0].record.spec),
        budget=budget_name(own[0].record.spec),
        control=control,
        seeds=grid.seeds,
        items=reference.items if reference else 0,
        clusters=reference.clusters if reference else 0,
        columns=tuple(columns),
        corruptions=corruptions_of(columns),
        entries=tuple(entries),
        blanks=tuple(Blank(label, kind[label], why) for label, why in lacks.items() if why),
        strong_modality=strong,
        detectable=_detectable(columns, measured, control),
        notes=(*_notes(grid, control, complete), *disagreements),
        samples=samples,
        entry_scores=measured,
    )


def kind_of(run: Run, kinds: Mapping[str, str]) -> str:
    """The kind of a run's entry, by its label or else by its method."""
    return kinds.get(run.record.label, kinds.get(run.record.spec.method, ""))


def corruptions_of(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns of single corruptions: their names carry a side and a hyphen, no other does."""
    return tuple(column for column in columns if "-" in column)


def _ranks(grid: Grid, samples: Mapping[str, Sample]) -> dict[str, BoardRank]:
    """Places by label, best first; equal means stand in the order of their labels."""
    if not samples:
        return {}
    up = grid.higher_is_better
    sign = 1 if up else -1
    order = sorted(samples, key=lambda label: (-sign * samples[label].values.mean(), label))
    ordered = [samples[label] for label in order]
    places = np.arange(1.0, len(order) + 1)
    draws = ranking.rank_draws(ordered, grid.task, higher_is_better=up)
    ranges = ranking.central(draws, places).tolist()
    letters = ranking.ties(ordered)
    won: list[Interval | None] = [None]
    if len(order) > 1:
        won = [*intervals.intervals(ranking.wins(ordered, higher_is_better=up))]
    return {
        label: BoardRank(
            position=place + 1,
            ties=letters[place],
            tied=place > 0 and not set(letters[place]).isdisjoint(letters[0]),
            low=ranges[place][0],
            high=ranges[place][1],
            wins=won[place],
        )
        for place, label in enumerate(order)
    }


def _scores(grid: Grid, columns: Columns, measured: Mapping[str, EntryScores]) -> dict[str, Scores]:
    """Columns and variants of each entry, of some at once: faster than one by one."""
    found: dict[str, Scores] = {}
    labels = list(measured)
    for some in (labels[start : start + AT_ONCE] for start in range(0, len(labels), AT_ONCE)):
        samples = [
            sample
            for own in (measured[label] for label in some)
            for sample in (*map(own.column, columns.values()), *map(own.variant, grid.variants))
        ]
        made = iter(intervals.intervals(samples))
        for label in some:
            own = dict(zip(columns, made, strict=False))
            found[label] = own, dict(zip(grid.variants, made, strict=False))
    return found


def _entry(
    label: str,
    kind: str,
    rank: BoardRank,
    grid: Grid,
    found: Scores,
    compared: Mapping[str, ControlDifference],
    tradeoff: Tradeoff | None,
    cost: Cost,
) -> BoardEntry:
    scores, variants = found
    modalities = [scores[modality].mean for modality in MODALITIES if modality in scores]
    both = len(modalities) == len(MODALITIES)
    worse, sign = (min, 1) if grid.higher_is_better else (max, -1)
    gains = [
        name
        for name in corruptions_of(scores)
        if sign * (scores[name].mean - scores[CLEAN].mean) > ROUNDING
    ]
    return BoardEntry(
        label=label,
        kind=kind,
        rank=rank,
        scores=scores,
        variants=variants,
        worst=worse(modalities) if both else None,
        gap=abs(modalities[0] - modalities[1]) if both else None,
        better_corrupted=tuple(gains),
        differences=compared,
        tradeoff=tradeoff,
        cost=cost,
    )


def _differences(
    columns: Columns, measured: Mapping[str, EntryScores], control: str
) -> dict[str, dict[str, ControlDifference]]:
    """Differences to the control by label and column, Holm-adjusted within each column."""
    found: dict[str, dict[str, ControlDifference]] = {label: {} for label in measured}
    for name in (name for name in COMPARED if name in columns):
        samples = {label: entry.column(columns[name]) for label, entry in measured.items()}
        up = next(iter(measured.values())).grid.higher_is_better
        for label, each in differences(samples, control, higher_is_better=up).items():
            found[label][name] = each
    return found


def _trades(
    columns: Columns,
    measured: Mapping[str, EntryScores],
    control: str,
    compared: Mapping[str, Mapping[str, ControlDifference]],
) -> tuple[str, dict[str, Tradeoff]]:
    """The control's strong side and what each entry does to it; nothing where a side is missing."""
    if not measured or not all(modality in columns for modality in MODALITIES):
        return "", {}
    modalities = {
        label: {modality: entry.column(columns[modality]) for modality in MODALITIES}
        for label, entry in measured.items()
    }
    clean = {label: found[CLEAN] for label, found in compared.items() if CLEAN in found}
    up = next(iter(measured.values())).grid.higher_is_better
    return tradeoffs(modalities, clean, control, higher_is_better=up)


def _detectable(
    columns: Columns, measured: Mapping[str, EntryScores], control: str
) -> dict[str, DetectableDifference]:
    found = {}
    for name in (name for name in COMPARED if name in columns):
        samples = {label: entry.column(columns[name]) for label, entry in measured.items()}
        seen = detectable(samples, control)
        if seen is not None:
            found[name] = seen
    return found


def _notes(grid: Grid, control: str, complete: Mapping[str, Sequence[Run]]) -> list[str]:
    notes = []
    if len(grid.seeds) == 1:
        notes.append("One seed: the interval leaves out training variance.")
    if control not in complete:
        notes.append(f"The control {control} is not ranked here, so nothing is compared with it.")
    devices = sorted({run.record.ledger.device for group in complete.values() for run in group})
    if len(devices) > 1:
        notes.append(f"Seconds come from several devices ({', '.join(devices)}): do not compare.")
    return notes
