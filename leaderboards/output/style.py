"""Marks, scales and name columns of every figure; equal boards give equal bytes."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("steelyard.mplstyle")
INK, SOFT, FAINT, GRID = "#222222", "#6e6e6e", "#c8c8c8", "#ececec"
# Okabe and Ito's palette without its yellow, which vanishes on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F3C8D")
GOOD, BAD = "#0072B2", "#D55E00"
"""Better and worse than the control."""
BAND = "#f2f2f2"
"""Background of a row."""
TEXT, IMAGE = "#D55E00", "#0072B2"
"""Colours of the two modalities."""
HATCHES = ("", "////", "....", "xxxx", "----", "||||", "oooo", "\\\\\\\\")
MARKERS = ("o", "s", "D", "^", "v")
SIZES = {"o": 6.2, "s": 5.5, "D": 5.2, "^": 6.8, "v": 6.8, "X": 6.8}
"""Points across at which the shapes look equally large."""
# Inches: room left of, between, below and above the axes; heights of a name and of small print.
LEFT, BETWEEN, BOTTOM, TOP = 0.65, 0.65, 0.55, 0.8
NAME, PRINT = 0.18, 0.15
GUTTER = 0.4
"""Inches right of the axes in which the leader lines fan out to the names."""
Entry = TypeVar("Entry")
KINDS: Mapping[str, Mapping[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
"""Files of a figure by ending, with the metadata that must not be written."""
Figures = Mapping[str, Callable[[], "Figure"]]
"""Functions that draw each figure, by name."""
MOST = 25
"""Entries of a figure at most; the tables have all."""
LONGEST = 40
"""Characters of a name before it is cut."""
LETTER, LINE = 0.066, 0.21
"""Inches: average width of a letter; height of a row with one entry."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Look of one entry in every figure."""

    colour: str
    marker: str


VERDICT_MARKS = {"better": Mark(GOOD, "^"), "worse": Mark(BAD, "v"), "": Mark(SOFT, "o")}


@dataclass(frozen=True, slots=True)
class Anchor:
    """Data point to be named in the column right of the axes."""

    label: str
    x: float
    y: float


class Bar(NamedTuple):
    """Interval as drawn, in percent for fractions."""

    low: float
    mean: float
    high: float


