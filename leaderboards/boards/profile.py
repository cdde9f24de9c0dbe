"""The board of models that answer many tasks: a profile of numbers side by side, not one score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Score
from steelyard.leaderboards.boards.board import Blank, kind_of
from steelyard.leaderboards.boards.profile_measure import CLEAN, ProfileColumn, measure
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
from steelyard.leaderboards.stats.ranking import CriticalDifference, OverallRank, TaskScores
from steelyard.tasks.corruptions.columns import corruption_of, modality_of

BLIND = "image-blank"
CONTROLS = ("joint", "sft")
"""Entries that a board compares with unless told otherwise: the first of these that it has."""


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One complete entry."""

    label: str
    kind: str
    composite: Interval
    ties: tuple[str, ...]
    """Letters; entries that share one are not told apart by the composite, after Holm's correction
    over all pairs."""
    tied: bool
    """Not first, but not told apart from the first entry either: they share a letter."""
    rank: OverallRank
    """Among all rows by the tasks' parts of the composite."""
    scores: Mapping[str, Interval]
    """By column."""
    differences: Mapping[str, ControlDifference]
    """By column with a direction, and by ``COMPOSITE``; empty for the control."""
    reliance: Mapping[str, Interval]
    """By task, what the image adds to its main metric: clean minus without images, paired."""
    cost: Cost


