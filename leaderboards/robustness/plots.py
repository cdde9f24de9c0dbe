"""Draw the robustness fan: each entry's change from its own clean score over severities."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import Anchor, Mark
from steelyard.leaderboards.robustness.numbers import CorruptionVariants, Robustness

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 4
"""Panels in a row."""
WIDE, HIGH = 2.6, 2.8
"""Inches of a panel; the height is a minimum."""
UNDER = 0.3
"""Extra inches below a panel, for the slanted names of corruptions."""
PAD = 0.06
"""Fraction of an axis left free at each end."""


def best_of(task: Robustness, title: str) -> Robustness:
    """Return the rows that a figure has room for; the task becomes the title."""
    title, rows = style.select_entries(title, task.rows, task.control, lambda row: row.label)
    return replace(task, task=title, rows=rows)


def fan(task: Robustness, look: Mapping[str, Mark]) -> "Figure":
    """Draw a panel per corruption with two severities or more, and one for all others."""
    graded = [corruption for corruption in task.corruptions if len(corruption.levels) > 1]
    ungraded = [corruption for corruption in task.corruptions if len(corruption.levels) <= 1]
    high, count = max(HIGH, style.NAME * len(task.rows)), len(graded) + bool(ungraded)
    figure, grid = style.panels([WIDE] * ACROSS, high, count=count, bottom=style.BOTTOM + UNDER)
    scale = 100.0 if task.percent else 1.0
    # One scale for all panels, so that slopes compare.
    limits = _limits(task, scale)
    anchors: list[Anchor] = []
    # Not strict: the last panel may be for the ungraded ones.
    for axes, corruption in zip(grid, graded, strict=False):
        axes.set(title=corruption.name, xlabel="severity or rate (0: clean)")
        axes.set(xticks=[0, *corruption.levels], xlim=(0, 1.04 * corruption.levels[-1]))
        anchors = _curves(axes, task, corruption, look, scale)
        axes.set_ylim(limits)
    if ungraded:
        anchors = _dots(grid[-1], task, ungraded, look, scale)
        grid[-1].set_ylim(limits)
    for axes in grid[::ACROSS]:
        unit = " (points)" if task.percent else ""
        axes.set_ylabel(f"{task.metric} minus own clean{unit}")
    for axes in grid:
        axes.axhline(0, color=style.SOFT, lw=0.9, zorder=1)
    style.name_points(grid[-1], anchors, look)
    reading = (
        "Every entry starts from its own clean score; a flat line is robust, even of a poor model."
        f" Grey band: 95 % interval of {task.control}."
    )
    style.headline(figure, f"{task.task}: robustness fan", reading)
    return figure


def _limits(task: Robustness, scale: float) -> tuple[float, float]:
    """Return limits that hold zero and all changes, the worse end below."""
    curves = [curve for row in task.rows for curve in row.curves.values()]
    means = [scale * step.mean for curve in curves for step in curve]
    low, high = min([0.0, *means]), max([0.0, *means])
    free = PAD * ((high - low) or 1.0)
    ends = (low - free, high + free)
    return ends if task.higher_is_better else ends[::-1]


def _curves(
    axes: "Axes",
    task: Robustness,
    corruption: CorruptionVariants,
    look: Mapping[str, Mark],
    scale: float,
) -> list[Anchor]:
    """Draw a line per entry from the common origin, and the control's band; return their ends."""
    levels = [0, *corruption.levels]
    curves = {row.label: row.curves[corruption.name] for row in task.rows}
    changes = {
        label: [0.0, *(scale * step.mean for step in curve)] for label, curve in curves.items()
    }
    # No point at 0, which all entries share.
    style.draw_curves(axes, levels, changes, look, first=1)
    if control := curves.get(task.control):
        low, high = ([0.0, *(scale * getattr(step, end) for step in control)]
                     for end in ("low", "high"))  # fmt: skip
        axes.fill_between(levels, low, high, color=style.SOFT, alpha=0.15, lw=0)
    return [Anchor(label, levels[-1], curve[-1]) for label, curve in changes.items()]


def _dots(
    axes: "Axes",
    task: Robustness,
    corruptions: Sequence[CorruptionVariants],
    look: Mapping[str, Mark],
    scale: float,
) -> list[Anchor]:
    """Draw ungraded corruptions as columns, with the entries side by side in each."""
    axes.set_title("without severities")
    names = [corruption.name for corruption in corruptions]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7.5)
    axes.set_xlim(-0.6, len(corruptions) - 0.4)
    axes.grid(visible=False, axis="x")
    anchors, bounds, points = [], [], []
    for index, row in enumerate(task.rows):
        # Within 0.7 of a column: a gap separates it from the next.
        shift = 0.7 * ((index + 0.5) / len(task.rows) - 0.5)
        for column, corruption in enumerate(corruptions):
            step, x = row.curves[corruption.name][-1], column + shift
            bounds.append((look[row.label].colour, [x, x], [scale * step.low, scale * step.high]))
            points.append((look[row.label], x, scale * step.mean))
        last = row.curves[corruptions[-1].name][-1]
        anchors.append(Anchor(row.label, len(corruptions) - 1 + shift, scale * last.mean))
    style.lines(axes, bounds, lw=0.8, alpha=0.4)
    style.dots(axes, points, zorder=3)
    return anchors
