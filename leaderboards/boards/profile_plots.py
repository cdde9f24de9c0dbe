"""A profile's figures: scores side by side, differences to the control, reliance, cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.boards.cost_plots import cost_axis, cost_scale, draw_front
from steelyard.leaderboards.boards.profile import NO_IMAGE, Profile, ProfileRow
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.boards.profile_tables import DIRECTIONS, phases_of, words
from steelyard.leaderboards.boards.rank_plots import critical_figure
from steelyard.leaderboards.output.style import (
    BAD,
    COLOURS,
    FAINT,
    GOOD,
    HATCHES,
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
"""Panels in a row."""
BARS = 5.0
"""Inches: width of the cost panel."""


def figures(profile: Profile) -> Figures:
    """Each figure there is data for by the ending of its name, such as ``scores``."""
    if not profile.rows:
        return {}
    look, shown = _look(profile), replace(profile, groups={}, samples={})
    made: dict[str, Callable[[], Figure]] = {"scores": partial(_scores, shown, look)}
    if any(row.differences for row in profile.rows):
        made["differences"] = partial(_differences, shown)
    if any(row.reliance for row in profile.rows):
        made["reliance"] = partial(_reliance, shown)
    made["value"] = partial(_value, shown, look)
    made["cost"] = partial(_cost, shown)
    if profile.critical is not None:
        made["critical"] = partial(critical_figure, profile.critical, profile.name, look)
    return made


def _labels(rows: Sequence[ProfileRow]) -> list[str]:
    return [row.label for row in rows]


def _grid(count: int, rows: Sequence[ProfileRow]) -> tuple["Figure", list["Axes"]]:
    """Panels in lines of ``ACROSS``, each with a line for every entry, the best on top."""
    from matplotlib.figure import Figure

    # At least three wide, or the small print of the heading would run out of the page.
    across, names = min(count, ACROSS), names_width(_labels(rows))
    high = LINE * len(rows) + 0.1
    width = names + max(across, 3) * (WIDE + GAP)
    step = TITLE + high + UNDER
    height = OVER + -(-count // across) * step
    figure = Figure(figsize=(width, height))
    grid = []
    for place in range(count):
        line, column = divmod(place, across)
        left = (names + column * (WIDE + GAP)) / width
        bottom = 1 - (OVER + line * step + TITLE + high) / height
        axes = figure.add_axes((left, bottom, WIDE / width, high / height))
        name_rows(axes, _labels(rows), named=column == 0)
        grid.append(axes)
    return figure, grid


def _title(axes: "Axes", column: ProfileColumn, direction: str) -> None:
    """The task in small print above the metric: together they do not fit a panel's width."""
    metric = words(f"{column.subset} {column.metric}".strip()) + direction
    axes.set_title(metric, fontsize=8, pad=3)
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(words(column.task), (0, 1), (0, 15), fontsize=7, color=SOFT, va="bottom", **style)


def _look(profile: Profile) -> Mapping[str, Mark]:
    labels = [row.label for row in profile.rows] + [blank.label for blank in profile.blanks]
    return marks(labels, profile.control)


def _interval(axes: "Axes", each: Interval, line: int, colour: str) -> None:
    ends = [100 * each.low, 100 * each.high]
    axes.plot(ends, [line, line], color=colour, lw=1.3, alpha=0.7, solid_capstyle="round")


def _dot(axes: "Axes", each: Interval, line: int, mark: Mark) -> None:
    size = 0.85 * SIZES[mark.marker]
    axes.plot(100 * each.mean, line, mark.marker, color=mark.colour, ms=size, mec="white", mew=0.5)


def _scores(profile: Profile, look: Mapping[str, Mark]) -> "Figure":
    """Every clean number in a panel of its own, so that a trade between two is seen at a glance."""
    figure, grid = _grid(len(profile.shown), profile.rows)
    for axes, column in zip(grid, profile.shown, strict=True):
        for line, row in enumerate(profile.rows):
            each = row.scores[column.name]
            if row.label == profile.control:
                axes.axvline(100 * each.mean, color=SOFT, lw=0.8, ls=(0, (4, 3)), zorder=0.8)
            _interval(axes, each, line, look[row.label].colour)
            _dot(axes, each, line, look[row.label])
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    compared = any(row.label == profile.control for row in profile.rows)
    dashed = f" Dashed: {profile.control}." if compared else ""
    headline(
        figure,
        f"{profile.name}: clean scores side by side (%)",
        f"Bars: 95 % intervals.{dashed} ↓ lower is better; no arrow: only describes.\n"
        "Rows are ordered by the composite, which no panel alone decides.",
    )
    return figure