@dataclass(frozen=True, slots=True)
class Profile:
    """All entries trained on one data set."""

    trained_on: str
    backbone: str
    budget: str
    control: str
    seeds: tuple[int, ...]
    shown: tuple[ProfileColumn, ...]
    """Clean numbers, in the order of tasks."""
    corrupted: tuple[ProfileColumn, ...]
    """Each task's main metric without the image, and averaged over corruptions of a side."""
    main: Mapping[str, str]
    """Column of each task's clean main metric."""
    rows: tuple[ProfileRow, ...]
    """Best composite first."""
    groups: Mapping[str, Sequence[Run]]
    """Runs of complete entries by label; not exported."""
    samples: Mapping[str, Mapping[str, Sample]]
    """Of complete entries, by label and column; not exported."""
    blanks: tuple[Blank, ...]
    critical: CriticalDifference | None
    """Over seeds and tasks; None where there are too few of them or of entries."""
    detectable: Mapping[str, DetectableDifference]
    """By column with a direction, and by ``COMPOSITE``: the smallest difference to be seen."""
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its files and headings are called."""
        return f"{self.trained_on} ({self.backbone})"


COMPOSITE = "composite"
NO_IMAGE = ", no image"
"""How the names of columns without images end."""


def is_profile(runs: Sequence[Run]) -> bool:
    """Whether runs of one data set need a profile: they were scored in words or on more tasks."""
    return any(
        score.shown or score.task != run.record.spec.task
        for run in runs
        for score in run.record.scores
    )


def build(
    runs: Runs, trained_on: str, *, control: str | None, kinds: Mapping[str, str] | None = None
) -> Profile:
    """The profile of everything trained on one data set.

    Raises:
        UserError: no run finished, or runs were scored on different items.
    """
    own, groups = runs.of(trained_on), runs.groups(trained_on)
    control = control or default_control(groups)
    scores, apart = _with_intervals(_all_scores(own))
    shown, corrupted, main = columns_of(scores)
    if not any(column.higher_is_better is not None for column in shown):
        raise UserError(f"No number of the runs on {trained_on} has a direction: nothing to rank.")
    seeds = tuple(sorted({run.record.spec.seed for run in own}))
    wanted = {(score.task, score.variant) for score in scores if score.main}
    lacks = {label: _missing(group, seeds, wanted) for label, group in groups.items()}
    complete = {label: group for label, group in groups.items() if not lacks[label]}
    samples, notes = measure((*shown, *corrupted), complete)
    composites = {label: composite(shown, found) for label, found in samples.items()}
    order = _order(composites)
    task_scores = task_scores_of(shown, samples, seeds)
    ranks = ranking.overall_ranks(task_scores, order) if order else {}
    letters = dict(zip(order, ranking.ties([composites[label] for label in order]), strict=True))
    costs = costs_of(complete, control)
    kind = {label: kind_of(group[0], kinds or {}) for label, group in groups.items()}
    picks = _picks(shown, samples, composites)
    compared = _differences(picks, control)
    rows = [
        ProfileRow(
            label=label,
            kind=kind[label],
            composite=intervals.interval(composites[label]),
            ties=letters[label],
            tied=label != order[0] and not set(letters[label]).isdisjoint(letters[order[0]]),
            rank=ranks[label],
            scores=_intervals(samples[label]),
            differences=compared.get(label, {}),
            reliance=_reliance(main, corrupted, samples[label]),
            cost=costs[label],
        )
        for label in order
    ]
    return Profile(
        trained_on=trained_on,
        backbone=", ".join(sorted({backbone_name(run.record.spec) for run in own})),
        budget=budget_name(own[0].record.spec),
        control=control,
        seeds=seeds,
        shown=shown,
        corrupted=corrupted,
        main=main,
        rows=tuple(rows),
        groups=complete,
        samples=samples,
        blanks=tuple(Blank(label, kind[label], why) for label, why in lacks.items() if why),
        critical=ranking.critical(ranking.block_ranks(task_scores, order)) if order else None,
        detectable=_detectable(picks, control),
        notes=(*_notes(seeds, control, complete), *apart, *notes),
    )


def default_control(labels: Mapping[str, object]) -> str:
    """The usual control where the board has it, else the first of ``CONTROLS``."""
    return next((name for name in CONTROLS if name in labels), CONTROLS[0])


def _all_scores(runs: Sequence[Run]) -> list[Score]:
    """Every distinct score that any run has, as declared, in the order of the records."""
    found: dict[tuple[str, str, str, str], Score] = {}
    for run in runs:
        for score in run.record.scores:
            found.setdefault((score.task, score.variant, score.metric, score.subset), score)
    if not found:
        raise UserError("None of the runs finished: there is nothing to compare.")
    return list(found.values())


def _with_intervals(scores: Sequence[Score]) -> tuple[list[Score], list[str]]:
    """The scores of tasks with a main metric, and a line for each task that has none."""
    ranked = {score.task for score in scores if score.main}
    apart = [task for task in dict.fromkeys(s.task for s in scores) if task not in ranked]
    if not ranked:
        raise UserError(f"Nothing on {', '.join(apart)} is a mean over items: no intervals.")
    notes = [
        f"{task} is not shown: no metric of it is a mean over items, so none has an interval; "
        "scores.csv has its numbers."
        for task in apart
    ]
    return [score for score in scores if score.task in ranked], notes


def columns_of(
    scores: Sequence[Score],
) -> tuple[tuple[ProfileColumn, ...], tuple[ProfileColumn, ...], dict[str, str]]:
    """The clean columns, the impaired ones, and the column of each task's main metric."""
    shown: list[ProfileColumn] = []
    corrupted: list[ProfileColumn] = []
    main: dict[str, str] = {}
    for task in dict.fromkeys(score.task for score in scores):
        own = [score for score in scores if score.task == task]
        clean = [score for score in own if score.variant == CLEAN and (score.shown or score.main)]
        if not clean:
            raise UserError(f"{task} has no clean scores: evaluate its runs on clean too.")
        head = next(score for score in clean if score.main)
        for score in clean:
            column = _column(score, (CLEAN,), "")
            if score is head:
                main[task] = column.name
            if score.shown or score is head:
                shown.append(column)
        variants = sorted({score.variant for score in own if score.main} - {CLEAN})
        groups = {NO_IMAGE: [v for v in variants if v == BLIND]}
        for modality in ("image", "text"):
            groups[f", {modality} impaired"] = [v for v in variants if modality_of(v) == modality]
        for name in dict.fromkeys(corruption_of(v) for v in variants if modality_of(v) == "both"):
            groups[f", {name}"] = [v for v in variants if corruption_of(v) == name]
        corrupted += [_column(head, tuple(v), end) for end, v in groups.items() if v]
    return tuple(shown), tuple(corrupted), main


def _column(score: Score, variants: tuple[str, ...], ending: str) -> ProfileColumn:
    words = " ".join(part for part in (score.task, score.subset, score.metric) if part)
    return ProfileColumn(
        words + ending, score.task, score.metric, score.subset, score.higher_is_better, variants
    )


def composite(shown: Sequence[ProfileColumn], samples: Mapping[str, Sample]) -> Sample:
    """Mean over tasks of the mean of a task's clean numbers, each turned so that more is better.

    All of them are shares, so 1 - x turns one around. Numbers without a direction stay out.
    """
    parts = list(_by_task(shown, samples).values())
    clusters = min(samples[column.name].clusters for column in shown)
    return replace(ranking.averaged(parts), clusters=clusters)


def _by_task(shown: Sequence[ProfileColumn], samples: Mapping[str, Sample]) -> dict[str, Sample]:
    """Mean of each task's directed clean numbers; a task without any has none."""
    directed = [column for column in shown if column.higher_is_better is not None]
    return {
        task: ranking.averaged([_turned(samples[c.name], c) for c in directed if c.task == task])
        for task in dict.fromkeys(column.task for column in directed)
    }


