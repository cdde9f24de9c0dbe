"""The look of every plot, and saving one so that equal boards give equal bytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#c8c8c8"
# Okabe and Ito's palette without its yellow, which vanishes on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F3C8D")
MARKERS = ("o", "s", "D", "^", "v")
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "svg.hashsalt": "steelyard",
    "text.parse_math": False,
}
"""Labels are names, never formulas: a dollar sign in one is a dollar sign."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How one entry looks in every plot; colour and shape both tell it apart."""

    colour: str
    marker: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """A data point that wants its label at the right edge of the axes."""

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


def label_right(
    figure: "Figure", axes: "Axes", anchors: Sequence[Anchor], look: Mapping[str, Mark]
) -> None:
    """Name the points in a column right of the axes, spread so that no two names overlap.

    The axes' limits must be final: the leader lines start at the points' places on the page.
    """
    ordered = sorted(anchors, key=lambda anchor: (anchor.y, anchor.label))
    places = [_fraction(axes, anchor) for anchor in ordered]
    height = figure.get_size_inches()[1] * axes.get_position().height
    heights = _spread([y for _, y in places], step=0.155 / height)
    for anchor, (x, y), at in zip(ordered, places, heights, strict=True):
        mark = look[anchor.label]
        axes.plot(
            [x, 1.0, 1.03], [y, at, at], color=mark.colour, lw=0.5, alpha=0.6,
            transform=axes.transAxes, clip_on=False, zorder=1,
        )  # fmt: skip
        axes.plot(
            1.03, at, mark.marker, color=mark.colour, ms=4.5, transform=axes.transAxes,
            clip_on=False,
        )  # fmt: skip
        axes.text(
            1.05, at, shortened(anchor.label), color=INK, va="center", ha="left", fontsize=8,
            transform=axes.transAxes,
        )  # fmt: skip


def shortened(label: str) -> str:
    """At most 26 characters, cut in the middle: long labels often differ only at their end."""
    return label if len(label) <= 26 else f"{label[:14]}…{label[-11:]}"


def save(figure: "Figure") -> dict[str, bytes]:
    """The figure as ``png`` (150 dots per inch) and ``svg``, without dates or versions."""
    made = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata=metadata)
        made[kind] = out.getvalue()
    return made


def _fraction(axes: "Axes", anchor: Anchor) -> tuple[float, float]:
    page = axes.transData.transform((anchor.x, anchor.y))
    x, y = axes.transAxes.inverted().transform(page)
    return float(x), float(y)


def _spread(heights: Sequence[float], step: float) -> list[float]:
    """Move ascending heights apart to at least ``step``, each group centred on its own mean."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], step) < _top(groups[-2], step) + step:
            last = groups.pop()
            groups[-1].extend(last)
    return [_bottom(group, step) + step * i for group in groups for i in range(len(group))]


def _bottom(group: Sequence[float], step: float) -> float:
    return sum(group) / len(group) - step * (len(group) - 1) / 2


def _top(group: Sequence[float], step: float) -> float:
    return sum(group) / len(group) + step * (len(group) - 1) / 2
