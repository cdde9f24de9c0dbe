"""Draw training cost, for boards and profiles: cost axis, Pareto front, compute by phase."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from steelyard.leaderboards.loading.costs import Cost
from steelyard.leaderboards.output.style import (
    COLOURS,
    FAINT,
    HATCHES,
    LINE,
    SOFT,
    headline,
    name_rows,
    names_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAME_COST = 1.05
"""Largest factor between FLOPs that count as equal."""
WIDE_COST = 10.0
"""Factor between costs above which their axis is logarithmic."""
# Inches: bars, right margin, heading, room for the legend with one and with more lines.
BARS, GAP, OVER, UNDER = 5.0, 0.22, 0.62, (0.75, 0.95)
ACROSS = 5
"""Phases in a line of the legend."""


class CostAxis(NamedTuple):
    """Label and values of a cost axis."""

    label: str
    remark: str
    """Why it is not FLOPs; empty if it is."""
    costs: Mapping[str, float]
    """By entry."""


def pareto(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Return indices of the (cost, score) points on the Pareto front, by cost."""
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if not front or sign * points[index][1] > sign * points[front[-1]][1]:
            front.append(index)
    return front


def cost_axis(costs: Mapping[str, Cost]) -> CostAxis:
    """Return the FLOPs, or if all trained entries spent equally many, the device seconds."""
    flops = {label: cost.flops for label, cost in costs.items()}
    trained = [spent for spent in flops.values() if spent > 0]
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
        axes.set_xlim(low / 1.3, 1.3 * high)
        subs = (1, 2, 5) if high < 30 * low else (1,)  # more labels would overlap
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(-0.03 * high, 1.08 * high)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_front(
    axes: "Axes", points: Sequence[tuple[float, float]], *, higher_is_better: bool
) -> None:
    """Draw the Pareto front of (cost, score) points as a grey step to the end of the axis."""
    front = [points[index] for index in pareto(points, higher_is_better=higher_is_better)]
    front.append((axes.get_xlim()[1], front[-1][1]))
    axes.step(*zip(*front, strict=True), where="post", color=FAINT, lw=1.4, zorder=1)


def phases_of(costs: Sequence[Cost]) -> list[str]:
    """Return every phase that some entry spent FLOPs on, forward and backward first."""
    phases = {phase for cost in costs for phase in cost.phases}
    passes = [phase for phase in ("forward", "backward") if phase in phases]
    return [*passes, *sorted(phases.difference(passes))]


def phases_figure(title: str, costs: Mapping[str, Cost]) -> "Figure":
    """Draw the training FLOPs of each entry, stacked by phase; the first entry on top."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    labels, phases = list(costs), phases_of([*costs.values()])
    names, under = names_width(labels), UNDER[len(phases) > ACROSS]
    high = LINE * len(labels) + 0.1
    width, height = names + BARS + GAP, OVER + high + under
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((names / width, under / height, BARS / width, high / height))
    name_rows(axes, labels, with_names=True)
    axes.grid(axis="y", visible=False)
    starts = [0.0] * len(labels)
    for index, phase in enumerate(phases):
        widths = [cost.phases.get(phase, 0.0) for cost in costs.values()]
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "edgecolor": "white"}
        style["hatch"] = HATCHES[index % len(HATCHES)]
        axes.barh(range(len(labels)), widths, 0.7, starts, lw=0.5, label=phase, **style)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for line, total in enumerate(starts):
        if total == 0:
            axes.text(0, line, " no training", va="center", fontsize=7.5, color=SOFT)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("training FLOPs", fontsize=8)
    if phases:
        figure.legend(
            loc="lower left", bbox_to_anchor=(names / width, 0), ncols=ACROSS, fontsize=7.5,
            borderaxespad=0, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
    reading = "Executed floating-point operations by phase, means over seeds."
    headline(figure, f"{title}: training compute by phase", reading)
    return figure
