"""Ranks as pictures: the critical difference, and how ranks change from one board to another."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steelyard.leaderboards.output.style import (
    BAD,
    GOOD,
    INK,
    LINE,
    SIZES,
    SOFT,
    Mark,
    headline,
    name_rows,
    names_width,
    select_entries,
    shorten,
)
from steelyard.leaderboards.stats.ranking import CriticalDifference, RankChange

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: width of the ranks, of the brackets beside them, of a slope chart's lines; room above
# and below.
WIDE, BRACKET, SLOPE, OVER, UNDER = 4.0, 0.14, 2.6, 0.95, 0.5
STEP = 0.22
"""Inches from one place of a slope chart to the next."""


def critical_figure(critical: CriticalDifference, about: str, look: Mapping[str, Mark]) -> "Figure":
    """Mean ranks, the best on top, with a bracket around entries that are not told apart."""
    from matplotlib.figure import Figure

    title, labels = select_entries(about, list(critical.mean_ranks), "", str)
    means = [critical.mean_ranks[label] for label in labels]
    groups = alike(means, critical.difference)
    names, high = names_width(labels), LINE * len(labels) + 0.1
    width = names + WIDE + BRACKET * (len(groups) + 2)
    height = OVER + high + UNDER
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((names / width, UNDER / height, WIDE / width, high / height))
    name_rows(axes, labels, named=True)
    axes.set_xlim(0.6, max(len(labels), means[-1]) + 0.4)
    for line, (label, mean) in enumerate(zip(labels, means, strict=True)):
        mark = look[label]
        axes.plot(mean, line, mark.marker, color=mark.colour, ms=SIZES[mark.marker], mec="white",
                  mew=0.5, zorder=3)  # fmt: skip
    for place, (first, last) in enumerate(groups, start=1):
        x = 1 + place * BRACKET / WIDE
        ends = [1 - (line + 0.5) / len(labels) for line in (first - 0.25, last + 0.25)]
        axes.plot([x, x], ends, color=INK, lw=2, transform=axes.transAxes, clip_on=False)
    _ruler(axes, critical.difference, len(labels))
    axes.set_xlabel("mean rank (1: best)", fontsize=8)
    headline(
        figure,
        f"{title}: critical difference of mean ranks",
        f"{critical.blocks} blocks, a block being one seed on one task. Friedman's test: p "
        f"{_chance(critical.p)}.\nBars at the right join entries within the critical difference "
        f"{critical.difference:.2f} (Nemenyi, 5 % over all pairs).\nBlocks of a task share its "
        "test items: other items could change ranks more than this shows.",
    )
    return figure


def alike(means: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """First and last of the largest runs of ascending mean ranks that span at most this much."""
    runs: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = max(n for n in range(first, len(means)) if means[n] - means[first] <= difference)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def _ruler(axes: "Axes", length: float, entries: int) -> None:
    """The critical difference to scale, in the axes' upper right where no good rank is."""
    right = entries + 0.2
    left = max(right - length, 0.7)
    axes.plot([left, right], [0, 0], color=SOFT, lw=1.2, marker="|", ms=7)
    axes.text((left + right) / 2, 0.45, "critical difference", fontsize=7, color=SOFT, ha="center",
              va="top")  # fmt: skip


def _chance(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def slope_figure(changes: Sequence[RankChange], about: str, left: str, right: str) -> "Figure":
    """One line an entry from its place on one board to that on the other, names at both ends.

    Coloured and thick where the two ranges of ranks do not touch.
    """
    from matplotlib.figure import Figure

    labels = [f"{change.label}  15 (10-15)" for change in changes]
    names, high = names_width(labels) + 0.35, STEP * len(changes) + 0.1
    width, height = 2 * names + SLOPE, OVER + high + 0.15
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((names / width, 0.15 / height, SLOPE / width, high / height))
    axes.set(xlim=(0, 1), ylim=(len(changes) + 0.5, 0.5), xticks=[], yticks=[])
    axes.grid(visible=False)
    for modality in axes.spines.values():
        modality.set_visible(False)
    for change in changes:
        _slope(axes, change)
    for x, name in ((0, left), (1, right)):
        axes.annotate(name, (x, 1), xycoords="axes fraction", xytext=(0, 4), ha="center",
                      textcoords="offset points", fontsize=9, weight="bold")  # fmt: skip
    headline(
        figure,
        f"{about}: how ranks change",
        "Place, and in brackets the middle 95 % of places when seeds and items are resampled.\n"
        "Blue rises and orange falls by more than these ranges allow.",
    )
    return figure


def _slope(axes: "Axes", change: RankChange) -> None:
    """One entry's line, and its name, place and range at both ends."""
    colour = {"up": GOOD, "down": BAD, "": SOFT}[change.verdict]
    ends = [change.before, change.after]
    axes.plot([0, 1], ends, "o-", color=colour, lw=2.2 if change.verdict else 0.9, ms=4,
              clip_on=False)  # fmt: skip
    name = shorten(change.label)
    first, last = change.before_range, change.after_range
    texts = (
        (f"{name}  {change.before}  ({first[0]:.3g}-{first[1]:.3g})", "right", -7),
        (f"{change.after}  ({last[0]:.3g}-{last[1]:.3g})  {name}", "left", 7),
    )
    for x, (text, modality, away) in enumerate(texts):
        axes.annotate(text, (x, ends[x]), fontsize=8, ha=modality, va="center_baseline",
                      color=colour if change.verdict else INK, xytext=(away, 0),
                      textcoords="offset points", annotation_clip=False)  # fmt: skip
