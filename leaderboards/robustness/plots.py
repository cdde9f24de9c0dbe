"""The robustness fan: from its own clean score, how far each entry moves as the damage grows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steelyard.leaderboards.output.style import (
    BETWEEN,
    BOTTOM,
    LEFT,
    NAME,
    SOFT,
    TOP,
    Anchor,
    Mark,
    dots,
    draw_curves,
    headline,
    lines,
    name_points,
    select_entries,
)
from steelyard.leaderboards.robustness.numbers import CorruptionVariants, Robustness, RobustnessRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 4
"""Panels in a row."""
WIDE, HIGH = 2.6, 2.8
"""Inches of a panel, the height at least."""
UNDER = 0.3
"""Inches more below a panel, for the slanted names of corruptions."""
PAD = 0.06
"""Share of an axis left free at each end."""


def best_of(found: Robustness) -> Robustness:
    """With as many entries as a figure shows, named so."""
    title, kept = select_entries(found.task, found.rows, found.control, lambda row: row.label)
    return replace(found, task=title, rows=kept)


def fan(found: Robustness, look: Mapping[str, Mark]) -> "Figure":
    """A panel for each corruption of more than one severity, and one for all the others."""
    graded = [corruption for corruption in found.corruptions if len(corruption.levels) > 1]
    others = [corruption for corruption in found.corruptions if len(corruption.levels) <= 1]
    figure, panels = _grid(len(graded) + bool(others), len(found.rows))
    scale = 100.0 if found.percent else 1.0
    limits = _limits(found, scale)
    anchors: list[Anchor] = []
    for axes, corruption in zip(
        panels, graded, strict=False
    ):  # the last panel may be for the others
        _level(axes, corruption)
        anchors = _curves(axes, found.rows, corruption, look, scale)
        _band(axes, found, corruption, scale)
        axes.set_ylim(limits)
    if others:
        anchors = _dots(panels[-1], found, others, look, scale)
        panels[-1].set_ylim(limits)
    for axes in panels[::ACROSS]:
        unit = " (points)" if found.percent else ""
        axes.set_ylabel(f"{found.metric} minus own clean{unit}")
    for axes in panels:
        axes.axhline(0, color=SOFT, lw=0.9, zorder=1)
    name_points(panels[-1], anchors, look)
    reading = (
        "Every entry starts from its own clean score; a flat line is robust, also of a poor model."
        f" Grey band: 95 % interval of {found.control}."
    )
    headline(figure, f"{found.task}: robustness fan", reading)
    return figure


def _grid(count: int, names: int) -> tuple["Figure", list["Axes"]]:
    """Panels in rows of ``ACROSS``, each high enough for a column of ``names`` names."""
    from matplotlib.figure import Figure

    high, rows, across = max(HIGH, NAME * names), -(-count // ACROSS), min(count, ACROSS)
    step_across, step_up = WIDE + BETWEEN, high + BOTTOM + UNDER
    width = LEFT + across * step_across
    height = TOP + rows * step_up
    figure = Figure(figsize=(width, height))
    places = [divmod(place, ACROSS) for place in range(count)]
    return figure, [
        figure.add_axes(
            (
                (LEFT + column * step_across) / width,
                1 - (TOP + row * step_up + high) / height,
                WIDE / width,
                high / height,
            )
        )
        for row, column in places
    ]


def _limits(found: Robustness, scale: float) -> tuple[float, float]:
    """All changes and zero, the worse end below."""
    means = [scale * step.mean for row in found.rows for own in row.curves.values() for step in own]
    low, high = min([0.0, *means]), max([0.0, *means])
    free = PAD * ((high - low) or 1.0)
    ends = (low - free, high + free)
    return ends if found.higher_is_better else ends[::-1]


def _level(axes: "Axes", corruption: CorruptionVariants) -> None:
    axes.set_title(corruption.name)
    axes.set_xlabel("severity or rate (0: clean)")
    axes.set_xticks([0, *corruption.levels])
    axes.set_xlim(0, 1.04 * corruption.levels[-1])


def _curves(
    axes: "Axes",
    rows: Sequence[RobustnessRow],
    corruption: CorruptionVariants,
    look: Mapping[str, Mark],
    scale: float,
) -> list[Anchor]:
    """A line an entry from the common origin; the names go to their ends."""
    changes = {
        row.label: [0.0, *(scale * step.mean for step in row.curves[corruption.name])]
        for row in rows
    }
    draw_curves(axes, [0, *corruption.levels], changes, look, first=1)
    return [Anchor(label, corruption.levels[-1], own[-1]) for label, own in changes.items()]


def _band(axes: "Axes", found: Robustness, corruption: CorruptionVariants, scale: float) -> None:
    for row in found.rows:
        if row.label == found.control:
            steps = row.curves[corruption.name]
            low = [0.0, *(scale * step.low for step in steps)]
            high = [0.0, *(scale * step.high for step in steps)]
            axes.fill_between([0, *corruption.levels], low, high, color=SOFT, alpha=0.15, lw=0)


def _dots(
    axes: "Axes",
    found: Robustness,
    corruptions: Sequence[CorruptionVariants],
    look: Mapping[str, Mark],
    scale: float,
) -> list[Anchor]:
    """Damage without strengths side by side, entries apart from left to right in a column."""
    axes.set_title("without severities")
    names = [corruption.name for corruption in corruptions]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7.5)
    axes.set_xlim(-0.6, len(corruptions) - 0.4)
    axes.grid(visible=False, axis="x")
    anchors, bounds, points = [], [], []
    for place, row in enumerate(found.rows):
        shift = 0.7 * ((place + 0.5) / len(found.rows) - 0.5)
        for column, corruption in enumerate(corruptions):
            step, x = row.curves[corruption.name][-1], column + shift
            bounds.append((look[row.label].colour, [x, x], [scale * step.low, scale * step.high]))
            points.append((look[row.label], x, scale * step.mean))
        last = row.curves[corruptions[-1].name][-1]
        anchors.append(Anchor(row.label, len(corruptions) - 1 + shift, scale * last.mean))
    lines(axes, bounds, lw=0.8, alpha=0.4)
    dots(axes, points, zorder=3)
    return anchors
