"""Build the board of one data set, a pure function of the collected runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from steelyard.harness.core.examples import MODALITIES
from steelyard.harness.core.files import file_name
from steelyard.harness.core.progress import no_progress
from steelyard.harness.records.record import unparsed_lines
from steelyard.leaderboards.boards import evidence
from steelyard.leaderboards.boards.columns import (
    COMPOSITE,
    NO_IMAGE,
    Column,
    Selection,
    select,
)
from steelyard.leaderboards.boards.entries import Blank, entry_groups
from steelyard.leaderboards.boards.measure import Scores, measure
from steelyard.leaderboards.boards.tradeoff import Tradeoff, tradeoffs
from steelyard.leaderboards.loading.collect import Run, Runs, backbone_name, budget_name
from steelyard.leaderboards.loading.costs import Cost, costs_of
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.differences import (
    ControlDifference,
    DetectableDifference,
    compare,
)
from steelyard.leaderboards.stats.intervals import (
    Interval,
    Sample,
    averaged,
    named_intervals,
    paired_difference,
)
from steelyard.leaderboards.stats.ranking import CriticalDifference, OverallRank, TaskScores
from steelyard.tasks import NOTHING
from steelyard.tasks.corruptions.columns import task_means, upward
from steelyard.tasks.corruptions.variants import CLEAN
from steelyard.tasks.weighted_metrics import METRICS

CONTROLS = ("joint", "sft")
"""Default controls of a board: the first of these that it has."""
ROUNDING = 1e-9
"""Means closer than this are equal: averages over severities have rounding errors."""


@dataclass(frozen=True, slots=True)
class BoardRow:
    label: str
    kind: str
    ties: tuple[str, ...]
    """Letters; entries that share one do not differ after Holm's correction over all pairs."""
    tied: bool
    """Not first, but shares a letter with the first entry."""
    rank: OverallRank
    """Among all rows; each task scored on has one vote."""
    scores: Mapping[str, Interval]
    """By column, with the one that orders the rows."""
    variants: Mapping[str, Interval]
    """By variant, severities apart; empty for several tasks."""
    worst: float | None
    """The lower modality average; None, as ``gap``, without averages of both."""
    gap: float | None
    """Distance of the two modality averages."""
    better_corrupted: tuple[str, ...]
    """Corruptions with a better score than clean."""
    differences: Mapping[str, ControlDifference]
    """By compared column; empty for the control and if the control is not ranked."""
    tradeoff: Tradeoff | None
    """Both modalities against the control; None without a control or with one modality."""
    reliance: Mapping[str, Interval]
    """By task, the main metric minus the main metric without images, paired."""
    cost: Cost


@dataclass(frozen=True, slots=True)
class Board:
    """All entries trained on one data set: columns of numbers, one of which orders the rows."""

    task: str
    """The data set trained on."""
    generated: bool
    preliminary: str
    """Why the board cannot carry a conclusion; empty if it can."""
    backbone: str
    budget: str
    control: str
    seeds: tuple[int, ...]
    items: int
    clusters: int
    """Test items, and independent clusters of them, of all tasks scored on."""
    columns: tuple[Column, ...]
    order_by: str
    """Column, or the composite of several."""
    rows: tuple[BoardRow, ...]
    """Complete entries, best first."""
    blanks: tuple[Blank, ...]
    """Incomplete entries by label."""
    strong_modality: str
    """Stronger modality of the control; empty without a control or with one modality."""
    critical: CriticalDifference | None
    """Over seeds and tasks; None with too few of them or of entries, or without a composite."""
    detectable: Mapping[str, DetectableDifference]
    """By compared column, the smallest detectable difference to the control."""
    notes: tuple[str, ...]
    samples: Mapping[str, Sample]
    """Of complete entries, the score that orders them; not exported."""
    variants: tuple[Column, ...]
    """Main metrics by task and variant; not exported."""
    groups: Mapping[str, Sequence[Run]]
    """Runs of complete entries by label; not exported."""
    measured: Mapping[str, Scores]
    """Numbers of complete entries by label and task; not exported."""

    @property
    def several(self) -> bool:
        """True for several scores side by side, ordered by a composite."""
        return self.order_by == COMPOSITE

    @property
    def metric(self) -> str:
        return self.columns[0].metric

    @property
    def higher_is_better(self) -> bool:
        """Direction of the score that orders the rows; a composite always rises."""
        return self.several or bool(self.columns[0].higher_is_better)

    @property
    def percent(self) -> bool:
        """True for fractions, to be shown as percentages."""
        return self.several or self.metric in METRICS

    @property
    def clean(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.is_clean)

    @property
    def corrupted(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if not column.is_clean)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def name(self) -> str:
        if self.task == NOTHING:
            return "Models that were not trained here"
        return f"{self.task} ({self.backbone})" if self.several else self.task

    @property
    def title(self) -> str:
        """Name with the marks *generated* and *preliminary*, for headings and figures."""
        return evidence.titled(self.name, generated=self.generated, preliminary=self.preliminary)

    @property
    def task_scores(self) -> TaskScores:
        """The scores that order the rows, as those of one task."""
        return TaskScores(self.name, self.seeds, self.higher_is_better, self.samples)

    @property
    def stem(self) -> str:
        """File name without ending."""
        return f"{'profile' if self.several else 'board'}-{file_name(self.task)}"


