"""Draw a board: cost, clean against corrupted, severities; with the figures of other modules."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.columns import COMPARED
from steelyard.leaderboards.boards.plots.costs import (
    LIGHT,
    bar_of,
    cost_axis,
    draw_costs,
    phases_figure,
)
from steelyard.leaderboards.boards.plots.modalities import modalities_figure
from steelyard.leaderboards.boards.plots.ranks import critical_figure
from steelyard.leaderboards.boards.plots.several import several_figures
from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import Anchor, Bar, Figures, Mark
from steelyard.tasks import NOTHING
from steelyard.tasks.corruptions.variants import CLEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAD, ASIDE = 0.06, 0.045
"""Fraction of an axis left free at each end; the second for an axis of severities."""

Span = tuple[float, float]


def figures(board: Board, labels: Sequence[str]) -> Figures:
    """Return what draws each figure, by the ending of its file name, such as ``cost``.

    ``labels`` are those of all boards, so that an entry looks the same on each.
    """
    if not board.rows:
        return {}
    # Without runs and resamples: a drawing may be sent to another process.
    light = replace(board, samples={}, groups={}, measured={})
    title, rows = style.select_entries(
        board.title, board.rows, board.control, lambda row: row.label
    )
    look, board = style.marks(labels, board.control), replace(light, rows=rows)
    drawings: dict[str, Callable[[], Figure]]
    phases = partial(phases_figure, title, {row.label: row.cost for row in rows})
    cost = partial(_cost, board, title, look)
    if board.several:
        drawings = several_figures(board, title, look)
        if board.task != NOTHING:
            drawings |= {"value": cost, "cost": phases}
        if board.critical is not None:
            drawings["critical"] = partial(critical_figure, board.critical, board.title, look)
        return drawings
    drawings = {} if board.task == NOTHING else {"cost": cost, "phases": phases}
    if "corrupted" in board.names:
        drawings["balance"] = partial(_balance, board, title, look)
    if any(row.tradeoff for row in rows):
        drawings["modalities"] = partial(modalities_figure, board, title)
    if _graded(board):
        drawings["severity"] = partial(_severity, board, title, look)
    return drawings


def _scale(board: Board) -> float:
    return 100.0 if board.percent else 1.0


def _axis(board: Board, column: str) -> str:
    unit = " (%)" if board.percent else ""
    direction = "" if board.higher_is_better else ", lower is better"
    metric = "" if board.several else f" {board.metric}"
    return f"{column}{metric}{unit}{direction}".strip()


def _number(board: Board, value: float) -> str:
    return f"{value:.1f}" if board.percent else f"{value:.4g}"


def _bars(board: Board, name: str) -> dict[str, Bar]:
    return {row.label: bar_of(row.scores[name], _scale(board)) for row in board.rows}


def _lagging(board: Board, bars: Mapping[str, Bar]) -> set[str]:
    spans = {label: (bar.mean, bar.mean) for label, bar in bars.items()}
    return style.off_scale(spans, higher_is_better=board.higher_is_better)


def _limits(spans: Sequence[Span], below: float, above: float, *, higher_is_better: bool) -> Span:
    """Return axis limits with the better scores at the far end."""
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    return style.axis_limits(*((low, high) if higher_is_better else (high, low)), below, above)


def bar_limits(bars: Sequence[Bar], below: float, above: float, *, higher_is_better: bool) -> Span:
    """Return limits around bars, which cut bars much longer than the range of the means.

    A bar counts at most that range, or a twentieth of the largest mean if that is more.
    """
    means = [bar.mean for bar in bars]
    longest = max(max(means) - min(means), max(map(abs, means)) / 20)
    spans = [(max(bar.low, bar.mean - longest), min(bar.high, bar.mean + longest)) for bar in bars]
    return _limits(spans, below, above, higher_is_better=higher_is_better)


def _note(axes: "Axes", outside: Sequence[str], raised: float = 0.0) -> float:
    """List entries off scale at the foot of the axes; return the fraction of the height in use."""
    wide, high = style.inches(axes)
    # About 17 characters of this print fit an inch.
    lines = textwrap.wrap("off scale: " + ", ".join(outside), int(wide * 17)) if outside else []
    axes.text(
        0.015, (raised + 0.04) / high, "\n".join(lines), transform=axes.transAxes, fontsize=7.5,
        color=style.SOFT, va="bottom", linespacing=1.25,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    return (raised + style.PRINT * len(lines)) / high


def _cost(board: Board, title: str, look: Mapping[str, Mark]) -> "Figure":
    """Draw score against training cost, with the Pareto front."""
    names = [board.order_by] if board.several else [n for n in COMPARED if n in board.names]
    figure, grid = style.panels([3.2] * len(names), style.score_height(len(board.rows)))
    axis = cost_axis({row.label: row.cost for row in board.rows})
    up = board.higher_is_better
    for axes, name in zip(grid, names, strict=True):
        bars = _bars(board, name)
        off = _lagging(board, bars)
        inside = {label: bar for label, bar in bars.items() if label not in off}
        below = _note(axes, [f"{x} {_number(board, bars[x].mean)}" for x in bars if x in off])
        limits = bar_limits(list(inside.values()), below + PAD, PAD, higher_is_better=up)
        axes.set_ylim(limits)
        draw_costs(axes, axis.costs, inside, look, higher_is_better=up)
        axes.set(title=name, xlabel=axis.label, ylabel=_axis(board, name))
    # Names are beside the last panel, so its scores place them.
    anchors = [Anchor(label, axis.costs[label], bar.mean) for label, bar in bars.items()]
    style.name_points(grid[-1], anchors, look)
    reading = f"{axis.remark}Up and left is better. Grey: Pareto front. Bars: 95 % intervals."
    style.headline(figure, f"{title}: score against training cost", reading)
    return figure


def _balance(board: Board, title: str, look: Mapping[str, Mark]) -> "Figure":
    """Draw clean against corrupted; below the control, balance costs clean score."""
    figure, (axes,) = style.panels([4.6], style.score_height(len(board.rows)))
    up, right = _bars(board, CLEAN), _bars(board, "corrupted")
    off = _lagging(board, up)
    # Judged among the rest: one far outlier hides the next.
    off |= _lagging(board, {label: bar for label, bar in right.items() if label not in off})
    inside = [label for label in up if label not in off]
    outside = [
        f"{x} (clean {_number(board, up[x].mean)}, corrupted {_number(board, right[x].mean)})"
        for x in up
        if x in off
    ]
    traded = {row.label for row in board.rows if row.tradeoff and row.tradeoff.traded}
    below = _note(axes, outside, raised=style.PRINT) + PAD
    above = style.PRINT / style.inches(axes)[1] + PAD
    better: dict[str, bool] = {"higher_is_better": board.higher_is_better}
    axes.set_xlim(bar_limits([right[label] for label in inside], PAD, PAD, **better))
    axes.set_ylim(bar_limits([up[label] for label in inside], below, above, **better))
    _crosses(axes, {label: (right[label], up[label]) for label in inside}, look)
    for label in (label for label in inside if label in traded):
        x, y = right[label].mean, up[label].mean
        axes.plot(x, y, "o", ms=11, mfc="none", mec=style.BAD, mew=1.1, zorder=2.5)
    if board.control in inside:
        _cross_hair(axes, board.control, right[board.control].mean, up[board.control].mean, below)
    axes.set(title="clean against corrupted")
    axes.set(xlabel=_axis(board, "corrupted"), ylabel=_axis(board, CLEAN))
    style.name_points(axes, [Anchor(x, right[x].mean, up[x].mean) for x in up], look)
    reading = "Up: better on clean inputs. Right: better on corrupted inputs. Bars: 95 % intervals."
    if traded.intersection(inside):
        reading += "\nRinged: balance traded for the strong modality or the clean score."
    style.headline(figure, f"{title}: cost of balance", reading)
    return figure


def _crosses(axes: "Axes", bars: Mapping[str, tuple[Bar, Bar]], look: Mapping[str, Mark]) -> None:
    """Draw each entry's point with its intervals on both axes."""
    bounds, points = [], []
    for label, (x, y) in bars.items():
        colour = look[label].colour
        bounds += [(colour, [x.low, x.high], [y.mean] * 2), (colour, [x.mean] * 2, [y.low, y.high])]
        points.append((look[label], x.mean, y.mean))
    style.lines(axes, bounds, **LIGHT)
    style.dots(axes, points, zorder=3)


