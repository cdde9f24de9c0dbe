"""Recompute a record's scores from its items, which exposes edited scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import digest
from steelyard.harness.records.record import Score
from steelyard.leaderboards.loading import items as item_table
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.loading.packed import RunFile, path_of
from steelyard.tasks.weighted_metrics import METRICS, Items, all_resampled

AGREEMENT = 1e-5
"""Relative tolerance: items are stored in single precision."""
MEANS = ("accuracy",)
"""Metrics of class probabilities that are the mean of the item scores."""


@dataclass(slots=True)
class ItemCheck:
    """Result of checking the items of one run."""

    wrong: list[str]
    skipped: set[str]
    """Metrics that cannot be computed from items."""
    ids: dict[tuple[str, str], str]
    """Hash of the item ids by task and variant."""


def check(run: Run, orders: dict[str, item_table.Order]) -> ItemCheck:
    """Compare every score with the run's items; ``orders`` by task is shared between runs."""
    result, record = ItemCheck([], set(), {}), run.record
    for task in dict.fromkeys(score.task for score in record.scores):
        path = run.items(task)
        if not path.is_file():
            result.wrong.append(
                f"{path_of(path).name} is missing: the scores of {task} cannot be checked"
            )
            continue
        provenance = record.provenance
        if task != record.spec.task:
            # Facts of the other tasks are apart from those of the training task.
            provenance = provenance.get("scored", {}).get(task, {})
        classes = int(provenance.get("data", {}).get("classes", 0))
        scores = [score for score in record.scores if score.task == task]
        try:
            _check_task(path, scores, classes, result, orders)
        except UserError as error:
            result.wrong.append(str(error))
    return result


def _check_task(
    path: RunFile,
    scores: Sequence[Score],
    classes: int,
    result: ItemCheck,
    orders: dict[str, item_table.Order],
) -> None:
    task = scores[0].task
    present = item_table.column_names(path)
    of_classes = "target" in present
    names = [n for n in present if n == "subset" or n.endswith((".top", ".bottom"))]
    if of_classes:
        names = [*item_table.CLASSES, *item_table.VALUES]
    table, order = item_table.read(path, names, orders.get(task))
    orders[task] = order
    for variant, (ids, is_unique) in _ids(order).items():
        result.ids[task, variant] = ids
        if not is_unique:
            result.wrong.append(f"{task} {variant}: an item is scored twice")
    by_class = item_table.items_of([table], order, classes, names)[0] if of_classes else {}
    for variant, items in by_class.items():
        if count := _inconsistent(items):
            result.wrong.append(f"{task} {variant}: {count} items have another score than their "
                                "target and prediction give")  # fmt: skip
    sums = {} if of_classes else {name: table[name].to_numpy().astype(float) for name in names
                                  if name != "subset"}  # fmt: skip
    subsets = np.array(table["subset"].to_pylist(), str) if "subset" in names else None
    for score in scores:
        rows = order.rows.get(score.variant, np.zeros(0, np.intp))
        if score.subset and subsets is not None:
            rows = rows[subsets[rows] == score.subset]
        value = (
            _of_classes(by_class[score.variant], score.metric)
            if score.variant in by_class
            else _of_sums({name: values[rows] for name, values in sums.items()}, score.metric)
        )
        _compare(score, len(rows), value, result)


# Keyed by identity: most runs of a task have the same order.
@lru_cache(maxsize=64)
def _ids(order: item_table.Order) -> Mapping[str, tuple[str, bool]]:
    """Return by variant the hash of the item ids, and whether each occurs once."""
    return {
        variant: (digest(str(name).encode() for name in ids), len(np.unique(ids)) == len(ids))
        for variant, ids in order.ids.items()
    }


def _compare(score: Score, items: int, value: float | None, result: ItemCheck) -> None:
    name = " ".join(part for part in (score.task, score.variant, score.subset) if part)
    if items != score.n:
        result.wrong.append(f"{name}: {score.n} items recorded, {items} stored")
    elif value is None:
        result.skipped.add(f"{score.task} {score.metric}")
    # Not ``>``: NaN disagrees with everything.
    elif not abs(value - score.value) <= AGREEMENT * max(1.0, abs(value)):
        result.wrong.append(
            f"{name}: the record says {score.metric} {score.value:.6g}, its items give {value:.6g}"
        )


def _inconsistent(items: Items) -> int:
    """Count items whose score is not the F1 of their classes (1 or 0 with one class each)."""
    hits = (items.target & items.predicted).sum(axis=1)
    sizes = items.target.sum(axis=1) + items.predicted.sum(axis=1)
    scores = np.divide(2 * hits, sizes, out=np.zeros(len(hits)), where=sizes > 0)
    return int((np.abs(scores - items.score) > AGREEMENT).sum())


def _of_classes(items: Items, metric: str) -> float | None:
    if metric not in METRICS and metric not in MEANS:
        return None
    return float(all_resampled(metric, [items], np.ones((1, len(items.ids))))[0, 0])


def _of_sums(sums: Mapping[str, NDArray[np.float64]], metric: str) -> float | None:
    if f"{metric}.top" not in sums:
        return None
    bottom = float(sums[f"{metric}.bottom"].sum())
    # Runs record 0 where there is nothing to count.
    return float(sums[f"{metric}.top"].sum()) / bottom if bottom else 0.0