def build(
    runs: Runs,
    task: str,
    *,
    control: str | None = None,
    kinds: Mapping[str, str] | None = None,
    progress: Callable[[float], None] = no_progress,
) -> Board:
    """Build the board of all entries trained on one data set.

    Args:
        control: label of the entry that all others are compared with; by default, and where the
            board has no such entry, the first of ``CONTROLS`` that it has.
        kinds: kind of each entry by label, or by method name for all of a method's entries.
        progress: called with the fraction of entries that are resampled.

    Raises:
        UserError: no run finished, runs disagree about metric or items, none is clean, or a
            variant has no modality.
    """
    task_runs, groups = runs.of(task), runs.groups(task)
    if control not in groups:
        control = next((name for name in CONTROLS if name in groups), CONTROLS[0])
    columns, variants, order_by, notes = selection = select(task, task_runs)
    seeds = tuple(sorted({run.record.spec.seed for run in task_runs}))
    complete, blanks, kinds = entry_groups(groups, seeds, selection.required, kinds or {})
    measured = measure((*columns, *variants), complete, progress)
    up = {column.name: bool(column.higher_is_better) for column in columns} | {COMPOSITE: True}
    samples, task_scores = _samples(selection, measured.scores, seeds, up[order_by])
    ordering = {label: entry[order_by] for label, entry in samples.items()}
    comparison = compare(_compared(columns, order_by, samples), control, up.__getitem__)
    strong, traded = tradeoffs(samples, comparison.differences, control, up)
    sign = 1 if up[order_by] else -1
    order = sorted(ordering, key=lambda label: (-sign * ordering[label].values.mean(), label))
    return Board(
        task=task,
        generated=evidence.is_generated(task_runs),
        preliminary=evidence.preliminary(complete),
        # Several only for untrained models, which are compared by backbone.
        backbone=", ".join(sorted({backbone_name(run.record.spec) for run in task_runs})),
        budget=budget_name(task_runs[0].record.spec),
        control=control,
        seeds=seeds,
        items=measured.items,
        clusters=measured.clusters,
        columns=columns,
        order_by=order_by,
        rows=_rows(order, selection, kinds, samples, measured.scores, task_scores,
                   comparison.differences, traded, costs_of(complete, control)),
        blanks=blanks,
        strong_modality=strong,
        critical=ranking.critical(ranking.block_ranks(task_scores, order))
        if order and order_by == COMPOSITE else None,
        detectable=comparison.detectable,
        notes=(*_notes(seeds, control, complete), *notes, *measured.notes),
        samples=ordering,
        variants=variants,
        groups=complete,
        measured=measured.scores,
    )  # fmt: skip


def _compared(
    columns: Sequence[Column], order_by: str, samples: Mapping[str, Mapping[str, Sample]]
) -> dict[str, dict[str, Sample]]:
    """Return the samples by label of every column in which entries are compared."""
    names = [column.name for column in columns if column.compared]
    names += [COMPOSITE] if order_by == COMPOSITE else []
    return {name: {label: entry[name] for label, entry in samples.items()} for name in names}


def _samples(
    selection: Selection, measured: Mapping[str, Scores], seeds: tuple[int, ...], up: bool
) -> tuple[dict[str, dict[str, Sample]], list[TaskScores]]:
    """Return each entry's samples by column, and by task the scores that rank.

    ``up`` is the direction of the score that ranks.
    """
    columns, order_by = selection.columns, selection.order_by
    samples = {
        label: {column.name: scores[column.task].column(column) for column in columns}
        for label, scores in measured.items()
    }
    votes: dict[str, dict[str, Sample]] = {}
    for label, entry in samples.items():
        if order_by == COMPOSITE:
            votes[label] = task_samples(columns, entry)
            entry[COMPOSITE] = averaged([*votes[label].values()])
        else:
            votes[label] = {columns[0].task: entry[order_by]}
    return samples, [
        TaskScores(task, seeds, up, {label: vote[task] for label, vote in votes.items()})
        for task in dict.fromkeys(task for vote in votes.values() for task in vote)
    ]


