"""Build the board of one task, a pure function of the collected runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steelyard.harness.core.progress import no_progress
from steelyard.leaderboards.boards import evidence
from steelyard.leaderboards.boards.measure import (
    AT_ONCE,
    EntryScores,
    Grid,
    grid_of,
    lacking,
    measure,
)
from steelyard.leaderboards.boards.tradeoff import Tradeoff, tradeoffs
from steelyard.leaderboards.loading.collect import Run, Runs, backbone_name, budget_name
from steelyard.leaderboards.loading.costs import Cost, costs_of
from steelyard.leaderboards.output.escape import file_name
from steelyard.leaderboards.stats import intervals, ranking
from steelyard.leaderboards.stats.differences import (
    ControlDifference,
    DetectableDifference,
    compare,
)
from steelyard.leaderboards.stats.intervals import Interval, Sample
from steelyard.leaderboards.stats.ranking import TaskScores
from steelyard.tasks.corruptions.columns import Columns, columns_of
from steelyard.tasks.corruptions.variants import CLEAN
from steelyard.tasks.weighted_metrics import METRICS

MODALITIES = ("image", "text")
COMPARED = ("clean", "corrupted")
"""Columns in which every entry is compared with the control."""
ROUNDING = 1e-9
"""Means closer than this are equal: averages over severities have rounding errors."""


@dataclass(frozen=True, slots=True)
class BoardRank:
    """Rank of an entry by balanced score."""

    position: int
    ties: tuple[str, ...]
    """Letters; entries that share one do not differ after Holm's correction over all pairs."""
    low: float
    high: float
    """Middle 95 % of its ranks when seeds and test items are resampled."""
    wins: Interval | None
    """Fraction of the other entries beaten, by seed; None for a single entry."""
    tied: bool
    """Not first, but shares a letter with the first entry."""


@dataclass(frozen=True, slots=True)
class BoardEntry:
    label: str
    kind: str
    rank: BoardRank
    scores: Mapping[str, Interval]
    """By column of the board."""
    variants: Mapping[str, Interval]
    """By variant, severities apart."""
    worst: float | None
    """The lower modality average; None, as ``gap``, if only one modality is corrupted."""
    gap: float | None
    """Distance of the two modality averages."""
    better_corrupted: tuple[str, ...]
    """Corruptions with a better score than clean."""
    differences: Mapping[str, ControlDifference]
    """By column of ``COMPARED``; empty for the control and if the control is not ranked."""
    tradeoff: Tradeoff | None
    """Both modalities against the control; None without a control or with one modality."""
    cost: Cost


@dataclass(frozen=True, slots=True)
class Blank:
    """Entry without a rank, and what it lacks."""

    label: str
    kind: str
    missing: str


@dataclass(frozen=True, slots=True)
class Board:
    task: str
    generated: bool
    preliminary: str
    """Why the board cannot carry a conclusion; empty if it can."""
    metric: str
    higher_is_better: bool
    backbone: str
    budget: str
    control: str
    seeds: tuple[int, ...]
    items: int
    clusters: int
    columns: tuple[str, ...]
    """balanced, clean, corrupted, modalities, corruptions; without corruptions the first two."""
    corruptions: tuple[str, ...]
    entries: tuple[BoardEntry, ...]
    """Complete entries, best first."""
    blanks: tuple[Blank, ...]
    """Incomplete entries by label."""
    strong_modality: str
    """Stronger modality of the control; empty without a control or with one modality."""
    detectable: Mapping[str, DetectableDifference]
    """By column of ``COMPARED``, the smallest detectable difference to the control."""
    notes: tuple[str, ...]
    samples: Mapping[str, Sample]
    """Balanced score of each complete entry, for the board over tasks; not exported."""
    entry_scores: Mapping[str, EntryScores]
    """Each complete entry over all variants, for robustness; not exported."""

    @property
    def percent(self) -> bool:
        """True for a fraction, to be shown as a percentage."""
        return self.metric in METRICS

    @property
    def title(self) -> str:
        """Task with the marks *generated* and *preliminary*, for headings and figures."""
        return evidence.titled(self.task, generated=self.generated, preliminary=self.preliminary)

    @property
    def task_scores(self) -> TaskScores:
        return TaskScores(self.task, self.seeds, self.higher_is_better, self.samples)

    @property
    def stem(self) -> str:
        """File name without ending."""
        return f"board-{file_name(self.task)}"


def build(
    runs: Runs,
    task: str,
    *,
    control: str = "joint",
    kinds: Mapping[str, str] | None = None,
    progress: Callable[[float], None] = no_progress,
) -> Board:
    """Build the board of one task that has a finished run.

    Args:
        control: label of the entry that all others are compared with.
        kinds: kind of each entry by label, or by method name for all of a method's entries.
        progress: called with the fraction of entries that are resampled.

    Raises:
        UserError: runs disagree about metric or items, none is clean, or a variant has no modality.
    """
    task_runs = runs.of(task)
    grid = grid_of(task, task_runs)
    columns = columns_of(grid.task, grid.variants)
    required = {(task, variant) for variant in grid.variants}
    groups = entry_groups(runs.groups(task), grid.seeds, required, kinds or {})
    complete = groups.complete
    scores, disagreements = measure(grid, complete, progress)

    def samples(name: str) -> dict[str, Sample]:
        return {label: entry.column(columns[name]) for label, entry in scores.items()}

    compared = {name: samples(name) for name in COMPARED if name in columns}
    comparison = compare(compared, control, lambda name: grid.higher_is_better)
    modalities = {name: samples(name) for name in MODALITIES if name in columns}
    strong, traded = tradeoffs(
        modalities, comparison.differences, control, higher_is_better=grid.higher_is_better
    )
    balanced = samples("balanced")
    entries = _entries(grid, columns, scores, _ranks(grid, balanced), groups.kinds,
                       comparison.differences, traded, costs_of(complete, control))  # fmt: skip
    return Board(
        task=task,
        generated=evidence.is_generated(task_runs),
        preliminary=evidence.preliminary(complete),
        metric=grid.metric,
        higher_is_better=grid.higher_is_better,
        backbone=backbone_name(task_runs[0].record.spec),
        budget=budget_name(task_runs[0].record.spec),
        control=control,
        seeds=grid.seeds,
        items=max((entry.items for entry in scores.values()), default=0),
        clusters=max((entry.clusters for entry in scores.values()), default=0),
        columns=tuple(columns),
        corruptions=corruptions_of(columns),
        entries=tuple(entries),
        blanks=groups.blanks,
        strong_modality=strong,
        detectable=comparison.detectable,
        notes=(*notes_of(grid.seeds, control, complete), *disagreements),
        samples=balanced,
        entry_scores=scores,
    )