def _differences(profile: Profile) -> "Figure":
    rows = [row for row in profile.rows if row.differences]
    columns = [column for column in profile.shown if column.higher_is_better is not None]
    figure, grid = _grid(len(columns), rows)
    look = {
        "better": Mark(GOOD, "^"),
        "worse": Mark(BAD, "v"),
        "": Mark(SOFT, "o"),
    }
    for axes, column in zip(grid, columns, strict=True):
        axes.axvline(0, color=INK, lw=0.8)
        for line, row in enumerate(rows):
            found = row.differences[column.name]
            _interval(axes, found.interval, line, look[found.verdict].colour)
            _dot(axes, found.interval, line, look[found.verdict])
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    headline(
        figure,
        f"{profile.name}: difference to {profile.control} (percentage points)",
        "Paired by seed and item, 95 % intervals. Blue ▲ better, orange ▼ worse after Holm's "
        "correction in a panel.\n↓ lower is better: there, better lies left of zero.",
    )
    return figure


def _reliance(profile: Profile) -> "Figure":
    blind = [column for column in profile.corrupted if column.name.endswith(NO_IMAGE)]
    figure, grid = _grid(len(blind), profile.rows)
    for axes, column in zip(grid, blind, strict=True):
        for line, row in enumerate(profile.rows):
            seen, without = row.scores[profile.main[column.task]], row.scores[column.name]
            axes.plot(
                [100 * without.mean, 100 * seen.mean], [line, line], color=FAINT, lw=3, zorder=0.9
            )
            for each, face in ((without, "white"), (seen, GOOD)):
                _interval(axes, each, line, GOOD)
                axes.plot(100 * each.mean, line, "o", ms=5, mfc=face, mec=GOOD, mew=1, zorder=3)
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    headline(
        figure,
        f"{profile.name}: with the image and without (%)",
        "Filled: with the image. Open: image removed. Bars: 95 % intervals.\n"
        "A short distance means that the answers hardly depend on what is seen.",
    )
    return figure


def _value(profile: Profile, look: Mapping[str, Mark]) -> "Figure":
    """Composite against training cost, with the Pareto front."""
    figure, (axes,) = panels(1, 4.2, len(profile.rows))
    label, why, spent = cost_axis({row.label: row.cost for row in profile.rows})
    anchors = []
    for row in profile.rows:
        low, mean, high = (100 * x for x in (row.composite.low, row.composite.mean,
                                             row.composite.high))  # fmt: skip
        mark, cost = look[row.label], spent[row.label]
        axes.plot([cost, cost], [low, high], color=mark.colour, lw=0.8, alpha=0.35, zorder=2)
        axes.plot(cost, mean, mark.marker, color=mark.colour, ms=SIZES[mark.marker], mec="white",
                  mew=0.6, zorder=3)  # fmt: skip
        anchors.append(Anchor(row.label, cost, mean))
    cost_scale(axes, [spent[row.label] for row in profile.rows])
    axes.set_ylim(axes.get_ylim())
    draw_front(axes, [(each.x, each.y) for each in anchors], higher_is_better=True)
    axes.set(xlabel=label, ylabel="composite (%)")
    name_points(axes, anchors, look)
    reading = f"{why}Up and left is better. Grey: Pareto front. Bars: 95 % intervals."
    headline(figure, f"{profile.name}: composite against training cost", reading)
    return figure


def _cost(profile: Profile) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import EngFormatter

    rows, phases, names = profile.rows, phases_of(profile), names_width(_labels(profile.rows))
    under = 0.75 if len(phases) <= ACROSS else 0.95
    high = LINE * len(rows) + 0.1
    width, height = names + BARS + GAP, OVER + high + under
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((names / width, under / height, BARS / width, high / height))
    name_rows(axes, _labels(rows), named=True)
    axes.grid(axis="y", visible=False)
    looks: list[dict[str, Any]] = [
        {"facecolor": COLOURS[place % len(COLOURS)], "hatch": HATCHES[place % len(HATCHES)],
         "edgecolor": "white"}
        for place in range(len(phases))
    ]  # fmt: skip
    for line, row in enumerate(rows):
        left = 0.0
        for phase, style in zip(phases, looks, strict=True):
            spent = row.cost.phases.get(phase, 0.0)
            axes.barh(line, spent, 0.7, left, lw=0.5, **style)
            left += spent
        if not left:
            axes.text(0, line, " no training", va="center", fontsize=7.5, color=SOFT)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("training FLOPs", fontsize=8)
    handles = [Patch(label=phase, **style) for phase, style in zip(phases, looks, strict=True)]
    if handles:
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(names / width, 0), ncols=ACROSS,
            fontsize=7.5, borderaxespad=0, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
    headline(
        figure,
        f"{profile.name}: where training compute went",
        "Executed floating-point operations by phase, means over seeds.",
    )
    return figure