def task_samples(columns: Sequence[Column], samples: Mapping[str, Sample]) -> dict[str, Sample]:
    """Return by task the mean of its clean numbers with a direction, turned to higher is better."""
    directed = [column for column in columns if column.compared]
    tasks = [column.task for column in directed]
    values, draws = (
        task_means(tasks, [
            upward(getattr(samples[column.name], part), column.higher_is_better)
            for column in directed
        ])
        for part in ("values", "draws")
    )  # fmt: skip
    clusters = {column.task: samples[column.name].clusters for column in directed}
    rates = {
        task: all(samples[column.name].rate for column in directed if column.task == task)
        for task in values
    }
    return {task: Sample(values[task], draws[task], clusters[task], rates[task]) for task in values}


def _rows(
    order: Sequence[str],
    selection: Selection,
    kinds: Mapping[str, str],
    samples: Mapping[str, dict[str, Sample]],
    measured: Mapping[str, Scores],
    task_scores: Sequence[TaskScores],
    compared: Mapping[str, Mapping[str, ControlDifference]],
    traded: Mapping[str, Tradeoff],
    costs: Mapping[str, Cost],
) -> tuple[BoardRow, ...]:
    """Build the rows in this order."""
    if not order:
        return ()
    columns, order_by = selection.columns, selection.order_by
    # With several tasks, columns without images and under corruption are enough.
    variants = () if order_by == COMPOSITE else selection.variants
    by_variant = {
        label: {column.name: measured[label][column.task].column(column) for column in variants}
        for label in order
    }
    # At once: intervals one by one are slower. A column of one variant is that variant.
    scores = named_intervals({
        (label, name): sample
        for label in order
        for name, sample in (by_variant[label] | samples[label]).items()
    })  # fmt: skip
    ranks = ranking.overall_ranks(task_scores, order)
    # By paired tests, not by ranges: entries with overlapping ranges may well differ.
    letters = dict(
        zip(order, ranking.ties([samples[label][order_by] for label in order]), strict=True)
    )
    rows = []
    for label in order:
        entry = {name: scores[label, name] for name in samples[label]}
        worst, gap, better_corrupted = _balance(columns, entry)
        rows.append(
            BoardRow(
                label=label,
                kind=kinds[label],
                ties=letters[label],
                tied=label != order[0] and not set(letters[label]).isdisjoint(letters[order[0]]),
                rank=ranks[label],
                scores=entry,
                variants={name: scores[label, name] for name in by_variant[label]},
                worst=worst,
                gap=gap,
                better_corrupted=better_corrupted,
                differences=compared.get(label, {}),
                tradeoff=traded.get(label),
                reliance=_reliance(columns, samples[label]),
                cost=costs[label],
            )
        )
    return tuple(rows)


def _balance(
    columns: Sequence[Column], scores: Mapping[str, Interval]
) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Return the lower modality average, the distance of both, corruptions better than clean."""
    worse, sign = (min, 1) if columns[0].higher_is_better else (max, -1)
    better = [
        column.name
        for column in columns
        if column.is_corruption
        and sign * (scores[column.name].mean - scores[CLEAN].mean) > ROUNDING
    ]
    means = [scores[name].mean for name in MODALITIES if name in scores]
    # With one modality corrupted there is nothing to be unbalanced against.
    both = len(means) == len(MODALITIES)
    return worse(means) if both else None, abs(means[0] - means[1]) if both else None, tuple(better)


def _reliance(columns: Sequence[Column], samples: Mapping[str, Sample]) -> dict[str, Interval]:
    """Return by task how much worse its main metric gets when every image is removed."""
    main = {column.task: column.name for column in columns if column.main}
    result = {}
    for column in columns:
        if column.name.endswith(NO_IMAGE):
            pair = samples[main[column.task]], samples[column.name]
            # Reliance is positive if the images help, in either direction of the metric.
            better, worse = pair if column.higher_is_better is not False else pair[::-1]
            result[column.task] = paired_difference(better, worse)
    return result


def _notes(seeds: Sequence[int], control: str, complete: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return what limits a board: one seed, no control, several devices or learning rates."""
    notes = []
    if len(seeds) == 1:
        notes.append("One seed: the intervals do not include training variance.")
    if control not in complete and any(
        run.record.origin == "trained" for group in complete.values() for run in group
    ):
        notes.append(f"The control {control} is not ranked here, so nothing is compared with it.")
    devices = sorted({run.record.ledger.device for group in complete.values() for run in group})
    if len(devices) > 1:
        notes.append(
            f"Runs used several devices ({', '.join(devices)}): their seconds do not compare."
        )
    rates = sorted(
        (label, fmean(run.record.spec.learning_rate or 0.0 for run in group))
        for label, group in complete.items()
    )
    if changed := [f"{label} {rate:g}" for label, rate in rates if rate]:
        notes.append(f"Learning rates other than the method's default: {', '.join(changed)}.")
    unread = (
        f"{label}, seed {run.record.spec.seed}: {line}."
        for label, group in complete.items()
        for run in group
        for line in unparsed_lines(run.record)
    )
    return [*notes, *evidence.adapted(complete), *unread]
