"""Measure the main metric of every entry over one task's seeds and variants, with resamples."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import no_progress
from steelyard.harness.records.record import Score
from steelyard.leaderboards.loading import items as item_table
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.stats.intervals import DRAWS, Floats, Sample, resample_weights
from steelyard.tasks.corruptions.variants import CLEAN
from steelyard.tasks.weighted_metrics import Items, all_resampled, fractions

AT_ONCE = 20
"""Runs whose items are held in memory and resampled together."""
AGREEMENT = 1e-6
"""Largest allowed distance of a recorded value from the value of its items."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Seeds and variants that an entry needs to be ranked: all that any entry was scored on."""

    task: str
    metric: str
    higher_is_better: bool
    seeds: tuple[int, ...]
    variants: tuple[str, ...]

    @property
    def corrupted(self) -> tuple[str, ...]:
        return tuple(variant for variant in self.variants if variant != CLEAN)


@dataclass(frozen=True, slots=True)
class EntryScores:
    """Main metric of one entry over the grid: S seeds, V variants, D of them corrupted."""

    grid: Grid
    values: Floats
    """[S, V] as recorded."""
    draws: Floats
    """[S, V, R] on resampled items."""
    same: Floats
    """[S, D, 1 + R] fraction of answers equal to the clean ones, on the test items and then on
    resampled items."""
    items: int
    clusters: int

    def column(self, weights: Mapping[str, float]) -> Sample:
        """Return a weighted sum over variants; a variant without a weight has weight 0."""
        vector = np.array([weights.get(variant, 0.0) for variant in self.grid.variants])
        draws = np.einsum("v,svr->sr", vector, self.draws)
        return Sample(self.values @ vector, draws, self.clusters)

    def variant(self, name: str) -> Sample:
        index = self.grid.variants.index(name)
        return Sample(self.values[:, index], self.draws[:, index], self.clusters)

    def unchanged(self, name: str) -> Sample:
        """Return the fraction of answers to a corrupted variant that equal the clean ones."""
        index = self.grid.corrupted.index(name)
        return Sample(self.same[:, index, 0], self.same[:, index, 1:], self.clusters)


def grid_of(task: str, runs: Sequence[Run]) -> Grid:
    """Return the grid of a task's runs.

    Raises:
        UserError: no run finished, or the runs do not agree on one main metric.
    """
    scores = [score for run in runs for score in main_scores(run)]
    metrics = {(score.metric, score.higher_is_better) for score in scores}
    if len(metrics) != 1:
        names = ", ".join(name for name, _ in sorted(metrics)) or "none (no finished run)"
        raise UserError(f"{task} needs one main metric in one direction, its records have {names}.")
    ((metric, higher),) = metrics
    if higher is None:
        raise UserError(f"{task}: its main metric {metric} has no direction, so it cannot rank.")
    seeds = sorted({run.record.spec.seed for run in runs})
    variants = sorted({score.variant for score in scores})
    return Grid(task, metric, higher, tuple(seeds), tuple(variants))


def main_scores(run: Run) -> list[Score]:
    """Return the main metric of each variant; empty for a failed run."""
    if run.record.status == "failed":
        return []
    return [score for score in run.record.scores if score.main]


def lacking(runs: Sequence[Run], seeds: Iterable[int], required: Set[tuple[str, str]]) -> str:
    """Describe which seeds and (task, variant) pairs an entry's runs lack; empty if none."""
    present = {run.record.spec.seed for run in runs}
    parts = [f"no run of seed {seed}" for seed in seeds if seed not in present]
    # On the board of one task its name says nothing.
    several_tasks = len({task for task, _ in required}) > 1
    for run in runs:
        seed = run.record.spec.seed
        missing = sorted(required - {(score.task, score.variant) for score in main_scores(run)})
        names = [f"{task} {variant}" if several_tasks else variant for task, variant in missing]
        if run.record.status == "failed":
            parts.append(f"seed {seed} failed: {run.record.failure}")
        elif missing:
            parts.append(f"seed {seed} lacks {', '.join(names)}")
    return "; ".join(parts)


def measure(
    grid: Grid,
    entries: Mapping[str, Sequence[Run]],
    progress: Callable[[float], None] = no_progress,
) -> tuple[dict[str, EntryScores], list[str]]:
    """Measure complete entries, whose runs are in seed order.

    Returns:
        The scores by label, and a line for each run whose items do not give the recorded value.

    Raises:
        UserError: two runs were scored on different items.
    """
    runs = [run for group in entries.values() for run in group]
    if not runs:
        return {}, []
    test = _test_items(grid, runs[0])
    clusters = len(np.unique(test.clusters))
    scores, notes = {}, []
    batches = (runs[start : start + AT_ONCE] for start in range(0, len(runs), AT_ONCE))
    # Lazy: the items of one batch are in memory, whatever the sizes of the groups.
    run_draws = chain.from_iterable(map(test.score, batches))
    for label, group in entries.items():
        draws, same = zip(*islice(run_draws, len(group)), strict=True)
        values = []
        for run, metric in zip(group, draws, strict=True):
            # The record has the score; the items only give its uncertainty.
            recorded = {score.variant: score.value for score in main_scores(run)}
            values.append([recorded[variant] for variant in grid.variants])
            notes += _disagreement(run, grid, values[-1], metric[:, 0])
        scores[label] = EntryScores(
            grid=grid,
            values=np.array(values),
            draws=np.stack(draws)[:, :, 1:],
            same=np.stack(same),
            items=len(test.clusters),
            clusters=clusters,
        )
        if len(scores) < len(entries):
            progress(len(scores) / len(entries))
    return scores, notes


