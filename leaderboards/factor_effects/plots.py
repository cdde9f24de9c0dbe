"""Draw the effect of a factor: gains, conflicts and scores by level."""

from typing import TYPE_CHECKING

from steelyard.leaderboards.factor_effects.numbers import Factor, FactorCurve
from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import IMAGE, INK, SOFT, TEXT

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


def draw(factor: Factor) -> "Figure":
    """Draw a column of panels per parameter and task."""
    from matplotlib.figure import Figure

    count = len(factor.curves)
    figure = Figure(figsize=(0.6 + WIDE * count, 0.9 + HIGH * len(ROWS)), layout="constrained")
    panels = figure.subplots(len(ROWS), count, squeeze=False, sharey="row", sharex="col")
    for column, curve in enumerate(factor.curves):
        # Methods have no order, so no line joins them.
        line = "-" if curve.parameter != "objective" else ""
        for (label, numbers), axes in zip(ROWS, panels[:, column], strict=True):
            for name, number, colour, shape in numbers:
                levels = {x: level.numbers for x, level in enumerate(curve.levels)}
                intervals = {x: level[name] for x, level in levels.items() if name in level}
                style.error_bars(axes, intervals, upright=True, label=number, color=colour,
                                 marker=shape, ls=line, mec="white", ms=6, lw=1.2)  # fmt: skip
            if column == 0:
                axes.set_ylabel(label, fontsize=8)
                axes.legend(fontsize=7, loc="best")
        panels[0, column].axhline(0, color=SOFT, lw=0.8, zorder=0.8)
        panels[0, column].set_title(f"{curve.task.replace('_', ' ')}\n{curve.about}", fontsize=8.5)
        _levels(panels[-1, column], curve)
    style.heading(figure, f"Effect of {factor.name} on reliance")
    return figure


def _levels(axes: "Axes", curve: FactorCurve) -> None:
    names = [level.name for level in curve.levels]
    slanted = any(len(name) > LONG for name in names) and len(names) > 4
    axes.set_xticks(range(len(names)), names, fontsize=7.5, rotation=30 if slanted else 0,
                    ha="right" if slanted else "center")  # fmt: skip
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_xlabel("" if curve.parameter == "objective" else curve.parameter, fontsize=8)
