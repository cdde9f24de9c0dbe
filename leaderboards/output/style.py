"""The look of every plot: marks, scales, a column of names, and equal bytes for equal boards."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, FAINT = "#222222", "#6e6e6e", "#c8c8c8"
# Okabe and Ito's palette without its yellow, which vanishes on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F3C8D")
GOOD, BAD = "#0072B2", "#D55E00"
"""Better and worse than the control."""
TEXT, IMAGE = "#D55E00", "#0072B2"
"""Where the two sides are told apart."""
HATCHES = ("", "////", "....", "xxxx", "----", "||||", "oooo", "\\\\\\\\")
MARKERS = ("o", "s", "D", "^", "v")
SIZES = {"o": 6.2, "s": 5.5, "D": 5.2, "^": 6.8, "v": 6.8, "X": 6.8}
"""Points across at which the shapes look equally large."""
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # told, it is not looked for: a tenth of a figure's time
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "steelyard",
    "text.hinting": "none",  # hinted, text is wider or narrower at other resolutions and was cut
    "text.parse_math": False,
}
"""Labels are names, never formulas: a dollar sign in one is a dollar sign."""

# Inches: room left of, between, below and above the axes; the height of a name and of small print.
LEFT, BETWEEN, BOTTOM, TOP = 0.65, 0.65, 0.55, 0.8
NAME, PRINT = 0.18, 0.15
GUTTER = 0.4
"""Inches right of the axes in which the leader lines fan out to the names."""
Entry = TypeVar("Entry")
KINDS: Mapping[str, Mapping[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
"""Files of a figure by ending, with the dates and versions that are left out of each."""
Figures = Mapping[str, Callable[[], "Figure"]]
"""What draws each figure, by name; sent as it is to a process that helps to draw."""
MOST = 25
"""Entries of a figure, few enough to be told apart; the tables have all."""
LONGEST = 40
"""Characters of a name before it is cut."""
LETTER, LINE = 0.066, 0.21
"""Inches: a letter of a name, about; the line of an entry where each has one."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How one entry looks in every plot; colour and shape both tell it apart."""

    colour: str
    marker: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """A data point that wants its name in the column right of the axes."""

    label: str
    x: float
    y: float


