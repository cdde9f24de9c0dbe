"""Numbers of models scored on several tasks: sums over items, divided; measured with resamples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import enclosing
from steelyard.harness.records.record import items_file
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.stats.intervals import DRAWS, Floats, Sample, resample_weights
from steelyard.tasks.corruptions.columns import corruption_of
from steelyard.tasks.weighted_metrics import resampled

CLEAN = "clean"
AGREEMENT = 1e-5
"""How far a recorded value may be from the one that its single-precision items give."""
PLACE = ("variant", "id", "cluster")


@dataclass(frozen=True, slots=True)
class ProfileColumn:
    """One number of a profile: a metric of one task, averaged over variants."""

    name: str
    task: str
    metric: str
    subset: str
    higher_is_better: bool | None
    """None for a number that only describes."""
    variants: tuple[str, ...]
    """The variants that are averaged: severities first, then corruptions."""

    def shares(self) -> dict[str, float]:
        """Weight of each variant, so that a corruption with many severities weighs no more."""
        severities: dict[str, list[str]] = {}
        for variant in self.variants:
            severities.setdefault(corruption_of(variant), []).append(variant)
        return {v: 1 / len(severities) / len(own) for own in severities.values() for v in own}


@dataclass(frozen=True, slots=True)
class TaskItems:
    """The items of one run and one task."""

    run: Run
    task: str
    variants: Mapping[str, pd.DataFrame]
    """Rows by variant, sorted by id."""

    def items(self, variant: str) -> pd.DataFrame:
        """Rows of one variant."""
        if variant not in self.variants:
            raise UserError(
                f"The items of {self.run.folder} lack {self.task} {variant}: run again."
            )
        return self.variants[variant]


ScoreKey = tuple[str, str, str]
"""Variant, metric and subset: one number of one task."""


def measure(
    columns: Sequence[ProfileColumn], entries: Mapping[str, Sequence[Run]]
) -> tuple[dict[str, dict[str, Sample]], list[str]]:
    """Samples by label and column name of complete entries, whose runs are in seed order.

    Returns:
        The samples, and a line for each run that recorded another value than its items give, or
        whose answers leave a metric nothing to count.

    Raises:
        UserError: a run's items are incomplete, or two runs were scored on different items.
    """
    found: dict[str, dict[str, Sample]] = {label: {} for label in entries}
    notes: list[str] = []
    first = next((runs[0] for runs in entries.values()), None)
    if first is None:
        return found, notes
    by_task = {
        task: [column for column in columns if column.task == task]
        for task in dict.fromkeys(column.task for column in columns)
    }
    reference = {task: _reference(first, task, own) for task, own in by_task.items()}
    weights = _weights({task: rows["cluster"].to_numpy(str) for task, rows in reference.items()})
    for task, own in by_task.items():
        clusters = reference[task]["cluster"].nunique()
        for label, runs in entries.items():
            values = []
            for run in runs:
                answers = _read(run, task, own)
                _check_same(reference[task], answers, own)
                values.append(_values(answers, own, weights[task]))
                notes += _remarks(answers, own, values[-1])
            for column in own:
                drawn = np.stack([_averaged(column, one) for one in values])
                found[label][column.name] = Sample(drawn[:, 0], drawn[:, 1:], clusters)
    return found, notes


def _read(run: Run, task: str, columns: Sequence[ProfileColumn]) -> TaskItems:
    import pyarrow.parquet as parquet

    path = run.folder / items_file(task, run.record.spec.task)
    if not path.is_file():
        raise UserError(f"No {path}: intervals need a run's items, copy its whole folder.")
    present = parquet.read_schema(path).names
    table = pd.read_parquet(path, columns=_wanted(path, present, columns))
    parts = {str(name): part for name, part in table.groupby("variant", sort=True)}
    return TaskItems(run, task, {name: _by_id(part) for name, part in parts.items()})


def _wanted(path: Path, present: Sequence[str], columns: Sequence[ProfileColumn]) -> list[str]:
    """What is read of a file: of label-scored items only which they are, for ``Run`` reads them."""
    if "target" in present:
        return list(PLACE)
    sums = [f"{c.metric}.{end}" for c in columns for end in ("top", "bottom")]
    wanted = list(dict.fromkeys((*PLACE, "subset", *sums)))
    lacking = [name for name in wanted if name not in present]
    if lacking:
        raise UserError(f"{path} lacks the columns {', '.join(lacking)}: run again.")
    return wanted


def _by_id(rows: pd.DataFrame) -> pd.DataFrame:
    return rows if rows["id"].is_monotonic_increasing else rows.sort_values("id", kind="stable")


def _reference(run: Run, task: str, columns: Sequence[ProfileColumn]) -> pd.DataFrame:
    """The items that every run must have been scored on."""
    return _read(run, task, columns).items(columns[0].variants[0])


def _weights(clusters: Mapping[str, NDArray[np.str_]]) -> dict[str, Floats]:
    """Item weights by task: a row of ones, then resamples of whole clusters.

    Drawn over the clusters of all tasks together, alike for every entry: tasks often ask about
    the same images, and a mean over tasks is as uncertain as that makes it.
    """
    together = np.concatenate(list(clusters.values()))
    drawn = resample_weights(together, DRAWS, *clusters)
    starts = np.cumsum([len(own) for own in clusters.values()])[:-1]
    parts = np.split(drawn, starts, axis=1)
    return {
        task: np.vstack([np.ones(part.shape[1]), part])
        for task, part in zip(clusters, parts, strict=True)
    }


def _values(
    answers: TaskItems, columns: Sequence[ProfileColumn], weights: Floats
) -> dict[ScoreKey, Floats]:
    """Each number of a task under every row of item weights [R, n]: [R] each."""
    parts = list(dict.fromkeys((v, c.metric, c.subset) for c in columns for v in c.variants))
    if "subset" not in next(iter(answers.variants.values())):
        items = answers.run.items(_classes(answers), answers.task)
        return {part: resampled(part[1], items[part[0]], weights) for part in parts}
    tops, bottoms = (
        np.stack([_column(answers, part, end) for part in parts], axis=1)
        for end in ("top", "bottom")
    )
    above, below = weights @ tops, weights @ bottoms
    # Nothing to count among a model's own answers is 0, as recorded; among a resample, unknown.
    nothing = np.where(below[0] == 0, 0.0, np.nan)
    values = np.divide(
        above, below, out=np.broadcast_to(nothing, below.shape).copy(), where=below != 0
    )
    return dict(zip(parts, values.T, strict=True))


def _classes(answers: TaskItems) -> int:
    made = answers.run.record.provenance
    if answers.task != answers.run.record.spec.task:
        made = made["scored"][answers.task]
    return int(made["data"]["classes"])


def _column(answers: TaskItems, part: ScoreKey, end: str) -> Floats:
    variant, metric, subset = part
    rows = answers.items(variant)
    numbers = rows[f"{metric}.{end}"].to_numpy(np.float64)
    if not subset:
        return numbers
    within = [name for name in rows["subset"].unique() if subset in enclosing(name)]
    return numbers * rows["subset"].isin(within).to_numpy()


def _averaged(column: ProfileColumn, values: Mapping[ScoreKey, Floats]) -> Floats:
    parts = [
        share * values[variant, column.metric, column.subset]
        for variant, share in column.shares().items()
    ]
    return np.asarray(np.sum(parts, axis=0), dtype=np.float64)


def _check_same(
    reference: pd.DataFrame, answers: TaskItems, columns: Sequence[ProfileColumn]
) -> None:
    ids = reference["id"].to_numpy()
    for variant in dict.fromkeys(v for column in columns for v in column.variants):
        if not np.array_equal(ids, answers.items(variant)["id"].to_numpy()):
            raise UserError(
                f"{answers.run.folder} was scored on other items of {answers.task} ({variant}) "
                "than the first run: score all runs of a board on the same test items."
            )


def _remarks(
    answers: TaskItems, columns: Sequence[ProfileColumn], values: Mapping[ScoreKey, Floats]
) -> list[str]:
    """The first number that is not as recorded, and clean numbers that count nothing."""
    recorded = {
        (score.variant, score.metric, score.subset): score.value
        for score in answers.run.record.scores
        if score.task == answers.task
    }
    run = f"{answers.run.record.label}, seed {answers.run.record.spec.seed}"
    off = [
        f"{run}: the record says {answers.task} {' '.join(filter(None, part[1:]))} "
        f"{recorded[part]:.6f} on {part[0]}, its items give {drawn[0]:.6f}; the interval comes "
        "from the items."
        for part, drawn in values.items()
        if part in recorded and not abs(drawn[0] - recorded[part]) <= AGREEMENT
    ]
    empty = [
        f"{run}: no answer on which {column.name} could be counted, so it is 0."
        for column in columns
        if column.variants == (CLEAN,) and _counts_nothing(answers, column)
    ]
    return [*off[:1], *empty]


def _counts_nothing(answers: TaskItems, column: ProfileColumn) -> bool:
    rows = answers.items(CLEAN)
    if "subset" not in rows:
        return False
    return not _column(answers, (CLEAN, column.metric, column.subset), "bottom").any()
