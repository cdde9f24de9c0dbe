"""Measure the numbers of every entry over seeds and variants, with resamples of the test items."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import enclosing
from steelyard.harness.core.progress import no_progress
from steelyard.leaderboards.boards.columns import Column
from steelyard.leaderboards.loading import items as item_table
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.loading.memo import remembered
from steelyard.leaderboards.loading.packed import key_of
from steelyard.leaderboards.stats.intervals import DRAWS, Floats, Sample, resample_weights
from steelyard.tasks import weighted_metrics
from steelyard.tasks.corruptions.variants import CLEAN
from steelyard.tasks.weighted_metrics import all_resampled, fractions

if TYPE_CHECKING:
    import pyarrow

AT_ONCE = 20
"""Runs whose items are held in memory and resampled together."""
AGREEMENT = 1e-5
"""Largest allowed distance of a recorded value from the value of its single-precision items."""


class ScoreKey(NamedTuple):
    """Name of one number of a task."""

    metric: str
    subset: str
    variant: str


@dataclass(frozen=True, slots=True)
class EntryScores:
    """One entry on one task: S seeds, K numbers, D corrupted variants, R resamples."""

    keys: tuple[ScoreKey, ...]
    corrupted: tuple[str, ...]
    values: Floats
    """[S, K] as recorded."""
    draws: Floats
    """[S, K, R] on resampled items."""
    same: Floats
    """[S, D, 1 + R] fraction of answers equal to the clean ones, on the test items and then on
    resampled items."""
    clusters: int

    def column(self, column: Column) -> Sample:
        """Return the weighted sum over the column's variants."""
        weights = np.zeros(len(self.keys))
        for variant, weight in column.variants.items():
            weights[self.keys.index(ScoreKey(column.metric, column.subset, variant))] = weight
        # Not times 0: resamples of other numbers may have no value.
        (indices,) = np.nonzero(weights)
        if len(indices) == 1:  # a weight of 1: a view takes no time
            draws = self.draws[:, indices[0]]
        else:
            draws = np.einsum("v,svr->sr", weights[indices], self.draws[:, indices])
        values = self.values @ weights
        # Records do not say which metrics are fractions; those are on every resample.
        is_rate = not any(((part < 0) | (part > 1)).any() for part in (values, draws))
        return Sample(values, draws, self.clusters, is_rate)

    def unchanged(self, variant: str) -> Sample:
        """Return the fraction of answers to a corrupted variant that equal the clean ones."""
        index = self.corrupted.index(variant)
        return Sample(self.same[:, index, 0], self.same[:, index, 1:], self.clusters, rate=True)


Scores = Mapping[str, EntryScores]
"""By task."""


class Measured(NamedTuple):
    scores: Mapping[str, Scores]
    """By label."""
    notes: list[str]
    """A line for each run whose record contradicts its items, and for each empty number."""
    items: int
    clusters: int
    """Of all tasks together."""


class RunNumbers(NamedTuple):
    """Numbers of one run on one task."""

    draws: Floats
    """[K, 1 + R]; the first is on the test items."""
    same: Floats
    """[D, 1 + R]"""
    empty: NDArray[np.bool_]
    """[K] where the answers leave nothing to count, which is 0."""


def measure(
    columns: Sequence[Column],
    entries: Mapping[str, Sequence[Run]],
    progress: Callable[[float], None] = no_progress,
) -> Measured:
    """Measure complete entries, whose runs are in seed order.

    Raises:
        UserError: a run's items are incomplete, or two runs were scored on different items.
    """
    runs = [run for group in entries.values() for run in group]
    if not runs:
        return Measured({}, [], 0, 0)
    tests = _test_items(columns, runs[0])
    scores: dict[str, dict[str, EntryScores]] = {label: {} for label in entries}
    notes: list[str] = []
    for index, test in enumerate(tests):
        # Lazy: the items of one batch are in memory, whatever the sizes of the groups.
        measured = test.numbers(runs)
        clusters = len(np.unique(test.clusters))
        for rank, (label, group) in enumerate(entries.items(), start=1):
            numbers = [*islice(measured, len(group))]
            values = np.array([test.recorded(*pair) for pair in zip(group, numbers, strict=True)])
            notes += test.remarks(group, values, numbers)
            scores[label][test.task] = EntryScores(
                keys=test.keys,
                corrupted=test.corrupted,
                values=values,
                draws=np.stack([number.draws for number in numbers])[:, :, 1:],
                same=np.stack([number.same for number in numbers]),
                clusters=clusters,
            )
            progress((index + rank / len(entries)) / len(tests))
    all_clusters = np.unique(np.concatenate([test.clusters for test in tests]))
    return Measured(scores, notes, sum(len(t.clusters) for t in tests), len(all_clusters))


