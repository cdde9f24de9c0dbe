"""Build the board of models that answer several tasks: numbers side by side, not one score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Score
from steelyard.leaderboards.boards import evidence
from steelyard.leaderboards.boards.board import MODALITIES, Blank, entry_groups, notes_of
from steelyard.leaderboards.boards.profile_measure import ProfileColumn, measure
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
from steelyard.leaderboards.stats.ranking import CriticalDifference, OverallRank, TaskScores
from steelyard.tasks.corruptions.columns import corruption_of, modality_of
from steelyard.tasks.corruptions.variants import CLEAN

BLANK_IMAGE = "image-blank"
COMPOSITE = "composite"
NO_IMAGE = ", no image"
"""Ending of the names of columns without images."""
CONTROLS = ("joint", "sft")
"""Default controls of a board: the first of these that it has."""


@dataclass(frozen=True, slots=True)
class ProfileRow:
    label: str
    kind: str
    composite: Interval
    ties: tuple[str, ...]
    """Letters; entries that share one do not differ in the composite after Holm's correction."""
    tied: bool
    """Not first, but shares a letter with the first entry."""
    rank: OverallRank
    """Among all rows, by the tasks' parts of the composite."""
    scores: Mapping[str, Interval]
    """By column."""
    differences: Mapping[str, ControlDifference]
    """By column with a direction, and by ``COMPOSITE``; empty for the control."""
    reliance: Mapping[str, Interval]
    """By task, the main metric minus the main metric without images, paired."""
    cost: Cost


@dataclass(frozen=True, slots=True)
class ProfileColumns:
    clean: tuple[ProfileColumn, ...]
    """Clean numbers, in the order of tasks."""
    corrupted: tuple[ProfileColumn, ...]
    """Main metric of each task without the image, and averaged over a modality's corruptions."""
    main: Mapping[str, str]
    """Name of the clean column of each task's main metric."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Numbers of all entries trained on one data set."""

    trained_on: str
    generated: bool
    preliminary: str
    """Why the profile cannot carry a conclusion; empty if it can."""
    backbone: str
    budget: str
    control: str
    seeds: tuple[int, ...]
    clean: tuple[ProfileColumn, ...]
    corrupted: tuple[ProfileColumn, ...]
    main: Mapping[str, str]
    """These three as in ``ProfileColumns``."""
    rows: tuple[ProfileRow, ...]
    """Best composite first."""
    groups: Mapping[str, Sequence[Run]]
    """Runs of complete entries by label; not exported."""
    samples: Mapping[str, Mapping[str, Sample]]
    """Of complete entries, by label and column; not exported."""
    blanks: tuple[Blank, ...]
    critical: CriticalDifference | None
    """Over seeds and tasks; None with too few of them or of entries."""
    detectable: Mapping[str, DetectableDifference]
    """By column with a direction, and by ``COMPOSITE``: the smallest detectable difference."""
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.trained_on} ({self.backbone})"

    @property
    def title(self) -> str:
        """Name with the marks *generated* and *preliminary*, for headings and figures."""
        return evidence.titled(self.name, generated=self.generated, preliminary=self.preliminary)

    @property
    def task_scores(self) -> TaskScores:
        """Composites as the scores of one task."""
        samples = {label: composite(self.clean, row) for label, row in self.samples.items()}
        return TaskScores(self.name, self.seeds, True, samples)

    @property
    def stem(self) -> str:
        """File name without ending."""
        return f"profile-{file_name(self.trained_on)}"


def is_profile(runs: Sequence[Run]) -> bool:
    """Return whether runs of one data set need a profile: free answers or several tasks."""
    return any(
        score.shown or score.task != run.record.spec.task
        for run in runs
        for score in run.record.scores
    )


