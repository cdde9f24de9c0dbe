"""The main metric of every entry over one task's grid of seeds and variants, with resamples."""

from collections.abc import Callable, Mapping, Sequence
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
from steelyard.tasks.weighted_metrics import Items, all_resampled, fractions

CLEAN = "clean"
AT_ONCE = 20
"""Runs whose items are held and resampled together."""
AGREEMENT = 1e-6
"""How far a recorded value may be from the one that its items give."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What an entry must have been scored on to be ranked: all that any entry was scored on."""

    task: str
    metric: str
    higher_is_better: bool
    seeds: tuple[int, ...]
    variants: tuple[str, ...]

    @property
    def corrupted(self) -> tuple[str, ...]:
        """The variants other than the clean one."""
        return tuple(variant for variant in self.variants if variant != CLEAN)


@dataclass(frozen=True, slots=True)
class EntryScores:
    """One entry's main metric over the grid."""

    grid: Grid
    values: Floats
    """[S, V] as recorded."""
    draws: Floats
    """[S, V, R] on resampled items."""
    same: Floats
    """[S, D, 1 + R] share of answers that are the clean ones, for each of D damaged variants: on
    the test items, then on resampled ones."""
    items: int
    clusters: int

    def column(self, shares: Mapping[str, float]) -> Sample:
        """A weighted sum over variants; those not in ``shares`` count nothing."""
        weights = np.array([shares.get(variant, 0.0) for variant in self.grid.variants])
        draws = np.einsum("v,svr->sr", weights, self.draws)
        return Sample(self.values @ weights, draws, self.clusters)

    def variant(self, name: str) -> Sample:
        """The scores on one variant."""
        place = self.grid.variants.index(name)
        return Sample(self.values[:, place], self.draws[:, place], self.clusters)


def grid_of(task: str, runs: Sequence[Run]) -> Grid:
    """The grid that the runs of one task span.

    Raises:
        UserError: no run finished, or the runs do not agree on one main metric.
    """
    scores = [score for run in runs for score in main_scores(run)]
    metrics = {(score.metric, score.higher_is_better) for score in scores}
    if len(metrics) != 1:
        named = ", ".join(f"{name}" for name, _ in sorted(metrics)) or "none (no finished run)"
        raise UserError(f"{task} needs one main metric in one direction, its records have {named}.")
    ((metric, higher),) = metrics
    if higher is None:
        raise UserError(f"{task}: its main metric {metric} has no direction, so it cannot rank.")
    seeds = sorted({run.record.spec.seed for run in runs})
    variants = sorted({score.variant for score in scores})
    return Grid(task, metric, higher, tuple(seeds), tuple(variants))


def main_scores(run: Run) -> list[Score]:
    """The main metric of each variant; none of a failed run."""
    if run.record.status == "failed":
        return []
    return [score for score in run.record.scores if score.main]


def missing(runs: Sequence[Run], grid: Grid) -> str:
    """What an entry's runs lack to cover the grid, in words; empty when nothing."""
    present = {run.record.spec.seed for run in runs}
    lacks = [f"no run of seed {seed}" for seed in grid.seeds if seed not in present]
    for run in runs:
        seed, record = run.record.spec.seed, run.record
        unscored = sorted(set(grid.variants) - {score.variant for score in main_scores(run)})
        if record.status == "failed":
            lacks.append(f"seed {seed} failed: {record.failure}")
        elif unscored:
            lacks.append(f"seed {seed} lacks {', '.join(unscored)}")
    return "; ".join(lacks)


def measure(
    grid: Grid, entries: Mapping[str, Sequence[Run]], done: Callable[[float], None] = no_progress
) -> tuple[dict[str, EntryScores], list[str]]:
    """Measure complete entries, whose runs are in seed order; ``done`` is told their share.

    Returns:
        The measured entries by label, and a line for each run whose items do not give the value
        that it recorded.

    Raises:
        UserError: two runs were scored on different items.
    """
    runs = [run for group in entries.values() for run in group]
    if not runs:
        return {}, []
    test = _test(grid, runs[0])
    clusters = len(np.unique(test.clusters))
    measured, notes = {}, []
    some = (runs[place : place + AT_ONCE] for place in range(0, len(runs), AT_ONCE))
    found = chain.from_iterable(map(test.scored, some))
    for label, group in entries.items():
        drawn_of, same_of = zip(*islice(found, len(group)), strict=True)
        values = []
        for run, drawn in zip(group, drawn_of, strict=True):
            recorded = {score.variant: score.value for score in main_scores(run)}
            values.append([recorded[variant] for variant in grid.variants])
            notes += _disagreement(run, grid, values[-1], drawn[:, 0])
        measured[label] = EntryScores(
            grid=grid,
            values=np.array(values),
            draws=np.stack(drawn_of)[:, :, 1:],
            same=np.stack(same_of),
            items=len(test.clusters),
            clusters=clusters,
        )
        if len(measured) < len(entries):
            done(len(measured) / len(entries))
    return measured, notes


