"""What robustness is made of: scores of every variant, and answers compared with the clean ones."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steelyard.leaderboards import item_table, measure, ratios
from steelyard.leaderboards.collect import Run
from steelyard.leaderboards.measure import CLEAN, grid_of, main_scores
from steelyard.leaderboards.ratios import Column
from steelyard.leaderboards.robustness import Measured, Variants
from steelyard.leaderboards.stats import DRAWS, METRICS, Sample, resample_weights
from steelyard.tasks.answers import normalise

if TYPE_CHECKING:
    import pyarrow

Groups = Mapping[str, Sequence[Run]]
"""Runs of complete entries by label, in seed order."""


def of_board(
    groups: Groups, task: str, known: Mapping[str, measure.Measured] | None = None
) -> Measured | None:
    """The runs of one task's board; None where no variant is damaged.

    ``known`` is what the board measured of the same runs; without it their items are read here.
    """
    runs = [run for own in groups.values() for run in own]
    if not _damaged(runs, task):
        return None
    grid = grid_of(task, runs)
    found = measure.measure(grid, groups)[0] if known is None else known
    scores = {
        label: {variant: each.column({variant: 1.0}) for variant in grid.variants}
        for label, each in found.items()
    }
    same = consistency(groups, task, grid.variants)
    percent = grid.metric in METRICS
    return Measured(task, grid.metric, grid.higher_is_better, percent, scores, same)


def of_profile(groups: Groups, main: Mapping[str, Column]) -> list[Measured]:
    """Each task of a profile that has damaged variants; ``main`` is its clean main metric."""
    runs = [run for own in groups.values() for run in own]
    wanted = {task: column for task, column in main.items() if _damaged(runs, task)}
    columns = [
        Column(f"{task} {variant}", task, column.metric, column.subset, True, (variant,))
        for task, column in wanted.items()
        for variant in _variants(runs, task)
    ]
    if not columns:
        return []
    found, _ = ratios.measure(columns, groups)
    return [
        Measured(
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
    """Share of answers equal to the clean ones, by label and damaged variant.

    An answer is the set of predicted classes, or words after the normalisation of VQA.
    """
    first = next(iter(groups.values()))[0]
    order = item_table.order_of(item_table.read(first.items_path(task), ()))
    answer = "predicted" if "predicted" in item_table.names(first.items_path(task)) else "answer"
    clusters = order.clusters[CLEAN]
    drawn = resample_weights(clusters, DRAWS, task)
    weights = np.vstack([np.ones(len(clusters)), drawn]).T / len(clusters)
    weights /= weights.sum(axis=0)
    damaged = [variant for variant in variants if variant != CLEAN]
    count = len(np.unique(clusters))

    def shares(runs: Sequence[Run]) -> Variants:
        equal = np.stack([_unchanged(run, task, answer, damaged, order) for run in runs])
        kept = equal.astype(np.float64) @ weights  # whole numbers would not be left to BLAS
        return {
            variant: Sample(kept[:, place, 0], kept[:, place, 1:], count)
            for place, variant in enumerate(damaged)
        }

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # as in ``measure``
        return dict(zip(groups, pool.map(shares, groups.values()), strict=True))


def _unchanged(
    run: Run, task: str, answer: str, damaged: Sequence[str], known: item_table.Order
) -> NDArray[np.bool_]:
    """Whether each answer under each damage is the clean one: [V, n]."""
    table = item_table.read(run.items_path(task), [answer])
    order = item_table.order_of(table, known)
    answers = _class_sets(table) if answer == "predicted" else _words(table)
    clean = answers[order.rows[CLEAN]]
    return np.stack([(answers[order.rows[v]] == clean).all(axis=1) for v in damaged])


def _class_sets(table: "pyarrow.Table") -> NDArray[np.bool_]:
    """Predicted classes as 0/1: [rows, C]."""
    import pyarrow.compute as compute

    column = table["predicted"]
    rows = compute.list_parent_indices(column).to_numpy()
    classes = compute.list_flatten(column).to_numpy().astype(np.int64)
    present = np.zeros((len(column), int(classes.max(initial=-1)) + 1), dtype=np.bool_)
    present[rows, classes] = True
    return present


def _words(table: "pyarrow.Table") -> NDArray[np.int64]:
    """A number for each answer, equal for those that are equal once normalised: [rows, 1]."""
    given = table["answer"].to_pylist()
    known = {text: normalise(text) for text in set(given)}
    numbers = {text: number for number, text in enumerate(dict.fromkeys(known.values()))}
    return np.array([[numbers[known[text]]] for text in given])


def _variants(runs: Sequence[Run], task: str) -> list[str]:
    return sorted(
        {score.variant for run in runs for score in main_scores(run) if score.task == task}
    )


def _damaged(runs: Sequence[Run], task: str) -> bool:
    return any(variant != CLEAN for variant in _variants(runs, task))
