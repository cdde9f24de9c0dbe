"""Two runs, or two entries over their seeds: paired differences and McNemar's exact test."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.records.record import RECORD, Score, read
from steelyard.leaderboards.boards import profile_measure
from steelyard.leaderboards.boards.profile_measure import CLEAN, ProfileColumn
from steelyard.leaderboards.loading import items
from steelyard.leaderboards.loading.collect import Run, collect
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import Interval
from steelyard.tasks.weighted_metrics import METRICS

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY = "all"


@dataclass(frozen=True, slots=True)
class McNemarCounts:
    """Items that two runs of one seed got right or wrong, on one variant of a task."""

    seed: str
    """Of the one run, and of the other where that is another."""
    both: int
    only_one: int
    only_other: int
    neither: int

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: whether the two kinds of disagreement are as many."""
        return intervals.mcnemar(self.only_one, self.only_other)


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two entries on one variant of a task, by its main metric."""

    task: str
    variant: str
    metric: str
    higher_is_better: bool | None
    percent: bool
    """Whether the metric is a share."""
    one: Interval
    other: Interval
    difference: Interval
    """One minus the other, paired by seed and item."""
    counts: tuple[McNemarCounts, ...]
    """By seed; empty where the metric's items are not right or wrong."""


def show(
    one: str,
    other: str,
    folders: Sequence[Path],
    *,
    variants: Sequence[str] = (CLEAN,),
    task: str | None = None,
    backbone: str | None = None,
    budget: str | None = None,
) -> None:
    """Print the comparison of two run folders or entries."""
    from rich.console import Console

    pairs = compare(*paired_runs(one, other, folders, task, backbone, budget), variants)
    Console().print(terminal(one, other, pairs))


def paired_runs(
    one: str,
    other: str,
    folders: Sequence[Path],
    task: str | None = None,
    backbone: str | None = None,
    budget: str | None = None,
) -> tuple[list[Run], list[Run]]:
    """Runs to compare, seed by seed: two run folders, or two labels of the records in ``folders``.

    ``task`` (trained on), ``backbone`` and ``budget`` choose among the records.

    Raises:
        UserError: a name is neither, or the two have no seed or training data in common.
    """
    if (Path(one) / RECORD).is_file() and (Path(other) / RECORD).is_file():
        return [Run(Path(one), read(Path(one)))], [Run(Path(other), read(Path(other)))]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"No folder of runs at {folder}: give two run folders, or --runs DIR.")
    runs = collect(folders, backbone=backbone, budget=budget)
    if task is not None and task not in runs.tasks():
        raise unknown("task", task, runs.tasks())
    by_label: dict[str, dict[tuple[str, int], Run]] = {}
    for run in runs.runs if task is None else runs.of(task):
        place = run.record.spec.task, run.record.spec.seed
        if run.record.status == "done":
            by_label.setdefault(run.record.label, {})[place] = run
    for name in (one, other):
        if name not in by_label:
            raise unknown("run folder or entry", name, by_label)
    common = sorted(by_label[one].keys() & by_label[other].keys())
    if not common:
        raise UserError(f"{one} and {other} share no seed on the same training data.")
    return [by_label[one][place] for place in common], [by_label[other][place] for place in common]


def compare(
    ones: Sequence[Run], others: Sequence[Run], variants: Sequence[str]
) -> list[RunComparison]:
    """Compare runs pair by pair on every task and on the named variants, or ``all``.

    Each group of pairs that was trained on the same data is compared by itself.

    Raises:
        UserError: a run failed, nothing was scored in common, or the items are not the same.
    """
    found: list[RunComparison] = []
    for trained_on in dict.fromkeys(run.record.spec.task for run in ones):
        places = [n for n, run in enumerate(ones) if run.record.spec.task == trained_on]
        pair = [ones[n] for n in places], [others[n] for n in places]
        found += _compared(*pair, variants)
    return found


def _compared(
    ones: Sequence[Run], others: Sequence[Run], variants: Sequence[str]
) -> list[RunComparison]:
    columns = _columns([*ones, *others], variants)
    samples, _ = profile_measure.measure(columns, {"one": ones, "other": others})
    pairs = []
    for column in columns:
        one, other = samples["one"][column.name], samples["other"][column.name]
        counts = [_counts(column, *pair) for pair in zip(ones, others, strict=True)]
        pairs.append(
            RunComparison(
                column.task,
                column.variants[0],
                column.metric,
                column.higher_is_better,
                column.metric in METRICS or not _labelled(column, ones[0]),
                intervals.interval(one),
                intervals.interval(other),
                intervals.paired_difference(one, other),
                tuple(found for found in counts if found is not None),
            )
        )
    return pairs