def marks(labels: Sequence[str], control: str) -> dict[str, Mark]:
    """A look for each label, in name order; the control is black."""
    others = sorted(set(labels) - {control})
    look = {
        label: Mark(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, label in enumerate(others)
    }
    return look | {control: Mark(INK, "X")}


def panels(count: int, width: float, names: int) -> tuple["Figure", list["Axes"]]:
    """A row of panels, each ``width`` inches, high enough for a column of ``names`` names."""
    from matplotlib.figure import Figure

    high = max(3.0, NAME * names)
    across, up = LEFT + count * width + (count - 1) * BETWEEN, BOTTOM + high + TOP
    figure = Figure(figsize=(across, up))
    lefts = [(LEFT + place * (width + BETWEEN)) / across for place in range(count)]
    size = width / across, high / up
    return figure, [figure.add_axes((left, BOTTOM / up, *size)) for left in lefts]


def names_width(labels: Sequence[str]) -> float:
    """Inches that a column of names takes, a little air included."""
    return max(LEFT, LETTER * max(len(shortened(label)) for label in labels) + 0.15)


def name_rows(axes: "Axes", labels: Sequence[str], *, named: bool) -> None:
    """One line an entry, the first on top, with its name where ``named``."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(len(labels) - 0.5, -0.5)
    # Ticks and their labels take ten times as long as all lines of the grid at once.
    rows = range(len(labels) if named else 0)
    axes.set_yticks(rows, [shortened(labels[row]) for row in rows], fontsize=8)
    axes.grid(visible=False, axis="y")
    grid = {"colors": RC["grid.color"], "lw": 0.8, "zorder": 0.5}
    axes.hlines(range(len(labels)), 0, 1, transform=axes.get_yaxis_transform(), **grid)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.spines["left"].set_visible(False)


def headline(figure: "Figure", title: str, reading: str) -> None:
    """A title, and below it in small print how to read the figure."""
    across, up = figure.get_size_inches()
    figure.text(LEFT / across, 1 - 0.1 / up, title, fontsize=10.5, weight="bold", va="top")
    figure.text(LEFT / across, 1 - 0.33 / up, reading, fontsize=7.5, color=SOFT, va="top")


def off_scale(
    spans: Mapping[str, tuple[float, float]], *, higher_is_better: bool = True
) -> set[str]:
    """Labels so far behind that showing them would leave the others less than half the scale.

    ``spans`` holds the least and greatest value of each entry. Left out is what comes after a gap
    wider than everything before it, which must be half of the entries and at least two. A gap
    below a fifth of the best value leaves nothing out: near ties are no reason to.
    """
    sign = 1 if higher_is_better else -1
    ends = {label: sorted((sign * low, sign * high)) for label, (low, high) in spans.items()}
    order = sorted(ends, key=lambda label: (-ends[label][1], label))
    best = low = ends[order[0]][1]
    for place, label in enumerate(order):
        enough = place >= max(2, len(order) / 2)
        if enough and low - ends[label][1] > max(best - low, abs(best) / 5):
            return set(order[place:])
        low = min(low, ends[label][0])
    return set()


def framed(worst: float, best: float, below: float, above: float) -> tuple[float, float]:
    """Axis limits that leave these shares of the axis free at its ends.

    Where ``worst`` is the larger of the two, as for losses, the axis is upside down.
    """
    span = ((best - worst) or 1.0) / (1 - below - above)
    return worst - below * span, best + above * span


def inches(axes: "Axes") -> tuple[float, float]:
    """Width and height of the axes on paper."""
    dots = axes.figure.dpi
    return float(axes.bbox.width / dots), float(axes.bbox.height / dots)


def dots(
    axes: "Axes",
    shown: Sequence[tuple[Mark, float, float]],
    *,
    smaller: float = 0.0,
    edge: float = 0.6,
    **style: Any,
) -> None:
    """A point for each mark at x and y, all of a shape at once, which is much faster.

    The control has a shape of its own and lies on top.
    """
    for shape in SIZES:
        own = [each for each in shown if each[0].marker == shape]
        if not own:
            continue
        found, xs, ys = zip(*own, strict=True)
        axes.scatter(
            xs, ys, (SIZES[shape] - smaller) ** 2, [mark.colour for mark in found], marker=shape,
            edgecolors="white", linewidths=edge, **style,
        )  # fmt: skip


def lines(
    axes: "Axes", shown: Sequence[tuple[str, Sequence[float], Sequence[float]]], **style: Any
) -> None:
    """A line of each colour through its xs and ys, all at once; the axes' limits stay."""
    from matplotlib.collections import LineCollection

    paths = [list(zip(xs, ys, strict=True)) for _, xs, ys in shown]
    colours = [colour for colour, _, _ in shown]
    axes.add_collection(LineCollection(paths, colors=colours, **style), autolim=False)


def draw_curves(
    axes: "Axes",
    places: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    look: Mapping[str, Mark],
    *,
    first: int = 0,
) -> None:
    """Each entry's values at the places, joined by a line; points from the ``first`` place on."""
    drawn = [(look[label].colour, places, values) for label, values in curves.items()]
    lines(axes, drawn, lw=1.25, alpha=0.9, zorder=2.5)
    points = [
        (look[label], place, value)
        for label, values in curves.items()
        for place, value in [*zip(places, values, strict=True)][first:]
    ]
    dots(axes, points, zorder=3)


def name_points(axes: "Axes", anchors: Sequence[Anchor], look: Mapping[str, Mark]) -> None:
    """Name the points in a column right of the axes, spread so that no two names overlap.

    The axes' limits must be final. Points outside them are named in grey without a line.
    """
    wide, high = inches(axes)
    gutter = 1 + GUTTER / wide
    placed = sorted((_fraction(axes, a)[::-1], a.label) for a in anchors)
    heights = spread([y for (y, _), _ in placed], step=NAME / high)
    inside, leaders, ends = [], [], []
    for ((y, x), label), at in zip(placed, heights, strict=True):
        mark, shown = look[label], 0 <= x <= 1 and 0 <= y <= 1
        if shown:
            inside.append((mark.colour, (x, 1), (y, y)))
            leaders.append((mark.colour, (1, gutter), (y, at)))
        ends.append((mark, gutter, at))
        axes.text(
            gutter + 0.1 / wide, at, shortened(label), color=INK if shown else SOFT, fontsize=8,
            va="center_baseline", transform=axes.transAxes,
        )  # fmt: skip
    beside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    lines(axes, inside, lw=0.6, ls=(0, (1, 3)), alpha=0.6, zorder=1, **beside)
    lines(axes, leaders, lw=0.6, alpha=0.6, zorder=1, **beside)
    dots(axes, ends, smaller=1, edge=0.4, zorder=2, **beside)


def first_of(
    title: str, entries: Sequence[Entry], control: str, label: Callable[[Entry], str]
) -> tuple[str, tuple[Entry, ...]]:
    """All entries, or of many the first and the control, said so in the title."""
    if len(entries) <= MOST:
        return title, tuple(entries)
    kept = [each for n, each in enumerate(entries) if n < MOST or label(each) == control]
    return f"{title}, best {MOST} of {len(entries)}", tuple(kept)


def shortened(label: str) -> str:
    """At most ``LONGEST`` characters, cut in the middle: names often differ only at their end."""
    half = LONGEST // 2
    return label if len(label) <= LONGEST else f"{label[:half]}…{label[1 - half :]}"


def spread(heights: Sequence[float], step: float) -> list[float]:
    """Ascending heights moved as little as can be: ``step`` apart and within 0 to 1.

    The least squares solution. Without its share of the steps the sequence need only ascend, so
    neighbours out of order are pooled; the bounds then clip what comes out.
    """
    pools: list[list[float]] = []
    for place, height in enumerate(heights):
        pools.append([height - step * place])
        while len(pools) > 1 and fmean(pools[-1]) < fmean(pools[-2]):
            last = pools.pop()
            pools[-1].extend(last)
    room = 1 - step * (len(heights) - 1)
    levels = [min(max(fmean(pool), 0.0), room) for pool in pools for _ in pool]
    return [level + step * place for place, level in enumerate(levels)]


def render(makers: Figures) -> dict[str, bytes]:
    """Draw each figure in the house style: ``name.png`` and ``name.svg`` with their contents."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not show
        mpl.rcParams.update(RC)
        return {
            f"{name}.{kind}": content
            for name, make in makers.items()
            for kind, content in save(make()).items()
        }


def save(figure: "Figure") -> dict[str, bytes]:
    """The figure as ``png`` (150 dots per inch) and ``svg``, without dates or versions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lays out
        figure.set_layout_engine("none")
    # Found once for both kinds: matplotlib would draw each figure twice to find it.
    box = figure.get_tightbbox(canvas.get_renderer()).padded(0.1)  # type: ignore[no-untyped-call]
    made = {}
    for kind, metadata in KINDS.items():
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata=metadata, bbox_inches=box)
        made[kind] = out.getvalue()
    return made


def _fraction(axes: "Axes", anchor: Anchor) -> tuple[float, float]:
    page = axes.transData.transform((anchor.x, anchor.y))
    x, y = axes.transAxes.inverted().transform(page)
    return float(x), float(y)
