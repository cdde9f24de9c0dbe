"""Collect the input of robustness: scores of every variant, and unchanged answers."""

from collections.abc import Mapping, Sequence

import numpy as np

from steelyard.leaderboards.boards import profile_measure
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.measure import main_scores
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.loading import items
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.robustness.numbers import VariantSamples, VariantScores
from steelyard.leaderboards.stats.intervals import DRAWS, Sample, resample_weights
from steelyard.tasks.corruptions.variants import CLEAN
from steelyard.tasks.weighted_metrics import fractions

Groups = Mapping[str, Sequence[Run]]
"""Runs of complete entries by label, in seed order."""


def of_board(board: Board) -> VariantScores | None:
    """Return the scores of a board's entries; None without corruptions."""
    entries = board.entry_scores
    grid = next((entry.grid for entry in entries.values()), None)
    if grid is None or not grid.corrupted:
        return None
    return VariantScores(
        task=board.task,
        metric=grid.metric,
        higher_is_better=grid.higher_is_better,
        percent=board.percent,
        scores={
            label: {variant: entry.variant(variant) for variant in grid.variants}
            for label, entry in entries.items()
        },
        same={
            label: {variant: entry.unchanged(variant) for variant in grid.corrupted}
            for label, entry in entries.items()
        },
    )


def of_profile(profile: Profile) -> list[VariantScores]:
    """Return the scores of each task of a profile that has corruptions."""
    groups = profile.groups
    by_name = {column.name: column for column in profile.clean}
    all_scores = [s for runs in groups.values() for run in runs for s in main_scores(run)]
    variants: dict[str, list[str]] = {}
    for task, variant in sorted({(score.task, score.variant) for score in all_scores}):
        variants.setdefault(task, []).append(variant)
    main = {
        task: by_name[name]
        for task, name in profile.main.items()
        if any(variant != CLEAN for variant in variants.get(task, ()))
    }
    columns = [
        # Any direction will do: only ``build`` uses it, that of the main metric.
        ProfileColumn(f"{task} {variant}", task, column.metric, column.subset, True, (variant,))
        for task, column in main.items()
        for variant in variants[task]
    ]
    if not columns:
        return []
    samples, _ = profile_measure.measure(columns, groups)
    return [
        VariantScores(
            task=task,
            metric=column.metric,
            higher_is_better=column.higher_is_better is not False,
            percent=True,
            scores={
                label: {variant: entry[f"{task} {variant}"] for variant in variants[task]}
                for label, entry in samples.items()
            },
            same=consistency(groups, task, variants[task]),
        )
        for task, column in main.items()
    ]


def consistency(groups: Groups, task: str, variants: Sequence[str]) -> dict[str, VariantSamples]:
    """Return the fraction of answers equal to the clean ones, by label and corrupted variant."""
    path = next(iter(groups.values()))[0].items_path(task)
    _, order = items.read(path, ())
    answer = items.answer_column(path)
    clusters = order.clusters[CLEAN]
    weights = np.vstack([np.ones(len(clusters)), resample_weights(clusters, DRAWS, task)])
    corrupted = [variant for variant in variants if variant != CLEAN]
    count = len(np.unique(clusters))

    result: dict[str, VariantSamples] = {}
    for label, runs in groups.items():
        tables = [items.read(run.items_path(task), [answer], order) for run in runs]
        unchanged = [
            items.unchanged_answers(*group, answer, corrupted, CLEAN)
            for group in items.group_by_order(tables)
        ]
        same = fractions(np.concatenate(unchanged), weights)
        result[label] = {
            variant: Sample(same[:, index, 0], same[:, index, 1:], count)
            for index, variant in enumerate(corrupted)
        }
    return result