def build(
    runs: Runs, trained_on: str, *, control: str | None, kinds: Mapping[str, str] | None = None
) -> Profile:
    """Build the profile of all entries trained on one data set.

    Raises:
        UserError: no run finished, or runs were scored on different items.
    """
    all_runs, groups = runs.of(trained_on), runs.groups(trained_on)
    control = control or default_control(groups)
    scores, unranked = _ranked_scores(_all_scores(all_runs))
    columns = columns_of(scores)
    directed = [column for column in columns.clean if column.higher_is_better is not None]
    if not directed:
        raise UserError(f"No number of the runs on {trained_on} has a direction: nothing to rank.")
    seeds = tuple(sorted({run.record.spec.seed for run in all_runs}))
    required = {(score.task, score.variant) for score in scores if score.main}
    entries = entry_groups(groups, seeds, required, kinds or {})
    complete = entries.complete
    samples, notes = measure((*columns.clean, *columns.corrupted), complete)
    composites = {label: composite(columns.clean, entry) for label, entry in samples.items()}
    order = sorted(composites, key=lambda label: (-composites[label].values.mean(), label))
    parts = {label: _task_means(columns.clean, entry) for label, entry in samples.items()}
    task_scores = [
        TaskScores(task, seeds, True, {label: by_task[task] for label, by_task in parts.items()})
        for task in dict.fromkeys(task for by_task in parts.values() for task in by_task)
    ]
    by_column = {
        column.name: {label: entry[column.name] for label, entry in samples.items()}
        for column in directed
    }
    # The composite is no column and always rises.
    falling = {column.name for column in directed if not column.higher_is_better}
    comparison = compare(
        {**by_column, COMPOSITE: composites}, control, lambda name: name not in falling
    )
    return Profile(
        trained_on=trained_on,
        generated=evidence.is_generated(all_runs),
        preliminary=evidence.preliminary(complete),
        # Several only for untrained models, which are compared by backbone.
        backbone=", ".join(sorted({backbone_name(run.record.spec) for run in all_runs})),
        budget=budget_name(all_runs[0].record.spec),
        control=control,
        seeds=seeds,
        clean=columns.clean,
        corrupted=columns.corrupted,
        main=columns.main,
        rows=_rows(order, entries.kinds, columns, samples, composites, task_scores,
                   comparison.differences, costs_of(complete, control)),
        groups=complete,
        samples=samples,
        blanks=entries.blanks,
        critical=ranking.critical(ranking.block_ranks(task_scores, order)) if order else None,
        detectable=comparison.detectable,
        notes=(*notes_of(seeds, control, complete), *_learning_rates(complete), *unranked, *notes),
    )  # fmt: skip


def _rows(
    order: Sequence[str],
    kind: Mapping[str, str],
    columns: ProfileColumns,
    samples: Mapping[str, Mapping[str, Sample]],
    composites: Mapping[str, Sample],
    task_scores: Sequence[TaskScores],
    compared: Mapping[str, Mapping[str, ControlDifference]],
    costs: Mapping[str, Cost],
) -> tuple[ProfileRow, ...]:
    """Build the rows in this order."""
    if not order:
        return ()
    ranks = ranking.overall_ranks(task_scores, order)
    letters = dict(zip(order, ranking.ties([composites[label] for label in order]), strict=True))
    return tuple(
        ProfileRow(
            label=label,
            kind=kind[label],
            composite=intervals.interval(composites[label]),
            ties=letters[label],
            tied=label != order[0] and not set(letters[label]).isdisjoint(letters[order[0]]),
            rank=ranks[label],
            scores=intervals.named_intervals(samples[label]),
            differences=compared.get(label, {}),
            reliance=_reliance(columns, samples[label]),
            cost=costs[label],
        )
        for label in order
    )


def default_control(labels: Mapping[str, object]) -> str:
    """Return the first of ``CONTROLS`` among the labels, or else the first of ``CONTROLS``."""
    return next((name for name in CONTROLS if name in labels), CONTROLS[0])


def _all_scores(runs: Sequence[Run]) -> list[Score]:
    """Return every distinct score of any run, in the order of the records."""
    scores: dict[tuple[str, str, str, str], Score] = {}
    for run in runs:
        for score in run.record.scores:
            scores.setdefault((score.task, score.variant, score.metric, score.subset), score)
    if not scores:
        raise UserError("None of the runs finished: there is nothing to compare.")
    return list(scores.values())


def _ranked_scores(scores: Sequence[Score]) -> tuple[list[Score], list[str]]:
    """Return the scores of tasks with a main metric, and a line for each task without one."""
    ranked = {score.task for score in scores if score.main}
    unranked = [task for task in dict.fromkeys(s.task for s in scores) if task not in ranked]
    if not ranked:
        raise UserError(f"Nothing on {', '.join(unranked)} is a mean over items: no intervals.")
    notes = [
        f"{task} is not shown: no metric of it is a mean over items, so none has an interval; "
        "scores.csv has its numbers."
        for task in unranked
    ]
    return [score for score in scores if score.task in ranked], notes