class EntryGroups(NamedTuple):
    """Entries of a board or profile, complete and incomplete."""

    complete: dict[str, list[Run]]
    blanks: tuple[Blank, ...]
    kinds: dict[str, str]


def entry_groups(
    groups: Mapping[str, list[Run]],
    seeds: Sequence[int],
    required: Set[tuple[str, str]],
    kinds: Mapping[str, str],
) -> EntryGroups:
    """Split entries by whether they have all seeds and (task, variant) pairs.

    ``kinds`` are by label, or else by method.
    """
    by_label = {
        # A variant of a method is of the method's kind unless it has its own.
        label: kinds.get(label, kinds.get(group[0].record.spec.method, ""))
        for label, group in groups.items()
    }
    missing = {label: lacking(group, seeds, required) for label, group in groups.items()}
    complete = {label: group for label, group in groups.items() if not missing[label]}
    blanks = [Blank(label, by_label[label], why) for label, why in missing.items() if why]
    return EntryGroups(complete, tuple(blanks), by_label)


def corruptions_of(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of single corruptions, the only names with a hyphen."""
    return tuple(column for column in columns if "-" in column)


def _ranks(grid: Grid, samples: Mapping[str, Sample]) -> dict[str, BoardRank]:
    """Rank the entries, best first; equal means in the order of their labels."""
    if not samples:
        return {}
    up = grid.higher_is_better
    sign = 1 if up else -1
    order = sorted(samples, key=lambda label: (-sign * samples[label].values.mean(), label))
    ordered = [samples[label] for label in order]
    # Seeded by the task, so that rebuilding a board repeats its ranges.
    draws = ranking.ranks(ranking.bootstrap(ordered, grid.task), higher_is_better=up)
    ranges = ranking.central(draws, np.arange(1.0, len(order) + 1)).tolist()
    # By paired tests, not by ranges: entries with overlapping ranges may well differ.
    letters = ranking.ties(ordered)
    wins: list[Interval | None] = [None]
    # A win rate needs an opponent.
    if len(order) > 1:
        wins = [*intervals.intervals(ranking.wins(ordered, higher_is_better=up))]
    return {
        label: BoardRank(
            position=index + 1,
            ties=letters[index],
            low=ranges[index][0],
            high=ranges[index][1],
            wins=wins[index],
            tied=index > 0 and not set(letters[index]).isdisjoint(letters[0]),
        )
        for index, label in enumerate(order)
    }


def _entries(
    grid: Grid,
    columns: Columns,
    scores: Mapping[str, EntryScores],
    ranks: Mapping[str, BoardRank],
    kinds: Mapping[str, str],
    compared: Mapping[str, Mapping[str, ControlDifference]],
    traded: Mapping[str, Tradeoff],
    costs: Mapping[str, Cost],
) -> Iterator[BoardEntry]:
    """Yield the rows in the order of ranks, in batches: intervals one by one are slower."""
    worse, sign = (min, 1) if grid.higher_is_better else (max, -1)
    labels = list(ranks)
    for batch in (labels[start : start + AT_ONCE] for start in range(0, len(labels), AT_ONCE)):
        samples: list[Sample] = []
        for label in batch:
            samples += map(scores[label].column, columns.values())
            samples += map(scores[label].variant, grid.variants)
        # Taken below in the order in which the samples were appended.
        remaining = iter(intervals.intervals(samples))
        for label in batch:
            by_column = {name: next(remaining) for name in columns}
            means = [by_column[modality].mean for modality in MODALITIES if modality in columns]
            # With one modality corrupted there is nothing to be unbalanced against.
            both = len(means) == len(MODALITIES)
            gains = [
                name
                for name in corruptions_of(columns)
                if sign * (by_column[name].mean - by_column[CLEAN].mean) > ROUNDING
            ]
            yield BoardEntry(
                label=label,
                kind=kinds[label],
                rank=ranks[label],
                scores=by_column,
                variants={name: next(remaining) for name in grid.variants},
                worst=worse(means) if both else None,
                gap=abs(means[0] - means[1]) if both else None,
                better_corrupted=tuple(gains),
                differences=compared[label],
                tradeoff=traded.get(label),
                cost=costs[label],
            )


def notes_of(
    seeds: Sequence[int], control: str, complete: Mapping[str, Sequence[Run]]
) -> list[str]:
    """Return what limits a board or profile: one seed, no control, several devices."""
    notes = []
    if len(seeds) == 1:
        notes.append("One seed: the intervals do not include training variance.")
    if control not in complete:
        notes.append(f"The control {control} is not ranked here, so nothing is compared with it.")
    devices = sorted({run.record.ledger.device for group in complete.values() for run in group})
    if len(devices) > 1:
        notes.append(
            f"Runs used several devices ({', '.join(devices)}): their seconds do not compare."
        )
    return notes