def _cross_hair(axes: "Axes", control: str, x: float, y: float, foot: float) -> None:
    """Draw dashed lines through the control and name the quadrants."""
    axes.axhline(y, color=style.SOFT, lw=0.9, ls=(0, (5, 4)), zorder=0.8)
    axes.axvline(x, color=style.SOFT, lw=0.9, ls=(0, (5, 4)), zorder=0.8)
    right, (bottom, top) = axes.get_xlim()[1], axes.get_ylim()
    axes.fill_between([x, right], y, top, color="#eef4f1", lw=0, zorder=0)
    quiet: dict[str, Any] = {"color": style.SOFT, "fontsize": 7.5}
    # The name is on the longer part of the line.
    low = (y - bottom) / (top - bottom) < 0.5
    axes.text(
        x, 1 - PAD if low else foot, f"{style.shorten(control)} (control) ", rotation=90,
        ha="right", va="top" if low else "bottom", transform=axes.get_xaxis_transform(), **quiet,
    )  # fmt: skip
    corners = (
        (0.015, 0.985, "better clean only"),
        (0.985, 0.985, "better on both"),
        (0.015, 0.015, "worse on both"),
        (0.985, 0.015, "better corrupted only"),
    )
    for across, up, meaning in corners:
        axes.text(
            across, up, meaning, transform=axes.transAxes, style="italic",
            ha="left" if across < 0.5 else "right", va="bottom" if up < 0.5 else "top", **quiet,
        )  # fmt: skip


