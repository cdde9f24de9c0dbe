"""Draw a profile: scores side by side, differences to the control, reliance, cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.boards.cells import DIRECTIONS, words
from steelyard.leaderboards.boards.plots.board import PAD, bar_limits
from steelyard.leaderboards.boards.plots.costs import bar_of, cost_axis, draw_costs, phases_figure
from steelyard.leaderboards.boards.plots.ranks import critical_figure
from steelyard.leaderboards.boards.profile import NO_IMAGE, Profile, ProfileRow
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import Figures, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: panel, room right of and below it with the next title, heading with the first title.
WIDE, GAP, UNDER, OVER = 1.5, 0.22, 0.72, 1.02
ACROSS = 5
"""Panels in a line."""


def figures(profile: Profile) -> Figures:
    """Return what draws each figure, by the ending of its file name, such as ``scores``."""
    if not profile.rows:
        return {}
    labels = [row.label for row in profile.rows] + [blank.label for blank in profile.blanks]
    # Without runs and resamples: a drawing may be sent to another process.
    look, light = style.marks(labels, profile.control), replace(profile, groups={}, samples={})
    drawings: dict[str, Callable[[], Figure]] = {"scores": partial(_scores, light, look)}
    if any(row.differences for row in profile.rows):
        drawings["differences"] = partial(_differences, light)
    if any(row.reliance for row in profile.rows):
        drawings["reliance"] = partial(_reliance, light)
    drawings["value"] = partial(_value, light, look)
    costs = {row.label: row.cost for row in profile.rows}
    drawings["cost"] = partial(phases_figure, profile.title, costs)
    if profile.critical is not None:
        drawings["critical"] = partial(critical_figure, profile.critical, profile.title, look)
    return drawings


def _grid(
    columns: Sequence[ProfileColumn], rows: Sequence[ProfileRow]
) -> tuple["Figure", list["Axes"]]:
    """Lay out a panel per column, its task in small print above: one line is too narrow."""
    figure, grid = style.named_panels(
        [row.label for row in rows], [WIDE] * ACROSS, count=len(columns), gap=GAP, top=OVER,
        bottom=UNDER,
    )  # fmt: skip
    offset: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    for axes, column in zip(grid, columns, strict=True):
        metric = words(f"{column.subset} {column.metric}".strip())
        axes.set_title(metric + DIRECTIONS[column.higher_is_better], fontsize=8, pad=3)
        task = words(column.task)
        axes.annotate(task, (0, 1), (0, 15), fontsize=7, color=style.SOFT, va="bottom", **offset)
    return figure, grid


def _scores(profile: Profile, look: Mapping[str, Mark]) -> "Figure":
    """Draw every clean number in its own panel, which shows trades between two numbers."""
    figure, grid = _grid(profile.clean, profile.rows)
    for axes, column in zip(grid, profile.clean, strict=True):
        bars = [bar_of(row.scores[column.name]) for row in profile.rows]
        for row, bar in zip(profile.rows, bars, strict=True):
            if row.label == profile.control:
                axes.axvline(bar.mean, color=style.SOFT, lw=0.8, ls=(0, (4, 3)), zorder=0.8)
        looks = [look[row.label] for row in profile.rows]
        style.row_intervals(axes, list(zip(range(len(bars)), looks, bars, strict=True)))
    compared = any(row.label == profile.control for row in profile.rows)
    dashed = f" Dashed: {profile.control}." if compared else ""
    style.headline(
        figure,
        f"{profile.title}: clean scores side by side (%)",
        f"Bars: 95 % intervals.{dashed} ↓ lower is better; no arrow: only describes.\n"
        "Rows are ordered by the composite of all panels.",
    )
    return figure


def _differences(profile: Profile) -> "Figure":
    rows = [row for row in profile.rows if row.differences]
    # A verdict needs a direction.
    columns = [column for column in profile.clean if column.higher_is_better is not None]
    figure, grid = _grid(columns, rows)
    for axes, column in zip(grid, columns, strict=True):
        axes.axvline(0, color=style.INK, lw=0.8)
        changes = [row.differences[column.name] for row in rows]
        style.row_intervals(axes, [
            (line, style.VERDICT_MARKS[change.verdict], bar_of(change.interval))
            for line, change in enumerate(changes)
        ])  # fmt: skip
    style.headline(
        figure,
        f"{profile.title}: difference to {profile.control} (percentage points)",
        "Paired by seed and item, 95 % intervals. Blue ▲ better, orange ▼ worse after Holm's "
        "correction in a panel.\n↓ lower is better: there, better is left of zero.",
    )
    return figure


def _reliance(profile: Profile) -> "Figure":
    columns = [column for column in profile.corrupted if column.name.endswith(NO_IMAGE)]
    figure, grid = _grid(columns, profile.rows)
    for axes, column in zip(grid, columns, strict=True):
        for line, row in enumerate(profile.rows):
            full, blank = row.scores[profile.main[column.task]], row.scores[column.name]
            ends = [100 * blank.mean, 100 * full.mean]
            axes.plot(ends, [line, line], color=style.FAINT, lw=3, zorder=0.9)
            for score, face in ((blank, "white"), (full, style.GOOD)):
                low, mean, high = bar_of(score)
                axes.plot([low, high], [line, line], color=style.GOOD, lw=1.3, alpha=0.7,
                          solid_capstyle="round")  # fmt: skip
                axes.plot(mean, line, "o", ms=5, mfc=face, mec=style.GOOD, mew=1, zorder=3)
    style.headline(
        figure,
        f"{profile.title}: with the image and without (%)",
        "Filled: with the image. Open: image removed. Bars: 95 % intervals.\n"
        "A short distance means that the answers hardly depend on the image.",
    )
    return figure


def _value(profile: Profile, look: Mapping[str, Mark]) -> "Figure":
    """Draw the composite against training cost, with the Pareto front."""
    figure, (axes,) = style.panels([4.2], style.score_height(len(profile.rows)))
    costs = cost_axis({row.label: row.cost for row in profile.rows})
    bars = {row.label: bar_of(row.composite) for row in profile.rows}
    axes.set_ylim(bar_limits(list(bars.values()), PAD, PAD, higher_is_better=True))
    draw_costs(axes, costs.costs, bars, look, higher_is_better=True)
    axes.set(xlabel=costs.label, ylabel="composite (%)")
    anchors = [style.Anchor(label, costs.costs[label], bar.mean) for label, bar in bars.items()]
    style.name_points(axes, anchors, look)
    reading = f"{costs.remark}Up and left is better. Grey: Pareto front. Bars: 95 % intervals."
    style.headline(figure, f"{profile.title}: composite against training cost", reading)
    return figure
