"""What robustness is made of: scores of every variant, and answers compared with the clean ones."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.leaderboards.boards import profile_measure
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.measure import CLEAN, main_scores
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.loading import items
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.robustness.numbers import Variants, VariantScores
from steelyard.leaderboards.stats.intervals import DRAWS, Sample, resample_weights
from steelyard.tasks.weighted_metrics import fractions

Groups = Mapping[str, Sequence[Run]]
"""Runs of complete entries by label, in seed order."""


def of_board(board: Board) -> VariantScores | None:
    """What was measured of a board's entries; None where no variant is damaged."""
    found = board.entry_scores
    grid = next((each.grid for each in found.values()), None)
    if grid is None or not grid.corrupted:
        return None
    return VariantScores(
        task=board.task,
        metric=grid.metric,
        higher_is_better=grid.higher_is_better,
        percent=board.percent,
        scores={
            label: {variant: each.variant(variant) for variant in grid.variants}
            for label, each in found.items()
        },
        same={
            label: {
                variant: Sample(each.same[:, place, 0], each.same[:, place, 1:], each.clusters)
                for place, variant in enumerate(grid.corrupted)
            }
            for label, each in found.items()
        },
    )


def of_profile(groups: Groups, main: Mapping[str, ProfileColumn]) -> list[VariantScores]:
    """Each task of a profile that has damaged variants; ``main`` is its clean main metric."""
    runs = [run for own in groups.values() for run in own]
    wanted = {task: column for task, column in main.items() if _corrupted(runs, task)}
    columns = [
        ProfileColumn(f"{task} {variant}", task, column.metric, column.subset, True, (variant,))
        for task, column in wanted.items()
        for variant in _variants(runs, task)
    ]
    if not columns:
        return []
    found, _ = profile_measure.measure(columns, groups)
    return [
        VariantScores(
            task=task,
            metric=column.metric,
            higher_is_better=column.higher_is_better is not False,
            percent=True,
            scores={
                label: {v: each[f"{task} {v}"] for v in _variants(runs, task)}
                for label, each in found.items()
            },
            same=consistency(groups, task, _variants(runs, task)),
        )
        for task, column in wanted.items()
    ]


def consistency(groups: Groups, task: str, variants: Sequence[str]) -> dict[str, Variants]:
    """Share of answers equal to the clean ones, by label and damaged variant."""
    path = next(iter(groups.values()))[0].items_path(task)
    _, order = items.read(path, ())
    answer = items.answer_column(path)
    clusters = order.clusters[CLEAN]
    drawn = resample_weights(clusters, DRAWS, task)
    weights = np.vstack([np.ones(len(clusters)), drawn])
    corrupted = [variant for variant in variants if variant != CLEAN]
    count = len(np.unique(clusters))

    def unchanged(runs: Sequence[Run]) -> NDArray[np.bool_]:
        read = [items.read(run.items_path(task), [answer], order) for run in runs]
        groups = items.alike(read)
        return np.concatenate(
            [items.unchanged(*group, answer, corrupted, CLEAN) for group in groups]
        )

    def of_entry(runs: Sequence[Run]) -> Variants:
        kept = fractions(unchanged(runs), weights)
        return {
            variant: Sample(kept[:, place, 0], kept[:, place, 1:], count)
            for place, variant in enumerate(corrupted)
        }

    return {label: of_entry(runs) for label, runs in groups.items()}


def _variants(runs: Sequence[Run], task: str) -> list[str]:
    return sorted(
        {score.variant for run in runs for score in main_scores(run) if score.task == task}
    )


def _corrupted(runs: Sequence[Run], task: str) -> bool:
    return any(variant != CLEAN for variant in _variants(runs, task))
