"""A factor of bias as one picture: what each side adds and who is followed, level by level."""

from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.factor_effects.numbers import Curve, Factor
from steelyard.leaderboards.output.style import INK, SOFT, render
from steelyard.leaderboards.reliance.plots import IMAGE, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HIGH = 2.7, 1.9
"""Inches of a panel."""
LONG = 12
"""Characters of a level's name from which names are slanted."""
ROWS = (
    ("what each side adds\n(points)", (
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
"""Axis label of each row of panels, and its numbers with name, colour and shape."""


def picture(found: Factor) -> dict[str, bytes]:
    """The picture as ``png`` and ``svg``; a column a knob and task, a row a kind of number."""
    return render({found.name: lambda: _figure(found)})


def _figure(found: Factor) -> "Figure":
    from matplotlib.figure import Figure

    count = len(found.curves)
    figure = Figure(figsize=(0.6 + WIDE * count, 0.9 + HIGH * len(ROWS)), layout="constrained")
    panels = figure.subplots(len(ROWS), count, squeeze=False, sharey="row", sharex="col")
    for column, curve in enumerate(found.curves):
        for (label, numbers), axes in zip(ROWS, panels[:, column], strict=True):
            for number in numbers:
                _line(axes, curve, *number)
            if column == 0:
                axes.set_ylabel(label, fontsize=8)
                axes.legend(fontsize=7, loc="best")
        panels[0, column].axhline(0, color=SOFT, lw=0.8, zorder=0.8)
        panels[0, column].set_title(f"{curve.task.replace('_', ' ')}\n{curve.about}", fontsize=8.5)
        _levels(panels[-1, column], curve)
    figure.suptitle(f"What {found.name} does to reliance", x=0.01, ha="left", fontsize=10.5,
                    weight="bold")  # fmt: skip
    return figure


def _line(axes: "Axes", curve: Curve, name: str, label: str, colour: str, marker: str) -> None:
    """One number over the levels: joined where they are ordered, with intervals."""
    shown = [(place, point) for place, point in enumerate(curve.points) if name in point.numbers]
    if not shown:
        return
    places = [place for place, _ in shown]
    each = [point.numbers[name] for _, point in shown]
    joined = "-" if curve.knob != "objective" else ""
    style: dict[str, Any] = {"color": colour, "marker": marker, "ls": joined, "mec": "white"}
    axes.plot(places, [100 * one.mean for one in each], ms=6, lw=1.2, mew=0.6, label=label, **style)
    for place, one in zip(places, each, strict=True):
        axes.plot([place] * 2, [100 * one.low, 100 * one.high], color=colour, lw=0.9, alpha=0.5)


def _levels(axes: "Axes", curve: Curve) -> None:
    names = [f"{point.value} (usual)" if point.reference else point.value for point in curve.points]
    slanted = any(len(name) > LONG for name in names) and len(names) > 4
    axes.set_xticks(range(len(names)), names, fontsize=7.5, rotation=30 if slanted else 0,
                    ha="right" if slanted else "center")  # fmt: skip
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_xlabel("" if curve.knob == "objective" else curve.knob, fontsize=8)
