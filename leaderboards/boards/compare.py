"""Compare two runs, or two entries over their seeds: paired differences and McNemar's test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError, check_known, unknown
from steelyard.harness.records.record import RECORD, read
from steelyard.leaderboards.boards import cells
from steelyard.leaderboards.boards.columns import Column
from steelyard.leaderboards.boards.measure import measure
from steelyard.leaderboards.loading import items
from steelyard.leaderboards.loading.collect import Run, collect
from steelyard.leaderboards.output.sheet import terminal_tables, text_sheet
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import Interval
from steelyard.tasks.weighted_metrics import METRICS

if TYPE_CHECKING:
    from rich.console import RenderableType

ALL = "all"


@dataclass(frozen=True, slots=True)
class McNemarCounts:
    """Items that two runs of one seed got right or wrong, on one variant of a task."""

    seed: str
    """Seeds of both runs, if they differ."""
    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def p(self) -> float:
        """Two-sided p-value of McNemar's exact test."""
        return intervals.mcnemar(self.only_first, self.only_second)


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Main metric of two entries on one variant of a task."""

    task: str
    variant: str
    metric: str
    higher_is_better: bool | None
    percent: bool
    """Whether the metric is a fraction."""
    first: Interval
    second: Interval
    difference: Interval
    """First minus second, paired by seed and item."""
    counts: tuple[McNemarCounts, ...]
    """By seed; empty if items of the metric are not right or wrong."""


RunPair = tuple[Run, Run]


def paired_runs(
    first: str,
    second: str,
    folders: Sequence[Path],
    task: str | None = None,
    backbone: str | None = None,
    budget: str | None = None,
) -> list[RunPair]:
    """Return runs to compare, seed by seed: two run folders, or two labels in ``folders``.

    ``task`` (trained on), ``backbone`` and ``budget`` filter the records.

    Raises:
        UserError: a name is neither, or the two share no seed on the same training data.
    """
    if (Path(first) / RECORD).is_file() and (Path(second) / RECORD).is_file():
        return [(Run(Path(first), read(Path(first))), Run(Path(second), read(Path(second))))]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"No folder of runs at {folder}: give two run folders, or --runs DIR.")
    runs = collect(folders, backbone=backbone, budget=budget)
    if task is not None and task not in runs.tasks():
        raise unknown("task", task, runs.tasks())
    by_label: dict[str, dict[tuple[str, int], Run]] = {}
    for run in runs.runs if task is None else runs.of(task):
        if run.record.status == "done":
            # Runs pair only if they had the same training data and seed.
            key = run.record.spec.task, run.record.spec.seed
            by_label.setdefault(run.record.label, {})[key] = run
    for name in (first, second):
        check_known("run folder or entry", name, by_label)
    common = sorted(by_label[first].keys() & by_label[second].keys())
    if not common:
        raise UserError(f"{first} and {second} share no seed on the same training data.")
    return [(by_label[first][key], by_label[second][key]) for key in common]


def compare(pairs: Sequence[RunPair], variants: Sequence[str]) -> list[RunComparison]:
    """Compare runs pair by pair on every task and on these variants, or ``all``.

    Pairs that were trained on the same data form a group of their own.

    Raises:
        UserError: a run failed, nothing was scored in common, or the items are not the same.
    """
    groups: dict[str, list[RunPair]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].record.spec.task, []).append(pair)
    result = []
    for group in groups.values():
        columns = _columns([run for pair in group for run in pair], variants)
        by_name = dict(zip(("first", "second"), zip(*group, strict=True), strict=True))
        scores = measure(columns, by_name).scores
        for column in columns:
            first, second = (scores[name][column.task].column(column) for name in by_name)
            counts = [_counts(column, *pair) for pair in group]
            result.append(
                RunComparison(
                    task=column.task,
                    variant=next(iter(column.variants)),
                    metric=column.metric,
                    higher_is_better=column.higher_is_better,
                    # Ratios of sums, the metrics of free answers, are fractions too.
                    percent=column.metric in METRICS or not _is_labelled(column, group[0][0]),
                    first=intervals.interval(first),
                    second=intervals.interval(second),
                    difference=intervals.paired_difference(first, second),
                    counts=tuple(count for count in counts if count is not None),
                )
            )
    return result


def _columns(runs: Sequence[Run], variants: Sequence[str]) -> list[Column]:
    """Return the main metrics that all runs were scored on, in the order of the first run."""
    for run in runs:
        if run.record.status == "failed":
            raise UserError(f"{run.folder} failed ({run.record.failure}): nothing to compare.")
    scores = [
        {(s.task, s.variant, s.metric): s for s in run.record.scores if s.main and not s.subset}
        for run in runs
    ]
    common = [key for key in scores[0] if all(key in by_key for by_key in scores)]
    names = list(dict.fromkeys(variant for _, variant, _ in common))
    for name in variants:
        if name != ALL and name not in names:
            raise unknown("variant that both were scored on", name, [*names, ALL])
    return [
        Column(" ".join(key), task, metric, "", scores[0][key].higher_is_better, {variant: 1.0})
        for key in common
        for task, variant, metric in [key]
        if ALL in variants or variant in variants
    ]


def _counts(column: Column, first: Run, second: Run) -> McNemarCounts | None:
    """Count right and wrong items; None if items of the metric are not right or wrong."""
    results = [_right_items(column, run) for run in (first, second)]
    if results[0] is None or results[1] is None:
        return None
    (first_ids, a), (second_ids, b) = results[0], results[1]
    # Where answers decide which items count, two runs may count different ones.
    if not np.array_equal(first_ids, second_ids):
        return None
    # Two run folders may have different seeds: name both, equal ones once.
    seeds = dict.fromkeys(str(run.record.spec.seed) for run in (first, second))
    counts = (int(part.sum()) for part in (a & b, a & ~b, ~a & b, ~a & ~b))
    return McNemarCounts(" and ".join(seeds), *counts)


def _is_labelled(column: Column, run: Run) -> bool:
    """Return whether the items have a class label and a score, not parts of ratios."""
    return "score" in items.column_names(run.items(column.task))


def _right_items(column: Column, run: Run) -> tuple[NDArray[np.str_], NDArray[np.bool_]] | None:
    """Return ids of the counted items and which are right; None if they are neither."""
    names = [f"{column.metric}.{end}" for end in ("top", "bottom")]
    if _is_labelled(column, run):
        names = ["score"]
    table, order = items.read(run.items(column.task), names)
    rows, ids = order.rows[next(iter(column.variants))], order.ids[next(iter(column.variants))]
    top, *bottom = (table[name].to_numpy()[rows] for name in names)
    # McNemar's test needs right or wrong; a partial credit is neither.
    if not all(np.isin(part, (0, 1)).all() for part in (top, *bottom)):
        return None
    # An item with nothing to count is neither right nor wrong.
    counted = bottom[0] != 0 if bottom else np.ones(len(ids), dtype=np.bool_)
    return ids[counted], top[counted] == 1


def terminal(
    first: str, second: str, comparisons: Sequence[RunComparison], width: int
) -> "RenderableType":
    """Draw the table of differences, and a table of counts if there are any."""
    from rich.console import Group
    from rich.text import Text

    differences = [
        (c.task, c.variant, c.metric + cells.DIRECTIONS[c.higher_is_better],
         cells.number(c.first.mean, c.percent), cells.number(c.second.mean, c.percent),
         cells.with_half(c.difference, c.percent, "+"), f"{c.difference.p:.3g}")
        for c in comparisons
    ]  # fmt: skip
    counts = [
        (c.task, c.variant, n.seed, str(n.both), str(n.only_first), str(n.only_second),
         str(n.neither), f"{n.p:.3g}")
        for c in comparisons
        for n in c.counts
    ]  # fmt: skip
    names = ("task", "variant", "metric", "A", "B", "A - B (95 %)", "p")
    sheets = [text_sheet(f"A: {first}\nB: {second}", names, differences)]
    if counts:
        title = "Items right with (McNemar's exact test)"
        header = ("task", "variant", "seed", "both", "only A", "only B", "neither", "p")
        sheets.append(text_sheet(title, header, counts))
    tables = [table for sheet in sheets for table in terminal_tables(sheet, width, names=3)]
    return Group(*tables, *(Text(line, style="dim") for line in remarks(comparisons)))


def remarks(comparisons: Sequence[RunComparison]) -> list[str]:
    """Say what the intervals include, and which metrics have no right or wrong items."""
    seeds = len(comparisons[0].difference.values)
    lines = [
        "Intervals cover the test items of one training seed: they say nothing about retraining."
        if seeds == 1
        else f"Intervals cover {seeds} training seeds and the test items, paired by both.",
        "Fractions in percent. p-values are not corrected for the number of rows.",
    ]
    names = sorted({f"{c.task} {c.metric}" for c in comparisons if not c.counts})
    if names:
        lines.append(f"No McNemar test for {', '.join(names)}: its items are not right or wrong.")
    return lines