def columns_of(scores: Sequence[Score]) -> ProfileColumns:
    """Return the columns that these scores give, task by task."""

    def column(score: Score, variants: Sequence[str], ending: str = "") -> ProfileColumn:
        name = " ".join(filter(None, (score.task, score.subset, score.metric))) + ending
        direction = score.higher_is_better
        return ProfileColumn(
            name, score.task, score.metric, score.subset, direction, tuple(variants)
        )

    clean: list[ProfileColumn] = []
    corrupted: list[ProfileColumn] = []
    main: dict[str, str] = {}
    for task in dict.fromkeys(score.task for score in scores):
        task_scores = [score for score in scores if score.task == task]
        clean_scores = [s for s in task_scores if s.variant == CLEAN and (s.shown or s.main)]
        if not clean_scores:
            raise UserError(f"{task} has no clean scores: evaluate its runs on clean too.")
        # Corrupted columns are of the main metric alone: all metrics would be too many.
        head = next(score for score in clean_scores if score.main)
        main[task] = column(head, [CLEAN]).name
        clean += [column(s, [CLEAN]) for s in clean_scores if s.shown or s is head]
        variants = sorted({score.variant for score in task_scores if score.main} - {CLEAN})
        groups = {NO_IMAGE: [v for v in variants if v == BLANK_IMAGE]}
        for modality in MODALITIES:
            groups[f", {modality} corrupted"] = [v for v in variants if modality_of(v) == modality]
        # Corruptions of both modalities are in no average, so each has its own column.
        for name in dict.fromkeys(corruption_of(v) for v in variants if modality_of(v) == "both"):
            groups[f", {name}"] = [v for v in variants if corruption_of(v) == name]
        corrupted += [column(head, v, ending) for ending, v in groups.items() if v]
    return ProfileColumns(tuple(clean), tuple(corrupted), main)


def composite(clean: Sequence[ProfileColumn], samples: Mapping[str, Sample]) -> Sample:
    """Return the mean over tasks of the mean of a task's clean numbers, higher is better.

    All numbers are fractions, so 1 - x turns one around. Numbers without a direction stay out.
    """
    # One vote per task, however many numbers it has.
    parts = list(_task_means(clean, samples).values())
    # The fewest of any column: the widest interval.
    clusters = min(samples[column.name].clusters for column in clean)
    return replace(intervals.averaged(parts), clusters=clusters)


def _task_means(clean: Sequence[ProfileColumn], samples: Mapping[str, Sample]) -> dict[str, Sample]:
    """Return the mean of each task's clean numbers with a direction, turned to higher is better."""
    by_task: dict[str, list[Sample]] = {}
    for column in clean:
        sample = samples[column.name]
        if column.higher_is_better is False:
            sample = Sample(1 - sample.values, 1 - sample.draws, sample.clusters)
        if column.higher_is_better is not None:
            by_task.setdefault(column.task, []).append(sample)
    return {task: intervals.averaged(parts) for task, parts in by_task.items()}


def _reliance(columns: ProfileColumns, samples: Mapping[str, Sample]) -> dict[str, Interval]:
    """Return by task how much worse its main metric gets when every image is removed."""
    result = {}
    for column in columns.corrupted:
        if column.variants == (BLANK_IMAGE,) and column.name.endswith(NO_IMAGE):
            pair = samples[columns.main[column.task]], samples[column.name]
            # Reliance is positive if the images help, in either direction of the metric.
            better, worse = pair if column.higher_is_better is not False else pair[::-1]
            result[column.task] = intervals.paired_difference(better, worse)
    return result


def _learning_rates(complete: Mapping[str, Sequence[Run]]) -> list[str]:
    rates = sorted(
        (label, fmean(run.record.spec.learning_rate or 0.0 for run in group))
        for label, group in complete.items()
    )
    changed = [f"{label} {rate:g}" for label, rate in rates if rate]
    return [f"Learning rates other than the backbone's: {', '.join(changed)}."] if changed else []
