"""Metrics of tasks answered in words: sums over items, divided; measured with resamples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from steelyard.harness.errors import UserError
from steelyard.harness.record import items_file
from steelyard.leaderboards.collect import Run
from steelyard.leaderboards.stats import DRAWS, Floats, Sample, resample_weights

CLEAN = "clean"
AGREEMENT = 1e-5
"""How far a recorded value may be from the one that its single-precision items give."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number of a profile: a metric of one task, averaged over variants."""

    name: str
    task: str
    metric: str
    subset: str
    higher_is_better: bool | None
    """None for a number that only describes."""
    variants: tuple[str, ...]
    """The variants that are averaged."""


class Answers:
    """The items of one run and one task: what each adds to a metric's two sums."""

    def __init__(self, run: Run, task: str) -> None:
        path = run.folder / items_file(task, run.record.spec.task)
        if not path.is_file():
            raise UserError(f"No {path}: intervals need a run's items, copy its whole folder.")
        table = pd.read_parquet(path)
        self.run, self.task = run, task
        self._by_variant = {
            str(name): part.sort_values("id", kind="stable")
            for name, part in table.groupby("variant", sort=True)
        }

    def items(self, variant: str) -> pd.DataFrame:
        """Rows of one variant, sorted by id."""
        if variant not in self._by_variant:
            raise UserError(
                f"The items of {self.run.folder} lack {self.task} {variant}: run again."
            )
        return self._by_variant[variant]

    def value(self, column: Column, variant: str, weights: Floats) -> Floats:
        """The metric under each row of item weights [R, n]: [R]; NaN where nothing is counted."""
        rows = self.items(variant)
        top = rows[f"{column.metric}.top"].to_numpy(np.float64)
        bottom = rows[f"{column.metric}.bottom"].to_numpy(np.float64)
        if column.subset:
            chosen = (rows["subset"] == column.subset).to_numpy()
            top, bottom = top * chosen, bottom * chosen
        whole = weights @ bottom
        found: Floats = np.divide(
            weights @ top, whole, out=np.full(len(weights), np.nan), where=whole != 0
        )
        return found


def measure(
    columns: Sequence[Column], entries: Mapping[str, Sequence[Run]]
) -> tuple[dict[str, dict[str, Sample]], list[str]]:
    """Samples by label and column name of complete entries, whose runs are in seed order.

    Returns:
        The samples, and a line for each run whose items do not give the value it recorded.

    Raises:
        UserError: two runs were scored on different items.
    """
    found: dict[str, dict[str, Sample]] = {label: {} for label in entries}
    notes: list[str] = []
    for task in dict.fromkeys(column.task for column in columns):
        own = [column for column in columns if column.task == task]
        first: pd.DataFrame | None = None
        weights: Floats = np.empty((0, 0))
        for label, runs in entries.items():
            answers = [Answers(run, task) for run in runs]
            for one in answers:
                for variant in dict.fromkeys(v for column in own for v in column.variants):
                    rows = one.items(variant)
                    if first is None:
                        first = rows
                        weights = _weights(first, task)
                    _check_same(first, rows, one)
            clusters = first["cluster"].nunique() if first is not None else 0
            for column in own:
                found[label][column.name] = _sample(column, answers, weights, clusters)
            notes += [line for one in answers for line in _disagreements(one, own)]
    return found, notes


def _weights(items: pd.DataFrame, task: str) -> Floats:
    """Item weights: all ones, then resamples of whole clusters, alike for every entry."""
    clusters = items["cluster"].to_numpy(dtype=np.str_)
    drawn = resample_weights(clusters, DRAWS, task)
    return np.vstack([np.ones(len(items)), drawn])


def _sample(column: Column, answers: Iterable[Answers], weights: Floats, clusters: int) -> Sample:
    rows = np.stack(
        [
            np.mean([one.value(column, variant, weights) for variant in column.variants], axis=0)
            for one in answers
        ]
    )
    # A metric that counts nothing on a model's own answers is recorded as 0, and so it is here.
    rows[:, 0] = np.nan_to_num(rows[:, 0])
    return Sample(rows[:, 0], rows[:, 1:], clusters)


def _check_same(first: pd.DataFrame, rows: pd.DataFrame, answers: Answers) -> None:
    if not np.array_equal(first["id"].to_numpy(), rows["id"].to_numpy()):
        raise UserError(
            f"{answers.run.folder} was scored on other items of {answers.task} than the first run: "
            "score all runs of a board on the same test items."
        )


def _disagreements(answers: Answers, columns: Sequence[Column]) -> list[str]:
    recorded = {
        (score.variant, score.metric, score.subset): score.value
        for score in answers.run.record.scores
        if score.task == answers.task
    }
    lines = []
    for column in columns:
        for variant in column.variants:
            rows = answers.items(variant)
            value = float(answers.value(column, variant, np.ones((1, len(rows))))[0])
            said = recorded.get((variant, column.metric, column.subset))
            if said is not None and abs(np.nan_to_num(value) - said) > AGREEMENT:
                run = answers.run.record
                lines.append(
                    f"{run.label}, seed {run.spec.seed}: the record says {column.name} {said:.6f} "
                    f"on {variant}, its items give {value:.6f}; the interval comes from the items."
                )
    return lines[:1]