def _graded(board: Board) -> dict[str, dict[int, str]]:
    """Return corruptions with two severities or more, each as severity (clean is 0) to variant."""
    graded: dict[str, dict[int, str]] = {}
    for variant in board.rows[0].variants:
        name, _, severity = variant.partition(":")
        if severity.isdecimal():  # neither both modalities at once nor another draw
            graded.setdefault(name, {0: CLEAN})[int(severity)] = variant
    return {name: dict(sorted(steps.items())) for name, steps in graded.items() if len(steps) > 2}


def _severity(board: Board, title: str, look: Mapping[str, Mark]) -> "Figure":
    """Draw a panel per graded corruption, on one scale: clean to the highest severity."""
    graded, scale = _graded(board), _scale(board)
    figure, grid = style.panels([3.0] * len(graded), style.score_height(len(board.rows)))
    curves = {
        name: {
            row.label: [scale * row.variants[variant].mean for variant in steps.values()]
            for row in board.rows
        }
        for name, steps in graded.items()
    }
    spans = {}
    for label in (row.label for row in board.rows):
        means = [mean for by_label in curves.values() for mean in by_label[label]]
        # One scale for all panels, so that slopes compare.
        spans[label] = min(means), max(means)
    off = style.off_scale(spans, higher_is_better=board.higher_is_better)
    outside = [
        f"{label} {_number(board, low)} to {_number(board, high)}"
        for label, (low, high) in spans.items()
        if label in off
    ]
    ends = [span for label, span in spans.items() if label not in off]
    for axes, (name, steps) in zip(grid, graded.items(), strict=True):
        below = _note(axes, outside) + PAD
        axes.set_ylim(_limits(ends, below, PAD, higher_is_better=board.higher_is_better))
        severities = list(steps)
        axes.set(title=name, xlabel="severity (0: clean)", xticks=severities)
        axes.set_ylabel(_axis(board, ""))
        axes.set_xlim(*style.axis_limits(severities[0], severities[-1], ASIDE, ASIDE))
        style.draw_curves(axes, severities, curves[name], look)
        anchors = [
            Anchor(label, severities[-1], means[-1]) for label, means in curves[name].items()
        ]
    style.name_points(grid[-1], anchors, look)
    reading = "Means over seeds; a flat line is robust. The intervals are in the JSON file."
    style.headline(figure, f"{title}: score by severity", reading)
    return figure
