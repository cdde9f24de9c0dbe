"""What boards and profiles share when they show cost: its axis, its scale, the Pareto front."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steelyard.leaderboards.loading.costs import Cost
from steelyard.leaderboards.output.style import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAME_COST = 1.05
"""Entries whose FLOPs lie within this factor are not told apart by them."""
WIDE_COST = 10.0
"""Costs further apart than this factor are drawn on a logarithmic axis."""


def pareto(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Indices of (cost, score) points that no cheaper or equally cheap point beats, by cost."""
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if not front or sign * points[index][1] > sign * points[front[-1]][1]:
            front.append(index)
    return front


def cost_axis(costs: Mapping[str, Cost]) -> tuple[str, str, dict[str, float]]:
    """What the cost axis shows: its label, why, and the cost by entry.

    FLOPs, unless all entries that train spent the same: then only their seconds differ.
    """
    flops = {label: cost.flops for label, cost in costs.items()}
    trained = [spent for spent in flops.values() if spent > 0]
    if trained and max(trained) <= SAME_COST * min(trained):
        why = "Training FLOPs agree within 5 %, so the cost shown is device seconds. "
        seconds = {label: cost.seconds for label, cost in costs.items()}
        return "training time (device seconds)", why, seconds
    return "training FLOPs", "", flops


def cost_scale(axes: "Axes", spent: Sequence[float]) -> None:
    """From zero, or logarithmic where the costs differ by more than a factor of ten."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    low, high = min(spent), max(spent) or 1.0
    if low > 0 and high > WIDE_COST * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, 1.3 * high)
        subs = (1, 2, 5) if high < 30 * low else (1,)  # more would run into one another
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(-0.03 * high, 1.08 * high)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_front(
    axes: "Axes", points: Sequence[tuple[float, float]], *, higher_is_better: bool
) -> None:
    """The Pareto front of (cost, score) points as a grey step to the end of the axis."""
    front = [points[index] for index in pareto(points, higher_is_better=higher_is_better)]
    front.append((axes.get_xlim()[1], front[-1][1]))
    axes.step(*zip(*front, strict=True), where="post", color=FAINT, lw=1.4, zorder=1)
