"""Draw a reliance profile: scores by visible modality, unchanged answers, conflicts."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import FAINT, IMAGE, INK, SOFT, TEXT, Figures
from steelyard.leaderboards.reliance.numbers import Diagnosis, TaskReliance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 14
"""Rows of the figure; the table has all."""
VIEWS = {"neither": (FAINT, "o"), "text": (TEXT, "s"), "image": (IMAGE, "D")}
"""Colour and shape of each view."""
ROW = 0.34
"""Inches of a row."""


def figures(name: str, diagnosis: Diagnosis) -> Figures:
    """Return the figure by its name; nothing without a score."""
    parts = [part for part in diagnosis.parts if "score.full" in part.numbers]
    return {name: partial(_figure, diagnosis.model, parts[:MOST])} if parts else {}


def _figure(model: str, parts: Sequence[TaskReliance]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.3, ROW * len(parts) + 2), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(3.4, 1.5, 1.5))
    for axes, draw in zip(panels, (_scores, _unchanged, _conflicts), strict=True):
        style.name_rows(axes, [part.name for part in parts], with_names=axes is panels[0])
        axes.set_xlim(-3, 103)
        draw(axes, parts)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7.5)
    style.heading(
        figure,
        f"What {style.shorten(model)} relies on",
        "Blue bar: the gain from the image. Filled: the other modality is blank; hollow: it is "
        "another item's. Bars through marks: 95 % intervals.",
    )
    return figure


def _scores(axes: "Axes", parts: Sequence[TaskReliance]) -> None:
    for row, part in enumerate(parts):
        full, text = part.numbers["score.full"], part.numbers.get("score.text.shuffled")
        if text is not None:
            axes.hlines(row, 100 * text.mean, 100 * full.mean, IMAGE, lw=6, alpha=0.25, zorder=1)
    marks: list[tuple[str, str, dict[str, Any]]] = []
    for view, (colour, shape) in VIEWS.items():
        look = {"color": colour, "marker": shape}
        label = view if view == "neither" else f"{view} only"
        marks.append((f"score.{view}.shuffled", "", {**look, "mfc": "white", "ms": 4.5}))
        marks.append((f"score.{view}.blank", label, {**look, "mec": "white", "ms": 6}))
    full_look = {"color": INK, "marker": "X", "mec": "white", "ms": 7}
    marks.append(("score.full", "image and text", full_look))
    for name, label, look in marks:
        rows = {row: part.numbers[name] for row, part in enumerate(parts) if name in part.numbers}
        style.error_bars(axes, rows, upright=False, ls="", mew=0.7, label=label, **look)
    axes.set_title("score by visible modality (%)", fontsize=8.5, pad=6)
    metrics = sorted({part.metric.replace("_", " ") for part in parts})
    axes.set_xlabel(" / ".join(metrics), fontsize=8)


def _unchanged(axes: "Axes", parts: Sequence[TaskReliance]) -> None:
    name = "same.text.blank"
    same = {row: part.numbers[name] for row, part in enumerate(parts) if name in part.numbers}
    means = [100 * interval.mean for interval in same.values()]
    bars = axes.barh(list(same), means, height=0.5, color=TEXT, alpha=0.75)
    axes.bar_label(bars, fmt="%.0f", label_type="center", fontsize=7.5, color="white")
    axes.set_title("same answer\nwithout the image (%)", fontsize=8.5, pad=6)


def _conflicts(axes: "Axes", parts: Sequence[TaskReliance]) -> None:
    for row, part in enumerate(parts):
        if not part.conflict:
            axes.text(0, row, "no conflict", fontsize=7, va="center", color=SOFT)
            continue
        text, image = (100 * part.numbers[f"conflict.{name}"].mean for name in ("text", "image"))
        # Rounding errors can take the sum slightly above 100.
        neither = max(0.0, 100 - text - image)
        by_text = axes.barh(row, text, height=0.5, color=TEXT, alpha=0.75)
        axes.barh(row, neither, left=text, height=0.5, color=FAINT)
        by_image = axes.barh(row, image, left=text + neither, height=0.5, color=IMAGE, alpha=0.75)
        for bars, value in ((by_text, text), (by_image, image)):
            if value > 12:  # two digits fit into the bar
                axes.bar_label(bars, fmt="%.0f", label_type="center", fontsize=7.5, color="white")
    axes.set_title("where they disagree,\nfollows text | image (%)", fontsize=8.5, pad=6)
