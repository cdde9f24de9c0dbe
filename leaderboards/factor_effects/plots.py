"""Draw the effect of a factor: gains, conflicts and scores by level."""

from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.factor_effects.numbers import Factor, FactorCurve
from steelyard.leaderboards.output.style import IMAGE, INK, SOFT, TEXT, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HIGH = 2.7, 1.9
"""Inches of a panel."""
LONG = 12
"""Characters from which the names of levels are slanted."""
ROWS = (
    ("gain from each modality\n(points)", (
        ("gain.image.shuffled", "image", IMAGE, "o"),
        ("gain.text.shuffled", "text", TEXT, "s"),
    )),
    ("conflicts that follow\n(%)", (
        ("conflict.image", "image", IMAGE, "o"),
        ("conflict.text", "text", TEXT, "s"),
    )),
    ("score (%)", (
        ("score.full", "image and text", INK, "X"),
        ("score.text.blank", "text only", TEXT, "s"),
        ("score.image.blank", "image only", IMAGE, "D"),
    )),
)  # fmt: skip
"""Axis label of each row of panels; its numbers with label, colour and shape."""


def picture(factor: Factor) -> dict[str, bytes]:
    """Return the figure as PNG and SVG by file name: a column per parameter and task."""
    return render({factor.name: lambda: _figure(factor)})


def _figure(factor: Factor) -> "Figure":
    from matplotlib.figure import Figure

    count = len(factor.curves)
    figure = Figure(figsize=(0.6 + WIDE * count, 0.9 + HIGH * len(ROWS)), layout="constrained")
    panels = figure.subplots(len(ROWS), count, squeeze=False, sharey="row", sharex="col")
    for column, curve in enumerate(factor.curves):
        for (label, numbers), axes in zip(ROWS, panels[:, column], strict=True):
            for number in numbers:
                _line(axes, curve, *number)
            if column == 0:
                axes.set_ylabel(label, fontsize=8)
                axes.legend(fontsize=7, loc="best")
        panels[0, column].axhline(0, color=SOFT, lw=0.8, zorder=0.8)
        panels[0, column].set_title(f"{curve.task.replace('_', ' ')}\n{curve.about}", fontsize=8.5)
        _levels(panels[-1, column], curve)
    figure.suptitle(f"Effect of {factor.name} on reliance", x=0.01, ha="left", fontsize=10.5,
                    weight="bold")  # fmt: skip
    return figure


def _line(
    axes: "Axes", curve: FactorCurve, name: str, label: str, colour: str, marker: str
) -> None:
    """Draw a number over the levels with intervals, joined if the levels are ordered."""
    intervals = {
        x: level.numbers[name] for x, level in enumerate(curve.levels) if name in level.numbers
    }
    if not intervals:
        return
    # Methods have no order, so no line joins them.
    line = "-" if curve.parameter != "objective" else ""
    style: dict[str, Any] = {"color": colour, "marker": marker, "ls": line, "mec": "white"}
    means = [100 * interval.mean for interval in intervals.values()]
    axes.plot(list(intervals), means, ms=6, lw=1.2, mew=0.6, label=label, **style)
    for x, interval in intervals.items():
        ends = [100 * interval.low, 100 * interval.high]
        axes.plot([x, x], ends, color=colour, lw=0.9, alpha=0.5)


def _levels(axes: "Axes", curve: FactorCurve) -> None:
    names = [level.name for level in curve.levels]
    slanted = any(len(name) > LONG for name in names) and len(names) > 4
    axes.set_xticks(range(len(names)), names, fontsize=7.5, rotation=30 if slanted else 0,
                    ha="right" if slanted else "center")  # fmt: skip
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_xlabel("" if curve.parameter == "objective" else curve.parameter, fontsize=8)
