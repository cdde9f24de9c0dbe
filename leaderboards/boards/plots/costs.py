"""Draw training cost: cost axis, Pareto front, compute by phase."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from steelyard.leaderboards.boards.cells import phases_of
from steelyard.leaderboards.loading.costs import Cost
from steelyard.leaderboards.output import style
from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAME_COST = 1.05
"""Largest factor between FLOPs that count as equal."""
WIDE_COST = 10.0
"""Factor between costs above which their axis is logarithmic."""
LIGHT: dict[str, Any] = {"lw": 0.8, "alpha": 0.35, "zorder": 2}
"""Style of intervals."""
# Inches: bars, right margin, heading, room for the legend with one and with more lines.
WIDE, GAP, OVER, UNDER = 5.0, 0.22, 0.62, (0.75, 0.95)
ACROSS = 5
"""Phases in a line of the legend."""


class CostAxis(NamedTuple):
    """Label and values of a cost axis."""

    label: str
    remark: str
    """Why it is not FLOPs; empty if it is."""
    costs: Mapping[str, float]
    """By entry."""


def bar_of(interval: Interval, scale: float = 100.0) -> style.Bar:
    return style.Bar(scale * interval.low, scale * interval.mean, scale * interval.high)


def pareto(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Return indices of the (cost, score) points on the Pareto front, by cost."""
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    # At equal cost the best comes first and keeps the others off the front.
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if not front or sign * points[index][1] > sign * points[front[-1]][1]:
            front.append(index)
    return front


def cost_axis(costs: Mapping[str, Cost]) -> CostAxis:
    """Return the FLOPs, or if all trained entries spent equally many, the device seconds."""
    flops = {label: cost.flops or 0.0 for label, cost in costs.items()}
    # Untrained entries cost nothing under any budget.
    trained = [spent for spent in flops.values() if spent > 0]
    # Under an equal budget all points would be on one vertical line.
    if trained and max(trained) <= SAME_COST * min(trained):
        remark = "Training FLOPs agree within 5 %, so the cost shown is device seconds. "
        seconds = {label: cost.seconds for label, cost in costs.items()}
        return CostAxis("training time (device seconds)", remark, seconds)
    return CostAxis("training FLOPs", "", flops)


def cost_scale(axes: "Axes", costs: Sequence[float]) -> None:
    """Start the axis at zero, or make it logarithmic for costs more than tenfold apart."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    low, high = min(costs), max(costs) or 1.0
    if low > 0 and high > WIDE_COST * low:
        axes.set_xscale("log")
        # A factor, since the axis is logarithmic.
        axes.set_xlim(low / 1.3, 1.3 * high)
        subs = (1, 2, 5) if high < 30 * low else (1,)  # more labels would overlap
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(-0.03 * high, 1.08 * high)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_costs(
    axes: "Axes",
    costs: Mapping[str, float],
    bars: Mapping[str, style.Bar],
    look: Mapping[str, style.Mark],
    *,
    higher_is_better: bool,
) -> None:
    """Draw scores with intervals over cost, with the Pareto front as a grey step."""
    cost_scale(axes, [costs[label] for label in bars])
    bounds = [(look[x].colour, [costs[x]] * 2, [bar.low, bar.high]) for x, bar in bars.items()]
    style.lines(axes, bounds, **LIGHT)
    style.dots(axes, [(look[x], costs[x], bar.mean) for x, bar in bars.items()], zorder=3)
    points = [(costs[label], bar.mean) for label, bar in bars.items()]
    front = [points[index] for index in pareto(points, higher_is_better=higher_is_better)]
    # More compute keeps the best score: the step goes on to the edge.
    front.append((axes.get_xlim()[1], front[-1][1]))
    axes.step(*zip(*front, strict=True), where="post", color=style.FAINT, lw=1.4, zorder=1)


def phases_figure(title: str, costs: Mapping[str, Cost]) -> "Figure":
    """Draw the training FLOPs of each entry, stacked by phase; the first entry on top."""
    from matplotlib.ticker import EngFormatter

    labels, phases = list(costs), phases_of([*costs.values()])
    bottom = UNDER[len(phases) > ACROSS]
    figure, (axes,) = style.named_panels(labels, [WIDE], gap=GAP, top=OVER, bottom=bottom)
    axes.grid(axis="y", visible=False)
    starts = np.zeros(len(labels))
    for index, phase in enumerate(phases):
        widths = np.array([cost.phases.get(phase, 0.0) for cost in costs.values()])
        colour = style.COLOURS[index % len(style.COLOURS)]
        hatch = style.HATCHES[index % len(style.HATCHES)]
        axes.barh(range(len(labels)), widths, 0.7, starts, lw=0.5, label=phase, color=colour,
                  hatch=hatch, edgecolor="white")  # fmt: skip
        starts = starts + widths
    for line in np.flatnonzero(starts == 0).tolist():
        axes.text(0, line, " no training", va="center", fontsize=7.5, color=style.SOFT)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("training FLOPs", fontsize=8)
    if phases:
        figure.legend(
            loc="lower left", bbox_to_anchor=(axes.get_position().x0, 0), ncols=ACROSS,
            fontsize=7.5, borderaxespad=0, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
    reading = "Executed floating-point operations by phase, means over seeds."
    style.headline(figure, f"{title}: training compute by phase", reading)
    return figure
