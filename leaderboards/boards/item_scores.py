"""A record's scores computed again from its items: an edited score does not follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import digest
from steelyard.harness.records.record import Record, Score, items_file
from steelyard.leaderboards.loading import items as item_table
from steelyard.tasks.weighted_metrics import METRICS, Items, resampled

AGREEMENT = 1e-5
"""Items are stored in single precision."""
MEANS = ("accuracy",)
"""Metrics of class probabilities that are the mean of the items' own scores."""


@dataclass(slots=True)
class ItemCheck:
    """What the items of one run say."""

    wrong: list[str]
    skipped: set[str]
    """Metrics that items do not give."""
    ids: dict[tuple[str, str], str]
    """Hash of the item ids by task and variant."""


def check(folder: Path, found: Record, orders: dict[str, item_table.Order]) -> ItemCheck:
    """Compare every score with the run's items; ``orders`` by task is shared between runs."""
    done = ItemCheck([], set(), {})
    for task in dict.fromkeys(score.task for score in found.scores):
        path = folder / items_file(task, found.spec.task)
        if not path.is_file():
            done.wrong.append(f"{path.name} is missing: the scores of {task} cannot be checked")
            continue
        made = found.provenance
        about = made if task == found.spec.task else made.get("scored", {}).get(task, {})
        classes = int(about.get("data", {}).get("classes", 0))
        own = [score for score in found.scores if score.task == task]
        try:
            _check_task(path, own, classes, done, orders)
        except UserError as error:
            done.wrong.append(str(error))
    return done


def _check_task(
    path: Path,
    scores: Sequence[Score],
    classes: int,
    done: ItemCheck,
    orders: dict[str, item_table.Order],
) -> None:
    import pyarrow.parquet as parquet

    task = scores[0].task
    present = parquet.read_schema(path).names
    of_classes = "target" in present
    wanted = [*item_table.CLASSES, *item_table.VALUES] if of_classes else _columns(present)
    table, order = item_table.read(path, wanted, orders.get(task))
    orders[task] = order
    for variant, ids in order.ids.items():
        done.ids[task, variant] = digest(str(name).encode() for name in ids)
        if len(np.unique(ids)) < len(ids):
            done.wrong.append(f"{task} {variant}: an item is scored twice")
    by_class = item_table.items_of([table], order, classes, wanted)[0] if of_classes else {}
    for variant, items in by_class.items():
        if off := _with_another_score(items):
            done.wrong.append(f"{task} {variant}: {off} items have another score than their "
                              "target and prediction give")  # fmt: skip
    sums = {} if of_classes else {name: table[name].to_numpy().astype(float) for name in wanted
                                  if name != "subset"}  # fmt: skip
    subsets = np.array(table["subset"].to_pylist(), str) if "subset" in wanted else None
    for score in scores:
        rows = order.rows.get(score.variant, np.zeros(0, np.intp))
        if score.subset and subsets is not None:
            rows = rows[subsets[rows] == score.subset]
        value = (
            _of_classes(by_class[score.variant], score.metric)
            if score.variant in by_class
            else _of_sums({name: values[rows] for name, values in sums.items()}, score.metric)
        )
        _compare(score, len(rows), value, done)


def _columns(present: Sequence[str]) -> list[str]:
    return [name for name in present if name == "subset" or name.endswith((".top", ".bottom"))]


def _compare(score: Score, items: int, value: float | None, done: ItemCheck) -> None:
    where = " ".join(part for part in (score.task, score.variant, score.subset) if part)
    if items != score.n:
        done.wrong.append(f"{where}: {score.n} items recorded, {items} kept")
    elif value is None:
        done.skipped.add(f"{score.task} {score.metric}")
    elif not abs(value - score.value) <= AGREEMENT * max(1.0, abs(value)):
        done.wrong.append(
            f"{where}: the record says {score.metric} {score.value:.6g}, its items give {value:.6g}"
        )


def _with_another_score(items: Items) -> int:
    """Items whose own score is not the F1 of their classes: 1 or 0 where each carries one."""
    hits = (items.target & items.predicted).sum(axis=1)
    sizes = items.target.sum(axis=1) + items.predicted.sum(axis=1)
    own = np.divide(2 * hits, sizes, out=np.zeros(len(hits)), where=sizes > 0)
    return int((np.abs(own - items.score) > AGREEMENT).sum())


def _of_classes(items: Items, metric: str) -> float | None:
    if metric not in METRICS and metric not in MEANS:
        return None
    return float(resampled(metric, items, np.ones((1, len(items.ids))))[0])


def _of_sums(sums: Mapping[str, NDArray[np.float64]], metric: str) -> float | None:
    if f"{metric}.top" not in sums:
        return None
    bottom = float(sums[f"{metric}.bottom"].sum())
    return float(sums[f"{metric}.top"].sum()) / bottom if bottom else 0.0
