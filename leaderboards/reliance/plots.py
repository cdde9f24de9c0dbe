"""Draw a reliance profile: scores by visible modality, unchanged answers, conflicts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.output.style import (
    FAINT,
    IMAGE,
    INK,
    LEFT,
    SOFT,
    TEXT,
    inches,
    render,
    shorten,
)
from steelyard.leaderboards.reliance.numbers import Diagnosis, TaskReliance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 14
"""Rows of the figure; the table has all."""
VIEWS = {
    "neither": ("neither", FAINT, "o"),
    "text": ("text only", TEXT, "s"),
    "image": ("image only", IMAGE, "D"),
}
"""Legend, colour and shape of each view."""
# Inches: the three panels, room between them, a row, room below and above.
WIDE, NARROW, GAP, ROW, UNDER, OVER = 3.4, 1.5, 0.35, 0.34, 0.95, 0.95
LETTER = 0.068
"""Average width of a letter in inches."""


def picture(name: str, diagnosis: Diagnosis) -> dict[str, bytes]:
    """Return the figure as PNG and SVG by file name; nothing without a score."""
    parts = [part for part in diagnosis.parts if "score.full" in part.numbers]
    if not parts:
        return {}
    return render({name: lambda: _figure(diagnosis.model, parts[:MOST])})


def _figure(model: str, parts: Sequence[TaskReliance]) -> "Figure":
    from matplotlib.figure import Figure

    names = max(LEFT, LETTER * max(len(shorten(part.name)) for part in parts) + 0.2)
    rows = ROW * len(parts) + 0.1
    total_width, total_height = names + WIDE + 2 * (NARROW + GAP) + 0.1, UNDER + rows + OVER
    figure = Figure(figsize=(total_width, total_height))
    x = names
    panels = []
    for width in (WIDE, NARROW, NARROW):
        box = (x / total_width, UNDER / total_height, width / total_width, rows / total_height)
        panels.append(figure.add_axes(box))
        x += width + GAP
    for axes, draw in zip(panels, (_scores, _unchanged, _conflicts), strict=True):
        _rows(axes, parts, with_names=axes is panels[0])
        draw(axes, parts)
    figure.text(0.1 / total_width, 1 - 0.1 / total_height, f"What {shorten(model)} relies on",
                fontsize=10.5, weight="bold", va="top")  # fmt: skip
    reading = (
        "Blue bar: the gain from the image. Filled: the other modality is blank; hollow: it is "
        "another item's. Bars through marks: 95 % intervals."
    )
    figure.text(
        0.1 / total_width, 1 - 0.33 / total_height, reading, fontsize=7.5, color=SOFT, va="top"
    )
    return figure


def _rows(axes: "Axes", parts: Sequence[TaskReliance], *, with_names: bool) -> None:
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_yticks(range(len(parts)))
    axes.set_yticklabels([shorten(part.name) for part in parts] if with_names else [], fontsize=8)
    axes.set_xlim(-3, 103)
    axes.set_xticks([0, 50, 100] if not with_names else [0, 20, 40, 60, 80, 100])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _mean(part: TaskReliance, name: str) -> float | None:
    interval = part.numbers.get(name)
    return None if interval is None else 100 * interval.mean


def _scores(axes: "Axes", parts: Sequence[TaskReliance]) -> None:
    for row, part in enumerate(parts):
        full, text = part.numbers["score.full"], part.numbers.get("score.text.shuffled")
        if text is not None:
            axes.plot([100 * text.mean, 100 * full.mean], [row, row], color=IMAGE, lw=6,
                      alpha=0.25, solid_capstyle="butt", zorder=1)  # fmt: skip
        for view, (_, colour, marker) in VIEWS.items():
            for way, filled in (("shuffled", False), ("blank", True)):
                _dot(axes, part, f"score.{view}.{way}", row, colour, marker, filled)
        axes.plot([100 * full.low, 100 * full.high], [row, row], color=INK, lw=1.1, zorder=3)
        axes.plot(100 * full.mean, row, "X", color=INK, ms=7, mec="white", mew=0.6, zorder=4)
    metrics = {part.metric for part in parts}
    axes.set_title("score by visible modality (%)", fontsize=8.5, pad=6)
    axes.set_xlabel(" / ".join(sorted(metrics)).replace("_", " "), fontsize=8)
    _legend(axes)


def _dot(
    axes: "Axes", part: TaskReliance, name: str, row: int, colour: str, marker: str, filled: bool
) -> None:
    interval = part.numbers.get(name)
    if interval is None:
        return
    style: dict[str, Any] = {"color": colour, "mec": "white" if filled else colour, "mew": 0.7}
    style |= {} if filled else {"mfc": "white"}
    axes.plot(
        [100 * interval.low, 100 * interval.high], [row, row], color=colour, lw=0.8, alpha=0.6
    )
    axes.plot(100 * interval.mean, row, marker, ms=6 if filled else 4.5, zorder=2.5, **style)


def _legend(axes: "Axes") -> None:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"ls": "", "mec": "white", "ms": 6}
    handles = [Line2D([], [], marker="X", color=INK, label="image and text", **style)]
    handles += [
        Line2D([], [], marker=marker, color=colour, label=label, **style)
        for label, colour, marker in reversed(VIEWS.values())
    ]
    # Below the axis label: 0.42 inches, whatever the number of rows.
    axes.legend(
        handles=handles, ncols=4, fontsize=7.5, loc="upper left", handletextpad=0.1,
        columnspacing=1.0, borderaxespad=0, bbox_to_anchor=(0, -0.42 / inches(axes)[1]),
    )  # fmt: skip


def _unchanged(axes: "Axes", parts: Sequence[TaskReliance]) -> None:
    for row, part in enumerate(parts):
        same = _mean(part, "same.text.blank")
        if same is None:
            continue
        axes.barh(row, same, height=0.5, color=TEXT, alpha=0.75)
        inside = same > 60  # a long bar leaves no room right of it
        axes.text(same + (-3 if inside else 3), row, f"{same:.0f}", fontsize=7.5, va="center",
                  ha="right" if inside else "left", color="white" if inside else INK)  # fmt: skip
    axes.set_title("same answer\nwithout the image (%)", fontsize=8.5, pad=6)


def _conflicts(axes: "Axes", parts: Sequence[TaskReliance]) -> None:
    for row, part in enumerate(parts):
        text, image = _mean(part, "conflict.text"), _mean(part, "conflict.image")
        if text is None or image is None:
            axes.text(0, row, "no conflict", fontsize=7, va="center", color=SOFT)
            continue
        # Rounding errors can take the sum slightly above 100.
        neither = max(0.0, 100 - text - image)
        axes.barh(row, text, height=0.5, color=TEXT, alpha=0.75)
        axes.barh(row, neither, left=text, height=0.5, color=FAINT)
        axes.barh(row, image, left=text + neither, height=0.5, color=IMAGE, hatch="////",
                  edgecolor="white", lw=0.0, alpha=0.85)  # fmt: skip
        if text > 12:  # two digits fit into the bar
            axes.text(2, row, f"{text:.0f}", fontsize=7.5, va="center", color="white")
        if image > 12:
            axes.text(98, row, f"{image:.0f}", fontsize=7.5, va="center", ha="right", color=INK,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    axes.set_title("where they disagree,\nfollows text | image (%)", fontsize=8.5, pad=6)
