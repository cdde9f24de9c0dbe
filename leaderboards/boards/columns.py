"""Choose the columns of a board: what its runs were scored on decides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES
from steelyard.harness.records.record import Score
from steelyard.leaderboards.loading.collect import Run
from steelyard.tasks.corruptions.columns import columns_of, corruption_of, modality_of
from steelyard.tasks.corruptions.variants import CLEAN

BLANK_IMAGE = "image-blank"
NO_IMAGE = ", no image"
"""Ending of the names of columns without images."""
BALANCED, COMPOSITE = "balanced", "composite"
"""Columns that order the rows of a board of one score and of several."""
COMPARED = ("clean", "corrupted")
"""Columns of a board of one score in which every entry is compared with the control."""


@dataclass(frozen=True, slots=True)
class Column:
    """Metric of one task, averaged over variants."""

    name: str
    task: str
    metric: str
    subset: str
    higher_is_better: bool | None
    """None for a number that only describes."""
    variants: Mapping[str, float]
    """Weight of each variant."""
    compared: bool = False
    """Whether every entry is compared with the control."""
    main: bool = False
    """Whether it is the clean main metric of its task."""

    @property
    def is_clean(self) -> bool:
        return [*self.variants] == [CLEAN]

    @property
    def is_corruption(self) -> bool:
        """Return whether this is one corruption of the only task, over its severities."""
        return not self.is_clean and self.name == corruption_of(next(iter(self.variants)))


class Selection(NamedTuple):
    """Columns of a board, and the scores that an entry needs to be ranked."""

    columns: tuple[Column, ...]
    variants: tuple[Column, ...]
    """Main metric of each task on every variant, severities apart."""
    order_by: str
    notes: tuple[str, ...]

    @property
    def required(self) -> set[tuple[str, str]]:
        """Pairs of task and variant."""
        return {(column.task, name) for column in self.variants for name in column.variants}


def select(task: str, runs: Sequence[Run]) -> Selection:
    """Return the columns of the board of runs trained on one task.

    Raises:
        UserError: no run finished, or the scores cannot rank entries.
    """
    scores = [s for run in runs if run.record.status == "done" for s in run.record.scores]
    if not scores:
        raise UserError(f"None of the runs on {task} finished: there is nothing to compare.")
    if has_several_scores(runs):
        return _several(task, scores)
    mains = [score for score in scores if score.main]
    metrics = {(score.metric, score.higher_is_better) for score in mains}
    if len(metrics) != 1:
        names = ", ".join(name for name, _ in sorted(metrics)) or "none"
        raise UserError(f"{task} needs one main metric in one direction, its records have {names}.")
    if mains[0].higher_is_better is None:
        raise UserError(
            f"{task}: its main metric {mains[0].metric} has no direction, so it cannot rank."
        )
    variants = sorted({score.variant for score in mains})
    columns = [
        _column(mains[0], weights, name=name, compared=name in COMPARED)
        for name, weights in columns_of(task, variants).items()
    ]
    return Selection(tuple(columns), _single(mains[0], variants), BALANCED, ())


def has_several_scores(runs: Sequence[Run]) -> bool:
    """Return whether runs of one data set give several scores: free answers or several tasks."""
    return any(
        score.shown or score.task != run.record.spec.task
        for run in runs
        for score in run.record.scores
    )


def _several(trained_on: str, scores: Sequence[Score]) -> Selection:
    """Return each task's clean numbers, then its main metric without images and corrupted."""
    columns: list[Column] = []
    single: list[Column] = []
    unranked = []
    for task in dict.fromkeys(score.task for score in scores):
        task_scores = [score for score in scores if score.task == task]
        variants = sorted({score.variant for score in task_scores if score.main})
        if not variants:
            unranked.append(task)
            continue
        distinct: dict[tuple[str, str], Score] = {}
        for score in task_scores:
            if score.variant == CLEAN:
                distinct.setdefault((score.metric, score.subset), score)
        weights = columns_of(task, variants)
        main = next(score for score in distinct.values() if score.main)
        columns += [
            _column(s, {CLEAN: 1.0}, compared=s.higher_is_better is not None, main=s is main)
            for s in distinct.values()
            if s.shown or s is main
        ]
        # Corrupted columns are of the main metric alone: all metrics would be too many.
        endings: dict[str, Mapping[str, float]] = {}
        if BLANK_IMAGE in variants:
            endings[NO_IMAGE] = {BLANK_IMAGE: 1.0}
        endings |= {f", {m} corrupted": weights[m] for m in MODALITIES if m in weights}
        # Corruptions of both modalities are in no average, so each has its own column.
        endings |= {f", {name}": weights[name] for name in weights if modality_of(name) == "both"}
        columns += [_column(main, part, ending) for ending, part in endings.items()]
        single += _single(main, variants)
    if not columns:
        raise UserError(f"Nothing on {', '.join(unranked)} is a mean over items: no intervals.")
    if not any(column.compared for column in columns):
        raise UserError(f"No number of the runs on {trained_on} has a direction: nothing to rank.")
    notes = [
        f"{task} is not shown: no metric of it is a mean over items, so none has an interval; "
        "scores.csv has its numbers."
        for task in unranked
    ]
    return Selection(tuple(columns), tuple(single), COMPOSITE, tuple(notes))


def _single(score: Score, variants: Sequence[str]) -> tuple[Column, ...]:
    return tuple(_column(score, {name: 1.0}, name=name) for name in variants)


def _column(
    score: Score,
    variants: Mapping[str, float],
    ending: str = "",
    *,
    name: str = "",
    compared: bool = False,
    main: bool = False,
) -> Column:
    """Return the column of a score's metric; its name is the score's with ``ending``."""
    return Column(
        name=name or " ".join(filter(None, (score.task, score.subset, score.metric))) + ending,
        task=score.task,
        metric=score.metric,
        subset=score.subset,
        higher_is_better=score.higher_is_better,
        variants=variants,
        compared=compared,
        main=main,
    )
