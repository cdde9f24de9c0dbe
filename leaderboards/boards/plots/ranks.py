"""Draw ranks: the critical difference, and rank changes between two boards."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import Mark
from steelyard.leaderboards.stats.ranking import CriticalDifference, RankChange

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: width of ranks, brackets and slopes; room above and below.
WIDE, BRACKET, SLOPE, OVER, UNDER = 4.0, 0.14, 2.6, 0.95, 0.5
STEP = 0.22
"""Inches between two ranks of a slope chart."""


def critical_figure(critical: CriticalDifference, name: str, look: Mapping[str, Mark]) -> "Figure":
    """Draw mean ranks, the best on top, with a bracket around entries that do not differ."""
    title, labels = style.select_entries(name, list(critical.mean_ranks), "", str)
    means = [critical.mean_ranks[label] for label in labels]
    groups = close_runs(means, critical.difference)
    figure, (axes,) = style.named_panels(labels, [WIDE], top=OVER, bottom=UNDER)
    axes.set_xlim(0.6, max(len(labels), means[-1]) + 0.4)
    for line, (label, mean) in enumerate(zip(labels, means, strict=True)):
        mark = look[label]
        axes.plot(mean, line, mark.marker, color=mark.colour, ms=style.SIZES[mark.marker],
                  mec="white", mew=0.5, zorder=3)  # fmt: skip
    for index, (first, last) in enumerate(groups, start=1):
        x = 1 + index * BRACKET / WIDE
        ends = [1 - (line + 0.5) / len(labels) for line in (first - 0.25, last + 0.25)]
        axes.plot([x, x], ends, color=style.INK, lw=2, transform=axes.transAxes, clip_on=False)
    # The critical difference to scale, in the empty upper right of the axes.
    end = len(labels) + 0.2
    start = max(end - critical.difference, 0.7)
    axes.plot([start, end], [0, 0], color=style.SOFT, lw=1.2, marker="|", ms=7)
    axes.text((start + end) / 2, 0.45, "critical difference", fontsize=7, color=style.SOFT,
              ha="center", va="top")  # fmt: skip
    p = "below 0.001" if critical.p < 0.001 else f"{critical.p:.3f}"
    axes.set_xlabel("mean rank (1: best)", fontsize=8)
    style.headline(
        figure,
        f"{title}: critical difference of mean ranks",
        f"{critical.blocks} blocks; a block is one seed on one task. Friedman's test: p "
        f"{p}.\nBars at the right join entries within the critical difference "
        f"{critical.difference:.2f} (Nemenyi, 5 % over all pairs).\nBlocks of a task share its "
        "test items: other items could change ranks more than this shows.",
    )
    return figure


def close_runs(means: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return first and last index of maximal runs of ascending means within ``difference``."""
    runs: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = max(n for n in range(first, len(means)) if means[n] - means[first] <= difference)
        # A run inside the previous one adds no bracket.
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def slope_figure(changes: Sequence[RankChange], name: str, before: str, after: str) -> "Figure":
    """Draw a line per entry from its rank on one board to its rank on another.

    It is coloured and thick if the two ranges of ranks do not touch.
    """
    # Room for the widest rank and range.
    labels = [f"{change.label}  15 (10-15)" for change in changes]
    names, high = style.names_width(labels) + 0.35, STEP * len(changes) + 0.1
    figure, (axes,) = style.panels([SLOPE], high, left=names, gap=names, top=OVER, bottom=0.15)
    axes.set(xlim=(0, 1), ylim=(len(changes) + 0.5, 0.5), xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for change in changes:
        _slope(axes, change)
    for x, board in ((0, before), (1, after)):
        axes.annotate(board, (x, 1), xycoords="axes fraction", xytext=(0, 4), ha="center",
                      textcoords="offset points", fontsize=9, weight="bold")  # fmt: skip
    style.headline(
        figure,
        f"{name}: how ranks change",
        "Rank, and in brackets the middle 95 % of ranks when seeds and items are resampled.\n"
        "Blue rises and orange falls by more than these ranges allow.",
    )
    return figure


def _slope(axes: "Axes", change: RankChange) -> None:
    """Draw one entry's line, with name, rank and range at both ends."""
    colour = {"up": style.GOOD, "down": style.BAD, "": style.SOFT}[change.verdict]
    ends = [change.before, change.after]
    axes.plot([0, 1], ends, "o-", color=colour, lw=2.2 if change.verdict else 0.9, ms=4,
              clip_on=False)  # fmt: skip
    name = style.shorten(change.label)
    first, last = change.before_range, change.after_range
    texts = (
        (f"{name}  {change.before}  ({first[0]:.3g}-{first[1]:.3g})", "right", -7),
        (f"{change.after}  ({last[0]:.3g}-{last[1]:.3g})  {name}", "left", 7),
    )
    for x, (text, align, offset) in enumerate(texts):
        axes.annotate(text, (x, ends[x]), fontsize=8, ha=align, va="center_baseline",
                      color=colour if change.verdict else style.INK, xytext=(offset, 0),
                      textcoords="offset points", annotation_clip=False)  # fmt: skip