def task_scores_of(
    shown: Sequence[ProfileColumn],
    samples: Mapping[str, Mapping[str, Sample]],
    seeds: tuple[int, ...],
) -> list[TaskScores]:
    """Each task as a task of the entries by its part of the composite."""
    by_task: dict[str, dict[str, Sample]] = {}
    for label, found in samples.items():
        for task, sample in _by_task(shown, found).items():
            by_task.setdefault(task, {})[label] = sample
    return [TaskScores(task, seeds, True, scores) for task, scores in by_task.items()]


def _turned(sample: Sample, column: ProfileColumn) -> Sample:
    if column.higher_is_better:
        return sample
    return Sample(1 - sample.values, 1 - sample.draws, sample.clusters)


def _reliance(
    main: Mapping[str, str], corrupted: Sequence[ProfileColumn], samples: Mapping[str, Sample]
) -> dict[str, Interval]:
    """By task: how far its main metric falls, whichever way, when every image is removed."""
    found = {}
    for column in corrupted:
        if column.variants == (BLIND,) and column.name.endswith(NO_IMAGE):
            modalities = samples[main[column.task]], samples[column.name]
            seen, blind = modalities if column.higher_is_better is not False else modalities[::-1]
            found[column.task] = intervals.paired_difference(seen, blind)
    return found


def _order(composites: Mapping[str, Sample]) -> list[str]:
    return sorted(composites, key=lambda label: (-composites[label].values.mean(), label))


def _intervals(samples: Mapping[str, Sample]) -> dict[str, Interval]:
    return dict(zip(samples, intervals.intervals(list(samples.values())), strict=True))


Picks = Mapping[str, tuple[bool, Mapping[str, Sample]]]
"""By column with a direction: whether higher is better, and every entry's sample."""


def _picks(
    shown: Sequence[ProfileColumn],
    samples: Mapping[str, Mapping[str, Sample]],
    composites: Mapping[str, Sample],
) -> Picks:
    directions = {c.name: c.higher_is_better for c in shown if c.higher_is_better is not None}
    columns = {
        name: (higher, {label: found[name] for label, found in samples.items()})
        for name, higher in directions.items()
    }
    return {**columns, COMPOSITE: (True, composites)}


def _differences(picks: Picks, control: str) -> dict[str, dict[str, ControlDifference]]:
    """Differences to the control by label and column, Holm-adjusted within each column."""
    found: dict[str, dict[str, ControlDifference]] = {}
    for name, (higher, samples) in picks.items():
        for label, each in differences(samples, control, higher_is_better=higher).items():
            found.setdefault(label, {})[name] = each
    return found


def _detectable(picks: Picks, control: str) -> dict[str, DetectableDifference]:
    seen = {name: detectable(samples, control) for name, (_, samples) in picks.items()}
    return {name: each for name, each in seen.items() if each is not None}


def _missing(runs: Sequence[Run], seeds: Sequence[int], wanted: set[tuple[str, str]]) -> str:
    """What an entry's runs lack, in words; empty when nothing."""
    present = {run.record.spec.seed for run in runs}
    lacks = [f"no run of seed {seed}" for seed in seeds if seed not in present]
    for run in runs:
        seed = run.record.spec.seed
        if run.record.status == "failed":
            lacks.append(f"seed {seed} failed: {run.record.failure}")
            continue
        scored = {(score.task, score.variant) for score in run.record.scores if score.main}
        absent = [f"{task} {variant}" for task, variant in sorted(wanted - scored)]
        if absent:
            lacks.append(f"seed {seed} lacks {', '.join(absent)}")
    return "; ".join(lacks)


def _notes(seeds: Sequence[int], control: str, complete: Mapping[str, Sequence[Run]]) -> list[str]:
    notes = []
    if len(seeds) == 1:
        notes.append("One seed: the interval leaves out training variance.")
    if control not in complete:
        notes.append(f"The control {control} is not ranked here, so nothing is compared with it.")
    devices = sorted({run.record.ledger.device for group in complete.values() for run in group})
    if len(devices) > 1:
        notes.append(f"Seconds come from several devices ({', '.join(devices)}): do not compare.")
    rates = sorted(
        (label, fmean(run.record.spec.learning_rate or 0.0 for run in group))
        for label, group in complete.items()
    )
    chosen = [f"{label} {rate:g}" for label, rate in rates if rate]
    if chosen:
        notes.append(f"Learning rates other than the backbone's: {', '.join(chosen)}.")
    return notes
