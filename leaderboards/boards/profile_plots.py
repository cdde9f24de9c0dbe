"""Draw a profile: scores side by side, differences to the control, reliance, cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.boards.cells import DIRECTIONS, words
from steelyard.leaderboards.boards.cost_plots import (
    cost_axis,
    cost_scale,
    draw_front,
    phases_figure,
)
from steelyard.leaderboards.boards.profile import NO_IMAGE, Profile, ProfileRow
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.boards.rank_plots import critical_figure
from steelyard.leaderboards.output.style import (
    BAD,
    FAINT,
    GOOD,
    INK,
    LINE,
    SIZES,
    SOFT,
    Anchor,
    Figures,
    Mark,
    headline,
    marks,
    name_points,
    name_rows,
    names_width,
    panels,
)
from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: width of a panel, room between panels, below and above them, and above each.
WIDE, GAP, UNDER, OVER, TITLE = 1.5, 0.22, 0.32, 0.62, 0.4
ACROSS = 5
"""Panels in a line."""


def figures(profile: Profile) -> Figures:
    """Return what draws each figure, by the ending of its file name, such as ``scores``."""
    if not profile.rows:
        return {}
    labels = [row.label for row in profile.rows] + [blank.label for blank in profile.blanks]
    look, light = marks(labels, profile.control), replace(profile, groups={}, samples={})
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


def _labels(rows: Sequence[ProfileRow]) -> list[str]:
    return [row.label for row in rows]


def _grid(count: int, rows: Sequence[ProfileRow]) -> tuple["Figure", list["Axes"]]:
    """Lay out panels in lines of ``ACROSS``, each with a line per entry, the best on top."""
    from matplotlib.figure import Figure

    # At least three wide, for the small print of the heading.
    across, names = min(count, ACROSS), names_width(_labels(rows))
    high = LINE * len(rows) + 0.1
    width = names + max(across, 3) * (WIDE + GAP)
    step = TITLE + high + UNDER
    height = OVER + -(-count // across) * step
    figure = Figure(figsize=(width, height))
    grid = []
    for index in range(count):
        line, column = divmod(index, across)
        start = (names + column * (WIDE + GAP)) / width
        bottom = 1 - (OVER + line * step + TITLE + high) / height
        axes = figure.add_axes((start, bottom, WIDE / width, high / height))
        name_rows(axes, _labels(rows), with_names=column == 0)
        grid.append(axes)
    return figure, grid


def _title(axes: "Axes", column: ProfileColumn, direction: str) -> None:
    """Write the task in small print above the metric: one line is too narrow for both."""
    metric = words(f"{column.subset} {column.metric}".strip()) + direction
    axes.set_title(metric, fontsize=8, pad=3)
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(words(column.task), (0, 1), (0, 15), fontsize=7, color=SOFT, va="bottom", **style)


def _interval(axes: "Axes", interval: Interval, line: int, colour: str) -> None:
    ends = [100 * interval.low, 100 * interval.high]
    axes.plot(ends, [line, line], color=colour, lw=1.3, alpha=0.7, solid_capstyle="round")


def _dot(axes: "Axes", mean: float, line: int, mark: Mark) -> None:
    size = 0.85 * SIZES[mark.marker]
    axes.plot(100 * mean, line, mark.marker, color=mark.colour, ms=size, mec="white", mew=0.5)


def _scores(profile: Profile, look: Mapping[str, Mark]) -> "Figure":
    """Draw every clean number in its own panel, which shows trades between two numbers."""
    figure, grid = _grid(len(profile.clean), profile.rows)
    for axes, column in zip(grid, profile.clean, strict=True):
        for line, row in enumerate(profile.rows):
            score = row.scores[column.name]
            if row.label == profile.control:
                axes.axvline(100 * score.mean, color=SOFT, lw=0.8, ls=(0, (4, 3)), zorder=0.8)
            _interval(axes, score, line, look[row.label].colour)
            _dot(axes, score.mean, line, look[row.label])
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    compared = any(row.label == profile.control for row in profile.rows)
    dashed = f" Dashed: {profile.control}." if compared else ""
    headline(
        figure,
        f"{profile.title}: clean scores side by side (%)",
        f"Bars: 95 % intervals.{dashed} ↓ lower is better; no arrow: only describes.\n"
        "Rows are ordered by the composite of all panels.",
    )
    return figure


def _differences(profile: Profile) -> "Figure":
    rows = [row for row in profile.rows if row.differences]
    columns = [column for column in profile.clean if column.higher_is_better is not None]
    figure, grid = _grid(len(columns), rows)
    look = {
        "better": Mark(GOOD, "^"),
        "worse": Mark(BAD, "v"),
        "": Mark(SOFT, "o"),
    }
    for axes, column in zip(grid, columns, strict=True):
        axes.axvline(0, color=INK, lw=0.8)
        for line, row in enumerate(rows):
            difference = row.differences[column.name]
            mark = look[difference.verdict]
            _interval(axes, difference.interval, line, mark.colour)
            _dot(axes, difference.interval.mean, line, mark)
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    headline(
        figure,
        f"{profile.title}: difference to {profile.control} (percentage points)",
        "Paired by seed and item, 95 % intervals. Blue ▲ better, orange ▼ worse after Holm's "
        "correction in a panel.\n↓ lower is better: there, better is left of zero.",
    )
    return figure


def _reliance(profile: Profile) -> "Figure":
    columns = [column for column in profile.corrupted if column.name.endswith(NO_IMAGE)]
    figure, grid = _grid(len(columns), profile.rows)
    for axes, column in zip(grid, columns, strict=True):
        for line, row in enumerate(profile.rows):
            full, blank = row.scores[profile.main[column.task]], row.scores[column.name]
            ends = [100 * blank.mean, 100 * full.mean]
            axes.plot(ends, [line, line], color=FAINT, lw=3, zorder=0.9)
            for score, face in ((blank, "white"), (full, GOOD)):
                _interval(axes, score, line, GOOD)
                axes.plot(100 * score.mean, line, "o", ms=5, mfc=face, mec=GOOD, mew=1, zorder=3)
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    headline(
        figure,
        f"{profile.title}: with the image and without (%)",
        "Filled: with the image. Open: image removed. Bars: 95 % intervals.\n"
        "A short distance means that the answers hardly depend on the image.",
    )
    return figure


def _value(profile: Profile, look: Mapping[str, Mark]) -> "Figure":
    """Draw the composite against training cost, with the Pareto front."""
    figure, (axes,) = panels(1, 4.2, len(profile.rows))
    costs = cost_axis({row.label: row.cost for row in profile.rows})
    anchors = []
    for row in profile.rows:
        interval, mark, cost = row.composite, look[row.label], costs.costs[row.label]
        low, mean, high = 100 * interval.low, 100 * interval.mean, 100 * interval.high
        axes.plot([cost, cost], [low, high], color=mark.colour, lw=0.8, alpha=0.35, zorder=2)
        axes.plot(cost, mean, mark.marker, color=mark.colour, ms=SIZES[mark.marker], mec="white",
                  mew=0.6, zorder=3)  # fmt: skip
        anchors.append(Anchor(row.label, cost, mean))
    cost_scale(axes, [costs.costs[row.label] for row in profile.rows])
    axes.set_ylim(axes.get_ylim())
    draw_front(axes, [(anchor.x, anchor.y) for anchor in anchors], higher_is_better=True)
    axes.set(xlabel=costs.label, ylabel="composite (%)")
    name_points(axes, anchors, look)
    reading = f"{costs.remark}Up and left is better. Grey: Pareto front. Bars: 95 % intervals."
    headline(figure, f"{profile.title}: composite against training cost", reading)
    return figure
