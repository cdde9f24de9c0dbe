"""The main metric of every entry over one task's grid of seeds and variants, with resamples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.errors import UserError
from steelyard.harness.record import Score
from steelyard.leaderboards.collect import Run
from steelyard.leaderboards.stats import DRAWS, Floats, Items, Sample, resample_weights, resampled

CLEAN = "clean"
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


@dataclass(frozen=True, slots=True)
class Measured:
    """One entry's main metric over the grid."""

    grid: Grid
    values: Floats
    """[S, V] as recorded."""
    draws: Floats
    """[S, V, R] on resampled items."""
    items: int
    clusters: int

    def column(self, shares: Mapping[str, float]) -> Sample:
        """A weighted sum over variants; those not in ``shares`` count nothing."""
        weights = np.array([shares.get(variant, 0.0) for variant in self.grid.variants])
        draws = np.einsum("v,svr->sr", weights, self.draws)
        return Sample(self.values @ weights, draws, self.clusters)


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
    grid: Grid, entries: Mapping[str, Sequence[Run]]
) -> tuple[dict[str, Measured], list[str]]:
    """Measure complete entries, whose runs are in seed order.

    Returns:
        The measured entries by label, and a line for each run whose items do not give the value
        that it recorded.

    Raises:
        UserError: two runs were scored on different items.
    """
    runs = [run for group in entries.values() for run in group]
    if not runs:
        return {}, []
    classes = int(runs[0].record.provenance["data"]["classes"])
    first = _items(runs[0], grid, classes)[0]
    weights = resample_weights(first.clusters, DRAWS, grid.task)
    weights = np.vstack([np.ones(len(first.ids)), weights])
    measured, notes = {}, []
    for label, group in entries.items():
        values, scored = [], []
        for run in group:
            recorded = {score.variant: score.value for score in main_scores(run)}
            values.append([recorded[variant] for variant in grid.variants])
            scored.append(_scored(run, grid, classes, weights, first.ids, runs[0]))
            notes += _disagreement(run, grid, values[-1], scored[-1][:, 0])
        clusters = len(np.unique(first.clusters))
        draws = np.stack(scored)[:, :, 1:]
        measured[label] = Measured(grid, np.array(values), draws, len(first.ids), clusters)
    return measured, notes


def _items(run: Run, grid: Grid, classes: int) -> list[Items]:
    """Items in the order of the grid's variants."""
    found = run.items(classes)
    absent = [variant for variant in grid.variants if variant not in found]
    if absent:
        raise UserError(f"The items of {run.folder} lack {', '.join(absent)}: run it again.")
    return [found[variant] for variant in grid.variants]


def _scored(
    run: Run, grid: Grid, classes: int, weights: Floats, ids: NDArray[np.str_], first: Run
) -> Floats:
    """The metric under every row of weights: [V, rows]."""
    items = _items(run, grid, classes)
    for variant, scored in zip(grid.variants, items, strict=True):
        if not np.array_equal(scored.ids, ids):
            raise UserError(
                f"{run.folder} was scored on other items ({variant}) than {first.folder}: score "
                "all runs of a board on the same test items."
            )
    return np.stack([resampled(grid.metric, scored, weights) for scored in items])


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