@dataclass(frozen=True, slots=True)
class TestItems:
    """What every run of a board is scored on: the first run's items, and resamples of them."""

    grid: Grid
    first: Run
    order: item_table.Order
    """Of the first run's items; others are nearly always stored alike."""
    classes: int
    answer: str
    """The column of answers that those to damaged inputs are compared in."""
    weights: Floats
    """[1 + R, n]; the first row counts each item once."""

    @property
    def clusters(self) -> NDArray[np.str_]:
        """[n]"""
        return self.order.clusters[self.grid.variants[0]]

    def scored(self, runs: Sequence[Run]) -> list[tuple[Floats, Floats]]:
        """Of each run the metric and the share of unchanged answers, under every row of weights.

        They are [V, 1 + R] and [D, 1 + R]. Of several runs at once, because each pass over all
        weights takes longer than a run's sums.
        """
        items, same = self._read(runs)
        drawn = all_resampled(self.grid.metric, items, self.weights)
        kept = fractions(same, self.weights)
        return list(zip(drawn.reshape(len(runs), len(self.grid.variants), -1), kept, strict=True))

    def _read(self, runs: Sequence[Run]) -> tuple[list[Items], NDArray[np.bool_]]:
        """The items of each run and variant, and which answers to damaged ones are the clean ones.

        The latter are [K, D, n].
        """
        corrupted = self.grid.corrupted
        scored = item_table.columns_for(self.grid.metric)
        wanted = dict.fromkeys([*scored, *([self.answer] if corrupted else [])])
        read = [item_table.read(run.items_path(), list(wanted), self.order) for run in runs]
        for run, (_, order) in zip(runs, read, strict=True):
            if order is not self.order:
                _check_items(run, order, self)
        items: list[Items] = []
        same = np.zeros((len(runs), len(corrupted), len(self.clusters)), np.bool_)
        start = 0
        for tables, order in item_table.alike(read):
            for found in item_table.items_of(tables, order, self.classes, scored):
                items += [found[variant] for variant in self.grid.variants]
            if corrupted:
                unchanged = item_table.unchanged(tables, order, self.answer, corrupted, CLEAN)
                same[start : start + len(tables)] = unchanged
            start += len(tables)
        return items, same


def _test(grid: Grid, first: Run) -> TestItems:
    columns = item_table.columns_for(grid.metric)
    _, order = item_table.read(first.items_path(), columns)
    classes = int(first.record.provenance["data"]["classes"])
    answer = item_table.answer_column(first.items_path())
    test = TestItems(grid, first, order, classes, answer, np.empty((0, 0)))
    _check_items(first, order, test)
    drawn = resample_weights(test.clusters, DRAWS, grid.task)
    weights = np.vstack([np.ones(drawn.shape[1]), drawn])
    # The weights of an item lie together, as sums along sorted items want them.
    return replace(test, weights=np.asfortranarray(weights))


def _check_items(run: Run, order: item_table.Order, test: TestItems) -> None:
    """Refuse items that lack a variant or are not those of the first run's first variant."""
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
    """A line naming the variant that is furthest off, if any is off."""
    gaps = np.abs(np.array(recorded) - recomputed)
    worst = int(gaps.argmax())
    if gaps[worst] <= AGREEMENT:
        return []
    return [
        f"{run.record.label}, seed {run.record.spec.seed}: the record says {grid.metric} "
        f"{recorded[worst]:.6f} on {grid.variants[worst]}, its items give "
        f"{recomputed[worst]:.6f}; the interval comes from the items."
    ]