def marks(labels: Sequence[str], control: str) -> dict[str, Mark]:
    """Return the look of each label, by name order; the control is black."""
    # By name and not by rank, so that an entry looks the same on every board.
    look = {
        label: Mark(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        for index, label in enumerate(sorted(set(labels) - {control}))
    }
    return look | {control: Mark(INK, "X")}


def panels(
    widths: Sequence[float],
    height: float,
    *,
    count: int | None = None,
    left: float = LEFT,
    gap: float = BETWEEN,
    top: float = TOP,
    bottom: float = BOTTOM,
) -> tuple["Figure", list["Axes"]]:
    """Return a figure and its panels, by default one line of panels of these widths.

    All sizes are inches. ``count`` panels take as many lines as they need; ``bottom`` is free below
    each line, the titles of the next one included, and ``gap`` right of each panel.
    """
    from matplotlib.figure import Figure

    count = len(widths) if count is None else count
    widths = widths[:count]
    lines = math.ceil(count / len(widths))
    figure_width = left + sum(widths) + gap * len(widths)
    figure_height = top + lines * (height + bottom)
    figure = Figure(figsize=(figure_width, figure_height))
    grid = figure.add_gridspec(
        lines, len(widths), width_ratios=widths, left=left / figure_width,
        right=1 - gap / figure_width, bottom=bottom / figure_height, top=1 - top / figure_height,
        wspace=gap * len(widths) / sum(widths), hspace=bottom / height,
    )  # fmt: skip
    cells = [divmod(index, len(widths)) for index in range(count)]
    return figure, [figure.add_subplot(grid[cell]) for cell in cells]


def score_height(names: int) -> float:
    """Return inches of a panel with a column of names right of it."""
    return max(3.0, NAME * names)


def named_panels(
    labels: Sequence[str], widths: Sequence[float], **room: Any
) -> tuple["Figure", list["Axes"]]:
    """Return panels with a row per entry, the first on top; ``room`` as in ``panels``."""
    height = LINE * len(labels) + 0.1
    figure, grid = panels(widths, height, left=names_width(labels), **room)
    for index, axes in enumerate(grid):
        name_rows(axes, labels, with_names=index % len(widths) == 0)
    return figure, grid


def names_width(labels: Sequence[str]) -> float:
    """Return the width of a column of names with its margin, in inches."""
    return max(LEFT, LETTER * max(len(shorten(label)) for label in labels) + 0.15)


def name_rows(axes: "Axes", labels: Sequence[str], *, with_names: bool) -> None:
    """Prepare one row per entry, the first on top, with the names if ``with_names``."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(len(labels) - 0.5, -0.5)
    # One call for all grid lines is ten times faster than a tick for each.
    rows = range(len(labels) if with_names else 0)
    axes.set_yticks(rows, [shorten(labels[row]) for row in rows], fontsize=8)
    axes.grid(visible=False, axis="y")
    transform = axes.get_yaxis_transform()
    axes.hlines(range(len(labels)), 0, 1, GRID, lw=0.8, zorder=0.5, transform=transform)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.spines["left"].set_visible(False)


def headline(figure: "Figure", title: str, reading: str) -> None:
    """Write the title, and below it in small print how to read the figure."""
    width, height = figure.get_size_inches()
    figure.text(LEFT / width, 1 - 0.1 / height, title, fontsize=10.5, weight="bold", va="top")
    figure.text(LEFT / width, 1 - 0.33 / height, reading, fontsize=7.5, color=SOFT, va="top")


def heading(figure: "Figure", title: str, reading: str = "") -> None:
    """Write title and reading of a figure with a constrained layout, which makes room for them."""
    # The layout knows one title only: the reading, below a line left free for the bold title.
    figure.suptitle(f"\n\n{reading}", x=0.01, ha="left", fontsize=7.5, color=SOFT)
    figure.text(0.01, 0.99, title, va="top", fontsize=10.5, weight="bold")


def error_bars(
    axes: "Axes", intervals: Mapping[int, Interval], *, upright: bool, **look: Any
) -> None:
    """Draw fractions in percent with intervals, by position on the other axis."""
    if intervals:
        means, lows, highs = 100 * np.transpose([one.ends for one in intervals.values()])
        errors, positions = (means - lows, highs - means), list(intervals)
        xs, ys = (positions, means) if upright else (means, positions)
        axes.errorbar(xs, ys, yerr=errors if upright else None, xerr=None if upright else errors,
                      elinewidth=1, **look)  # fmt: skip


def off_scale(
    spans: Mapping[str, tuple[float, float]], *, higher_is_better: bool = True
) -> set[str]:
    """Return labels so far behind that they would take more than half of the scale.

    ``spans`` has the lowest and highest value of each entry. These are the entries after a gap that
    is wider than the range of all entries before it; those must be half of all and at least two.
    A gap below a fifth of the best value does not count: near ties stay on the scale.
    """
    sign = 1 if higher_is_better else -1
    ends = {label: sorted((sign * low, sign * high)) for label, (low, high) in spans.items()}
    order = sorted(ends, key=lambda label: (-ends[label][1], label))
    best = low = ends[order[0]][1]
    for index, label in enumerate(order):
        enough = index >= max(2, len(order) / 2)
        if enough and low - ends[label][1] > max(best - low, abs(best) / 5):
            return set(order[index:])
        low = min(low, ends[label][0])
    return set()


def axis_limits(worst: float, best: float, below: float, above: float) -> tuple[float, float]:
    """Return limits that leave fractions ``below`` and ``above`` of the axis free at its ends.

    If ``worst`` is the larger of the two, as for losses, the axis is inverted.
    """
    # Equal scores have no range, and an axis needs one.
    span = ((best - worst) or 1.0) / (1 - below - above)
    return worst - below * span, best + above * span


def inches(axes: "Axes") -> tuple[float, float]:
    """Return width and height of the axes."""
    dpi = axes.figure.dpi
    return float(axes.bbox.width / dpi), float(axes.bbox.height / dpi)


def dots(
    axes: "Axes",
    points: Sequence[tuple[Mark, float, float]],
    *,
    smaller: float = 0.0,
    edge: float = 0.6,
    **style: Any,
) -> None:
    """Draw points (mark, x, y), all of one shape in one call, which is much faster.

    The control's shape is last, so that it is on top.
    """
    for shape in SIZES:
        same_shape = [point for point in points if point[0].marker == shape]
        if not same_shape:
            continue
        looks, xs, ys = zip(*same_shape, strict=True)
        axes.scatter(
            xs, ys, (SIZES[shape] - smaller) ** 2, [mark.colour for mark in looks], marker=shape,
            edgecolors="white", linewidths=edge, **style,
        )  # fmt: skip


def lines(
    axes: "Axes", curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], **style: Any
) -> None:
    """Draw lines (colour, xs, ys) in one call; the axes' limits stay."""
    from matplotlib.collections import LineCollection

    paths = [list(zip(xs, ys, strict=True)) for _, xs, ys in curves]
    colours = [colour for colour, _, _ in curves]
    axes.add_collection(LineCollection(paths, colors=colours, **style), autolim=False)


def row_intervals(axes: "Axes", rows: Sequence[tuple[float, Mark, Bar]]) -> None:
    """Draw an interval in each row (height, mark, interval)."""
    if rows:
        ys, looks, bars = zip(*rows, strict=True)
        ends = [bar.low for bar in bars], [bar.high for bar in bars]
        colours = [mark.colour for mark in looks]
        axes.hlines(ys, *ends, colors=colours, lw=1.3, alpha=0.7, capstyle="round")
        means = [(mark, bar.mean, y) for y, mark, bar in rows]
        dots(axes, means, smaller=0.9, edge=0.5, zorder=2.5)


def draw_curves(
    axes: "Axes",
    xs: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    look: Mapping[str, Mark],
    *,
    first: int = 0,
) -> None:
    """Draw each entry's values over ``xs`` as a line, with points from index ``first`` on."""
    paths = [(look[label].colour, xs, values) for label, values in curves.items()]
    lines(axes, paths, lw=1.25, alpha=0.9, zorder=2.5)
    points = [
        (look[label], x, value)
        for label, values in curves.items()
        for x, value in [*zip(xs, values, strict=True)][first:]
    ]
    dots(axes, points, zorder=3)


def name_points(axes: "Axes", anchors: Sequence[Anchor], look: Mapping[str, Mark]) -> None:
    """Name points in a column right of the axes, spread so that names do not overlap.

    The axes' limits must be final. Points outside them are named in grey without a line.
    """
    width, height = inches(axes)
    gutter = 1 + GUTTER / width
    # By pixels, which is right for logarithmic and inverted axes too.
    to_axes = axes.transData + axes.transAxes.inverted()
    positions = [(to_axes.transform((anchor.x, anchor.y)), anchor.label) for anchor in anchors]
    points = sorted((float(y), float(x), label) for (x, y), label in positions)
    name_ys = spread([y for y, _, _ in points], step=NAME / height)
    inside, leaders, ends = [], [], []
    for (y, x, label), name_y in zip(points, name_ys, strict=True):
        mark, is_inside = look[label], 0 <= x <= 1 and 0 <= y <= 1
        if is_inside:
            inside.append((mark.colour, (x, 1), (y, y)))
            leaders.append((mark.colour, (1, gutter), (y, name_y)))
        ends.append((mark, gutter, name_y))
        axes.text(
            gutter + 0.1 / width, name_y, shorten(label), color=INK if is_inside else SOFT,
            fontsize=8, va="center_baseline", transform=axes.transAxes,
        )  # fmt: skip
    outside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    lines(axes, inside, lw=0.6, ls=(0, (1, 3)), alpha=0.6, zorder=1, **outside)
    lines(axes, leaders, lw=0.6, alpha=0.6, zorder=1, **outside)
    dots(axes, ends, smaller=1, edge=0.4, zorder=2, **outside)


def select_entries(
    title: str, entries: Sequence[Entry], control: str, label: Callable[[Entry], str]
) -> tuple[str, tuple[Entry, ...]]:
    """Return title and entries; of more than ``MOST``, the first ones and the control."""
    if len(entries) <= MOST:
        return title, tuple(entries)
    selected = tuple(
        entry for rank, entry in enumerate(entries) if rank < MOST or label(entry) == control
    )
    return f"{title}, best {MOST} of {len(entries)}", selected


def shorten(label: str) -> str:
    """Cut to ``LONGEST`` characters in the middle: names often differ only at their end."""
    half = LONGEST // 2
    return label if len(label) <= LONGEST else f"{label[:half]}…{label[1 - half :]}"


def spread(heights: Sequence[float], step: float) -> list[float]:
    """Move ascending heights as little as possible, ``step`` apart and within 0 to 1.

    After subtracting ``step`` times the index the heights need only ascend: isotonic regression.
    """
    from scipy.optimize import isotonic_regression

    steps = step * np.arange(len(heights))
    levels = isotonic_regression(np.array(heights) - steps).x
    return list(np.clip(levels, 0, 1 - steps[-1]) + steps)


def render(figures: Figures) -> dict[str, bytes]:
    """Draw figures in the common style, as ``name.png`` and ``name.svg``."""
    from matplotlib import style

    with style.context(STYLE, after_reset=True):  # a user's matplotlibrc must not show
        return {
            f"{name}.{kind}": content
            for name, draw in figures.items()
            for kind, content in _save(draw()).items()
        }


def _save(figure: "Figure") -> dict[str, bytes]:
    """Return the figure by kind, the PNG at 150 dots per inch, without dates or versions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lays out
        figure.set_layout_engine("none")
    # Computed once for both kinds: matplotlib would draw each figure twice to find it.
    box = figure.get_tightbbox(canvas.get_renderer()).padded(0.1)  # type: ignore[no-untyped-call]
    contents = {}
    for kind, metadata in KINDS.items():
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata=metadata, bbox_inches=box)
        contents[kind] = out.getvalue()
    return contents
