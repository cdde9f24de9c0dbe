"""Measure metrics of models on several tasks as ratios of sums over items, with resamples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import enclosing
from steelyard.harness.records.record import items_file
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.stats.intervals import DRAWS, Floats, Sample, resample_weights
from steelyard.tasks.corruptions.columns import corruption_of
from steelyard.tasks.corruptions.variants import CLEAN
from steelyard.tasks.weighted_metrics import resampled

AGREEMENT = 1e-5
"""Largest allowed distance of a recorded value from the value of its single-precision items."""
KEYS = ("variant", "id", "cluster")


@dataclass(frozen=True, slots=True)
class ProfileColumn:
    """Metric of one task, averaged over variants."""

    name: str
    task: str
    metric: str
    subset: str
    higher_is_better: bool | None
    """None for a number that only describes."""
    variants: tuple[str, ...]
    """Variants to average over: severities first, then corruptions."""

    def weights(self) -> dict[str, float]:
        """Return the weight of each variant; every corruption has the same total weight."""
        severities: dict[str, list[str]] = {}
        for variant in self.variants:
            severities.setdefault(corruption_of(variant), []).append(variant)
        return {
            variant: 1 / len(severities) / len(variants)
            for variants in severities.values()
            for variant in variants
        }


@dataclass(frozen=True, slots=True)
class TaskItems:
    """Items of one run and one task, by variant and sorted by id."""

    run: Run
    task: str
    variants: Mapping[str, pd.DataFrame]

    def of(self, variant: str) -> pd.DataFrame:
        if variant not in self.variants:
            raise UserError(
                f"The items of {self.run.folder} lack {self.task} {variant}: run again."
            )
        return self.variants[variant]


ScoreKey = tuple[str, str, str]
"""Variant, metric and subset of one number of one task."""


def measure(
    columns: Sequence[ProfileColumn], entries: Mapping[str, Sequence[Run]]
) -> tuple[dict[str, dict[str, Sample]], list[str]]:
    """Measure complete entries, whose runs are in seed order.

    Returns:
        Samples by label and column name, and a line for each run that recorded another value than
        its items give, or whose answers leave a metric nothing to count.

    Raises:
        UserError: a run's items are incomplete, or two runs were scored on different items.
    """
    result: dict[str, dict[str, Sample]] = {label: {} for label in entries}
    notes: list[str] = []
    first = next((runs[0] for runs in entries.values()), None)
    if first is None:
        return result, notes
    by_task: dict[str, list[ProfileColumn]] = {}
    for column in columns:
        by_task.setdefault(column.task, []).append(column)
    # Every run must have been scored on the items of the first one.
    reference = {
        task: _read(first, task, task_columns).of(task_columns[0].variants[0])
        for task, task_columns in by_task.items()
    }
    weights = _weights({task: rows["cluster"].to_numpy(str) for task, rows in reference.items()})
    for task, task_columns in by_task.items():
        clusters = reference[task]["cluster"].nunique()
        for label, runs in entries.items():
            values = []
            for run in runs:
                items = _read(run, task, task_columns)
                _check_same(reference[task], items, task_columns)
                values.append(_values(items, task_columns, weights[task]))
                notes += _remarks(items, task_columns, values[-1])
            for column in task_columns:
                draws = sum(
                    weight
                    * np.stack([by_key[variant, column.metric, column.subset] for by_key in values])
                    for variant, weight in column.weights().items()
                )
                # The first row of weights counts each item once: its draw is the value.
                draws = np.asarray(draws)
                result[label][column.name] = Sample(draws[:, 0], draws[:, 1:], clusters)
    return result, notes


def _read(run: Run, task: str, columns: Sequence[ProfileColumn]) -> TaskItems:
    import pyarrow.parquet as parquet

    path = run.folder / items_file(task, run.record.spec.task)
    if not path.is_file():
        raise UserError(f"No {path}: intervals need a run's items, copy its whole folder.")
    present, names = parquet.read_schema(path).names, [*KEYS]
    if "target" not in present:  # label-scored items have more columns, which ``Run`` reads
        sums = [f"{column.metric}.{end}" for column in columns for end in ("top", "bottom")]
        names = list(dict.fromkeys((*KEYS, "subset", *sums)))
        if missing := [name for name in names if name not in present]:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}: run again.")
    table = pd.read_parquet(path, columns=names)
    variants = {
        str(name): rows
        # Most files are sorted: to check is cheaper than to copy.
        if rows["id"].is_monotonic_increasing
        else rows.sort_values("id", kind="stable")
        for name, rows in table.groupby("variant", sort=True)
    }
    return TaskItems(run, task, variants)


def _weights(clusters: Mapping[str, NDArray[np.str_]]) -> dict[str, Floats]:
    """Return item weights by task: a row of ones, then resamples of whole clusters.

    Drawn over the clusters of all tasks together: tasks often ask about the same images, and the
    uncertainty of a mean over tasks depends on that. All entries share the draws.
    """
    draws = resample_weights(np.concatenate(list(clusters.values())), DRAWS, *clusters)
    starts = np.cumsum([len(ids) for ids in clusters.values()])[:-1]
    parts = np.split(draws, starts, axis=1)
    return {
        task: np.vstack([np.ones(part.shape[1]), part])
        for task, part in zip(clusters, parts, strict=True)
    }


def _values(
    items: TaskItems, columns: Sequence[ProfileColumn], weights: Floats
) -> dict[ScoreKey, Floats]:
    """Return each number of a task under every row of item weights [R, n]: [R] each."""
    keys = list(dict.fromkeys((v, c.metric, c.subset) for c in columns for v in c.variants))
    if "subset" not in next(iter(items.variants.values())):
        provenance = items.run.record.provenance
        if items.task != items.run.record.spec.task:
            provenance = provenance["scored"][items.task]
        by_variant = items.run.items(int(provenance["data"]["classes"]), items.task)
        return {key: resampled(key[1], by_variant[key[0]], weights) for key in keys}
    # One product for all numbers: reading the weights takes most of the time.
    top = weights @ np.stack([_sums(items, key, "top") for key in keys], axis=1)
    bottom = weights @ np.stack([_sums(items, key, "bottom") for key in keys], axis=1)
    # Nothing to count is 0 on the test items, as recorded, and unknown on a resample of others.
    empty = np.where(bottom[0] == 0, 0.0, np.nan)
    values = np.divide(
        top, bottom, out=np.broadcast_to(empty, bottom.shape).copy(), where=bottom != 0
    )
    return dict(zip(keys, values.T, strict=True))


def _sums(items: TaskItems, key: ScoreKey, end: Literal["top", "bottom"]) -> Floats:
    """Return the item parts of a ratio, 0 outside the subset: [n]."""
    variant, metric, subset = key
    rows = items.of(variant)
    numbers = rows[f"{metric}.{end}"].to_numpy(np.float64)
    if not subset:
        return numbers
    # Items outside get zeros, since the weights have a column for every item.
    inside = [name for name in rows["subset"].unique() if subset in enclosing(name)]
    return numbers * rows["subset"].isin(inside).to_numpy()


def _check_same(
    reference: pd.DataFrame, items: TaskItems, columns: Sequence[ProfileColumn]
) -> None:
    ids = reference["id"].to_numpy()
    for variant in dict.fromkeys(v for column in columns for v in column.variants):
        if not np.array_equal(ids, items.of(variant)["id"].to_numpy()):
            raise UserError(
                f"{items.run.folder} was scored on other items of {items.task} ({variant}) "
                "than the first run: score all runs of a board on the same test items."
            )


def _remarks(
    items: TaskItems, columns: Sequence[ProfileColumn], values: Mapping[ScoreKey, Floats]
) -> list[str]:
    """Return lines about the first value that disagrees with the record, and empty ratios."""
    recorded = {
        (score.variant, score.metric, score.subset): score.value
        for score in items.run.record.scores
        if score.task == items.task
    }
    run = f"{items.run.record.label}, seed {items.run.record.spec.seed}"
    off = [
        f"{run}: the record says {items.task} {' '.join(filter(None, key[1:]))} "
        f"{recorded[key]:.6f} on {key[0]}, its items give {draws[0]:.6f}; the interval comes "
        "from the items."
        for key, draws in values.items()
        # Not ``>``: NaN disagrees with everything.
        if key in recorded and not abs(draws[0] - recorded[key]) <= AGREEMENT
    ]
    empty = [
        f"{run}: no answer on which {column.name} could be counted, so it is 0."
        for column in columns
        if column.variants == (CLEAN,)
        and "subset" in items.of(CLEAN)
        and not _sums(items, (CLEAN, column.metric, column.subset), "bottom").any()
    ]
    return [*off[:1], *empty]