@dataclass(frozen=True, slots=True)
class TestItems:
    """Items of one task that every run is scored on, those of the first run, with resamples."""

    task: str
    keys: tuple[ScoreKey, ...]
    first: Run
    order: item_table.Order
    """Of the first run's items; most runs store theirs in the same order."""
    classes: int | None
    """Number of classes of label-scored items; None if they have the parts of ratios."""
    answer: str
    """Column of the answers that are compared with the clean ones."""
    weights: Floats
    """[1 + R, n]; the first row counts each item once."""
    same_weights: Floats
    """[1 + R, n] for unchanged answers."""

    @property
    def clusters(self) -> NDArray[np.str_]:
        return self.order.clusters[self.keys[0].variant]

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(key.variant for key in self.keys))

    @property
    def corrupted(self) -> tuple[str, ...]:
        return tuple(variant for variant in self.variants if variant != CLEAN)

    def numbers(self, runs: Sequence[Run]) -> Iterator[RunNumbers]:
        """Score runs in order, but for those whose items were scored before and did not change."""

        def compute(indices: Sequence[int]) -> Iterator[bytes]:
            for numbers in self.score([runs[index] for index in indices]):
                yield b"".join(part.tobytes() for part in numbers)

        files = [key_of(run.items(self.task)) for run in runs]
        count, width = len(self.keys), len(self.weights)
        ends = np.cumsum([8 * width * count, 8 * width * len(self.corrupted)]).tolist()
        for value in remembered("numbers", self._sources(), files, compute, at_once=AT_ONCE):
            draws, same = (
                np.frombuffer(part).reshape(-1, width)
                for part in (value[: ends[0]], value[ends[0] : ends[1]])
            )
            yield RunNumbers(draws, same, np.frombuffer(value[ends[1] :], np.bool_))

    def _sources(self) -> Iterator[bytes]:
        """Yield all that decides the numbers of a run beside its items."""
        yield repr((self.task, self.keys, self.classes, self.answer, np.__version__)).encode()
        for module in (item_table, weighted_metrics, sys.modules[__name__]):
            yield Path(str(module.__file__)).read_bytes()
        yield "\n".join(self.order.ids[self.keys[0].variant]).encode()
        yield self.weights.tobytes()
        yield self.same_weights.tobytes()

    def score(self, runs: Sequence[Run]) -> Iterator[RunNumbers]:
        """Score several runs at once, since a pass over all weights is the slow part."""
        names = [*_columns_of(self.keys, self.classes), *([self.answer] if self.corrupted else [])]
        names = list(dict.fromkeys(names))
        tables = [item_table.read(run.items(self.task), names, self.order) for run in runs]
        for run, (_, order) in zip(runs, tables, strict=True):
            # The same object means the same items.
            if order is not self.order:
                self.check(run, order)
        same = np.zeros((len(runs), 0, len(self.weights)))
        if self.corrupted:
            unchanged = [
                item_table.unchanged_answers(*group, self.answer, self.corrupted, CLEAN)
                for group in item_table.group_by_order(tables)
            ]
            same = fractions(np.concatenate(unchanged), self.same_weights)
        if self.classes is None:
            for table, run_same in zip(tables, same, strict=True):
                draws, empty = self._ratios(*table)
                yield RunNumbers(draws, run_same, empty)
            return
        for draws, run_same in zip(self._class_metrics(tables), same, strict=True):
            yield RunNumbers(draws, run_same, np.zeros(len(self.keys), np.bool_))

    def _class_metrics(self, tables: Sequence[tuple["pyarrow.Table", item_table.Order]]) -> Floats:
        """Return the metrics of label-scored runs: [runs, K, 1 + R]."""
        names = _columns_of(self.keys, self.classes)
        # Runs stored in another order still count, in a batch of their own.
        by_run = [
            items
            for group, order in item_table.group_by_order(tables)
            for items in item_table.items_of(group, order, self.classes or 0, names)
        ]
        parts = []
        for metric, keys in groupby(self.keys, lambda key: key.metric):
            variants = [key.variant for key in keys]
            items = [by_variant[name] for by_variant in by_run for name in variants]
            draws = all_resampled(metric, items, self.weights)
            parts.append(draws.reshape(len(by_run), len(variants), -1))
        return np.concatenate(parts, axis=1)

    def _ratios(
        self, table: "pyarrow.Table", order: item_table.Order
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the ratios of sums over items [K, 1 + R], and which have nothing to count.

        Nothing to count is 0 on the test items, as recorded, and unknown on a resample of others.
        """
        inside = {
            # Items outside get zeros, since the weights have a column for every item.
            subset: np.isin(table["subset"].to_numpy(), [
                name for name in table["subset"].unique().to_pylist() if subset in enclosing(name)
            ])
            for subset in {key.subset for key in self.keys} - {""}
        }  # fmt: skip
        sums = []
        for end in ("top", "bottom"):
            parts = []
            for key in self.keys:
                numbers = table[f"{key.metric}.{end}"].to_numpy().astype(np.float64)
                numbers = numbers * inside[key.subset] if key.subset else numbers
                parts.append(numbers[order.rows[key.variant]])
            # One product for all numbers: reading the weights takes most of the time.
            sums.append(self.weights @ np.stack(parts, axis=1))
        top, bottom = sums
        blank = np.where(bottom[0] == 0, 0.0, np.nan)
        out = np.broadcast_to(blank, bottom.shape).copy()
        return np.divide(top, bottom, out=out, where=bottom != 0).T, bottom[0] == 0

    def check(self, run: Run, order: item_table.Order) -> None:
        """Raise UserError if a variant is missing or the items are not those of the first run."""
        if absent := [variant for variant in self.variants if variant not in order.rows]:
            raise UserError(
                f"The items of {run.folder} lack {self.task} {', '.join(absent)}: run it again."
            )
        for variant in self.variants:
            if not np.array_equal(order.ids[variant], self.order.ids[self.variants[0]]):
                raise UserError(
                    f"{run.folder} was scored on other items of {self.task} ({variant}) than "
                    f"{self.first.folder}: score all runs of a board on the same test items."
                )

    def recorded(self, run: Run, numbers: RunNumbers) -> list[float]:
        """Return each number as recorded: the items only give its uncertainty."""
        scores = {
            ScoreKey(score.metric, score.subset, score.variant): score.value
            for score in run.record.scores
            if score.task == self.task
        }
        # Only main metrics are sure to be recorded by every run.
        return [
            scores.get(*pair) for pair in zip(self.keys, numbers.draws[:, 0].tolist(), strict=True)
        ]

    def remarks(
        self, runs: Sequence[Run], values: Floats, numbers: Sequence[RunNumbers]
    ) -> Iterator[str]:
        """Yield lines about the recorded value furthest from its items, and about empty ratios."""
        computed = np.stack([number.draws[:, 0] for number in numbers])
        distances = np.abs(values - computed)
        for seed, run in enumerate(runs):
            entry = f"{run.record.label}, seed {run.record.spec.seed}"
            worst = int(distances[seed].argmax())
            # Not ``>``: NaN disagrees with everything.
            if not distances[seed, worst] <= AGREEMENT:
                key = self.keys[worst]
                name = " ".join(filter(None, (self.task, key.metric, key.subset)))
                yield (
                    f"{entry}: the record says {name} {values[seed, worst]:.6f} on {key.variant}, "
                    f"its items give {computed[seed, worst]:.6f}; the interval comes from the "
                    "items."
                )
            for key, is_empty in zip(self.keys, numbers[seed].empty, strict=True):
                if is_empty and key.variant == CLEAN:
                    name = " ".join(filter(None, (self.task, key.subset, key.metric)))
                    yield f"{entry}: no answer on which {name} could be counted, so it is 0."


def _test_items(columns: Sequence[Column], first: Run) -> list[TestItems]:
    """Open the items of each task, and draw clusters over those of all tasks together.

    Tasks often ask about the same images, and the uncertainty of a mean over tasks depends on that.
    All entries share the draws.
    """
    by_task: dict[str, set[ScoreKey]] = {}
    for column in columns:
        keys = (ScoreKey(column.metric, column.subset, variant) for variant in column.variants)
        by_task.setdefault(column.task, set()).update(keys)
    tests = [_open(task, tuple(sorted(keys)), first) for task, keys in by_task.items()]
    draws = resample_weights(np.concatenate([t.clusters for t in tests]), DRAWS, *by_task)
    starts = np.cumsum([len(test.clusters) for test in tests])[:-1]
    result = []
    for test, part in zip(tests, np.split(draws, starts, axis=1), strict=True):
        weights = same_weights = np.vstack([np.ones(part.shape[1]), part])
        if test.classes is not None:
            # Column-major: sums along sorted items need the weights of an item side by side.
            weights = same_weights = np.asfortranarray(weights)
        if len(tests) > 1 and test.corrupted:
            # For this task alone: what else a board asks does not change its unchanged answers.
            part = resample_weights(test.clusters, DRAWS, test.task)
            same_weights = np.vstack([np.ones(part.shape[1]), part])
        result.append(replace(test, weights=weights, same_weights=same_weights))
    return result


def _open(task: str, keys: tuple[ScoreKey, ...], first: Run) -> TestItems:
    path, classes = first.items(task), None
    present = item_table.column_names(path)
    if "target" in present:
        provenance = first.record.provenance
        # Facts of the other tasks are apart from those of the training task.
        about = provenance if task == first.record.spec.task else provenance["scored"][task]
        classes = int(about["data"]["classes"])
    _, order = item_table.read(path, _columns_of(keys, classes))
    answer, nothing = item_table.answer_column(path), np.empty((0, 0))
    # Without weights: the check needs none, and should fail before they are drawn.
    test = TestItems(task, keys, first, order, classes, answer, nothing, nothing)
    test.check(first, order)
    return test


def _columns_of(keys: Sequence[ScoreKey], classes: int | None) -> list[str]:
    """Return the columns of the items that the numbers are computed from."""
    if classes is None:
        subset = ["subset"] if any(key.subset for key in keys) else []
        ends = [f"{key.metric}.{end}" for key in keys for end in ("top", "bottom")]
        return list(dict.fromkeys([*subset, *ends]))
    return list(dict.fromkeys(c for key in keys for c in item_table.columns_for(key.metric)))