@dataclass(frozen=True, slots=True)
class TestItems:
    """Items that every run of a board is scored on, those of the first run, with resamples."""

    grid: Grid
    first: Run
    order: item_table.Order
    """Of the first run's items; most runs store theirs in the same order."""
    classes: int
    answer: str
    """Column of the answers that are compared with the clean ones."""
    weights: Floats
    """[1 + R, n]; the first row counts each item once."""

    @property
    def clusters(self) -> NDArray[np.str_]:
        return self.order.clusters[self.grid.variants[0]]

    def score(self, runs: Sequence[Run]) -> Iterator[tuple[Floats, Floats]]:
        """Score several runs at once, since a pass over all weights is the slow part.

        Returns:
            By run the metric [V, 1 + R] and the fraction of unchanged answers [D, 1 + R].
        """
        items, same = self._read(runs)
        metric = all_resampled(self.grid.metric, items, self.weights)
        by_run = metric.reshape(len(runs), len(self.grid.variants), -1)
        return zip(by_run, fractions(same, self.weights), strict=True)

    def _read(self, runs: Sequence[Run]) -> tuple[list[Items], NDArray[np.bool_]]:
        """Return the items of each run and variant, and which corrupted answers equal the clean
        ones: [K, D, n]."""
        corrupted = self.grid.corrupted
        scored = item_table.columns_for(self.grid.metric)
        names = list(dict.fromkeys([*scored, *([self.answer] if corrupted else [])]))
        tables_in_order = [item_table.read(run.items_path(), names, self.order) for run in runs]
        for run, (_, order) in zip(runs, tables_in_order, strict=True):
            # The same object means the same items.
            if order is not self.order:
                _check_items(run, order, self)
        items: list[Items] = []
        same = np.zeros((len(runs), len(corrupted), len(self.clusters)), np.bool_)
        start = 0
        # Runs stored in another order still count, in a batch of their own.
        for tables, order in item_table.group_by_order(tables_in_order):
            for by_variant in item_table.items_of(tables, order, self.classes, scored):
                items += [by_variant[variant] for variant in self.grid.variants]
            if corrupted:
                unchanged = item_table.unchanged_answers(
                    tables, order, self.answer, corrupted, CLEAN
                )
                same[start : start + len(tables)] = unchanged
            start += len(tables)
        return items, same


def _test_items(grid: Grid, first: Run) -> TestItems:
    columns = item_table.columns_for(grid.metric)
    _, order = item_table.read(first.items_path(), columns)
    classes = int(first.record.provenance["data"]["classes"])
    answer = item_table.answer_column(first.items_path())
    # Without weights: the check needs none, and should fail before they are drawn.
    test = TestItems(grid, first, order, classes, answer, np.empty((0, 0)))
    _check_items(first, order, test)
    draws = resample_weights(test.clusters, DRAWS, grid.task)
    weights = np.vstack([np.ones(draws.shape[1]), draws])
    # Column-major: sums along sorted items need the weights of an item side by side.
    return replace(test, weights=np.asfortranarray(weights))


def _check_items(run: Run, order: item_table.Order, test: TestItems) -> None:
    """Raise UserError if a variant is missing or the items are not those of the first run."""
    absent = [variant for variant in test.grid.variants if variant not in order.rows]
    if absent:
        raise UserError(f"The items of {run.folder} lack {', '.join(absent)}: run it again.")
    ids = test.order.ids[test.grid.variants[0]]
    for variant in test.grid.variants:
        if not np.array_equal(order.ids[variant], ids):
            raise UserError(
                f"{run.folder} was scored on other items ({variant}) than {test.first.folder}: "
                "score all runs of a board on the same test items."
            )


def _disagreement(run: Run, grid: Grid, recorded: Sequence[float], recomputed: Floats) -> list[str]:
    """Return a line about the variant with the largest distance, if it exceeds ``AGREEMENT``."""
    distances = np.abs(np.array(recorded) - recomputed)
    worst = int(distances.argmax())
    if distances[worst] <= AGREEMENT:
        return []
    return [
        f"{run.record.label}, seed {run.record.spec.seed}: the record says {grid.metric} "
        f"{recorded[worst]:.6f} on {grid.variants[worst]}, its items give "
        f"{recomputed[worst]:.6f}; the interval comes from the items."
    ]