def _columns(runs: Sequence[Run], variants: Sequence[str]) -> list[ProfileColumn]:
    """Main metrics that every run was scored on, by task and variant, in the first run's order."""
    for run in runs:
        if run.record.status == "failed":
            raise UserError(f"{run.folder} failed ({run.record.failure}): nothing to compare.")
    scored = [{_place(score): score for score in _mains(run)} for run in runs]
    common = [place for place in scored[0] if all(place in each for each in scored)]
    known = list(dict.fromkeys(variant for _, variant, _ in common))
    for name in variants:
        if name != EVERY and name not in known:
            raise unknown("variant that both were scored on", name, [*known, EVERY])
    chosen = [place for place in common if EVERY in variants or place[1] in variants]
    return [
        ProfileColumn(
            f"{task} {variant} {metric}",
            task,
            metric,
            "",
            scored[0][task, variant, metric].higher_is_better,
            (variant,),
        )
        for task, variant, metric in chosen
    ]


def _mains(run: Run) -> Iterator[Score]:
    return (score for score in run.record.scores if score.main and not score.subset)


def _place(score: Score) -> tuple[str, str, str]:
    return score.task, score.variant, score.metric


def _counts(column: ProfileColumn, one: Run, other: Run) -> McNemarCounts | None:
    """Right and wrong items side by side; None where items of the metric are not that."""
    modalities = [_right(column, run) for run in (one, other)]
    if (
        modalities[0] is None
        or modalities[1] is None
        or not np.array_equal(modalities[0][0], modalities[1][0])
    ):
        return None
    first, second = modalities[0][1], modalities[1][1]
    seeds = dict.fromkeys(str(run.record.spec.seed) for run in (one, other))
    return McNemarCounts(
        " and ".join(seeds),
        int((first & second).sum()),
        int((first & ~second).sum()),
        int((~first & second).sum()),
        int((~first & ~second).sum()),
    )


def _labelled(column: ProfileColumn, run: Run) -> bool:
    """Whether the items hold class labels and a score of their own, not parts of ratios."""
    return "score" in items.names(run.items_path(column.task))


def _right(column: ProfileColumn, run: Run) -> tuple[NDArray[np.str_], NDArray[np.bool_]] | None:
    """Ids of the items that the metric counts, and which are right; None for other items."""
    ends = [f"{column.metric}.{end}" for end in ("top", "bottom")]
    wanted = ["score"] if _labelled(column, run) else ends
    table, order = items.read(run.items_path(column.task), wanted)
    rows, ids = order.rows[column.variants[0]], order.ids[column.variants[0]]
    top, bottom = (table[name].to_numpy()[rows] for name in (wanted[0], wanted[-1]))
    counted = np.ones(len(ids), dtype=np.bool_) if len(wanted) == 1 else bottom != 0
    plain = np.isin(top, (0, 1)).all() and (len(wanted) == 1 or np.isin(bottom, (0, 1)).all())
    return (ids[counted], top[counted] == 1) if plain else None


def terminal(one: str, other: str, pairs: Sequence[RunComparison]) -> "RenderableType":
    """The differences in one table, and the counts in another where there are any."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    style: dict[str, Any] = {
        "box": box.SIMPLE_HEAD, "title_justify": "left", "show_edge": False, "pad_edge": False,
        "padding": (0, 1, 0, 0),
    }  # fmt: skip
    made = Table("task", "variant", "metric", "A", "B", "A - B (95 %)", "p",
                 title=Text(f"A: {one}\nB: {other}"), **style)  # fmt: skip
    for pair in pairs:
        made.add_row(*map(Text, _difference_row(pair)))
    parts: list[RenderableType] = [made]
    counted = [(pair, each) for pair in pairs for each in pair.counts]
    if counted:
        table = Table("task", "variant", "seed", "both", "only A", "only B", "neither", "p",
                      title="\nItems right with (McNemar's exact test)", **style)  # fmt: skip
        for pair, each in counted:
            numbers = (each.both, each.only_one, each.only_other, each.neither)
            texts = (pair.task, pair.variant, each.seed, *map(str, numbers), f"{each.p:.3g}")
            table.add_row(*map(Text, texts))
        parts.append(table)
    return Group(*parts, *(Text(line, style="dim") for line in remarks(pairs)))


def _difference_row(pair: RunComparison) -> list[str]:
    arrow = {True: " ↑", False: " ↓", None: ""}[pair.higher_is_better]
    scale, digits = (100, ".1f") if pair.percent else (1, ".4g")
    one, other, moved, half = (
        scale * value
        for value in (pair.one.mean, pair.other.mean, pair.difference.mean, pair.difference.half)
    )
    texts = [f"{one:{digits}}", f"{other:{digits}}", f"{moved:+{digits}} ± {half:{digits}}"]
    return [pair.task, pair.variant, pair.metric + arrow, *texts, f"{pair.difference.p:.3g}"]


def remarks(pairs: Sequence[RunComparison]) -> list[str]:
    """What the intervals hold, and which metrics have no right or wrong items."""
    seeds = len(pairs[0].difference.values)
    lines = [
        "The interval holds the test items of one training seed each: it says nothing about "
        "training again."
        if seeds == 1
        else f"Intervals hold {seeds} training seeds and the test items, paired by both.",
        "Shares in percent. p-values are not corrected for the number of rows.",
    ]
    other = sorted({f"{pair.task} {pair.metric}" for pair in pairs if not pair.counts})
    if other:
        lines.append(f"No McNemar test for {', '.join(other)}: its items are not right or wrong.")
    return lines
