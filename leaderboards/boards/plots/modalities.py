"""Draw the score of each modality alone, and how it differs from the control."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.plots.costs import bar_of
from steelyard.leaderboards.boards.tradeoff import OTHER
from steelyard.leaderboards.output import style
from steelyard.leaderboards.stats.differences import ControlDifference
from steelyard.tasks.corruptions.variants import CLEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: panel of scores, panel of differences, room between, below and above them.
WIDE, NARROW, GAP, UNDER, OVER = 2.5, 1.2, 0.25, 0.4, 0.95
SHAPES = {"text": (style.TEXT, "s"), "image": (style.IMAGE, "D")}


def modalities_figure(board: Board, title: str) -> "Figure":
    """Draw a line per entry: both modalities and the clean score, then differences to the control.

    Entries whose gap closes at the cost of the strong modality or of clean inputs are marked.
    """
    traded = {e.label for e in board.rows if e.tradeoff and e.tradeoff.traded}
    labels = [f"{e.label} ‡" if e.label in traded else e.label for e in board.rows]
    widths = [WIDE, *[NARROW] * 4]
    figure, (axes, *narrow) = style.named_panels(labels, widths, gap=GAP, top=OVER, bottom=UNDER)
    _scores(axes, board)
    changes: dict[str, list[ControlDifference | None]] = {
        name: [e.tradeoff.by_name[part] if e.tradeoff else None for e in board.rows]
        for name, part in (
            (f"{board.strong_modality} (strong)", "strong"),
            (f"{OTHER[board.strong_modality]} (weak)", "weak"),
            ("gap of the two", "gap"),
        )
    }
    changes[CLEAN] = [entry.differences.get(CLEAN) for entry in board.rows]
    for axes, (name, differences) in zip(narrow, changes.items(), strict=True):
        _differences(axes, differences, 100 if board.percent else 1)
        axes.set_title(f"Δ {name}", fontsize=8, pad=3)
    mark = " ‡ gap closed at the cost of the strong modality or clean inputs." if traded else ""
    style.headline(
        figure,
        f"{title}: both modalities and the cost of balance",
        f"Left: with text alone (square), image alone (diamond), both (bar). Right: differences to "
        f"{board.control}, 95 % intervals;\nblue ▲ better and orange ▼ worse after Holm's "
        f"correction; numbers: off scale.{mark}",
    )
    return figure


def _scores(axes: "Axes", board: Board) -> None:
    scale = 100 if board.percent else 1
    rows = np.arange(len(board.rows))
    means = {
        name: np.array([scale * entry.scores[name].mean for entry in board.rows])
        for name in (CLEAN, *OTHER)
    }
    axes.hlines(rows, means["text"], means["image"], colors=style.FAINT, lw=3, zorder=0.9)
    for modality, (colour, shape) in SHAPES.items():
        # The score of a modality is the one with the other corrupted.
        axes.plot(means[OTHER[modality]], rows, shape, color=colour, ms=5, mec="white", mew=0.5,
                  zorder=3)  # fmt: skip
    axes.vlines(means[CLEAN], rows - 0.32, rows + 0.32, colors=style.INK, lw=1.6, zorder=2)
    for line, entry in enumerate(board.rows):
        if entry.label == board.control:
            axes.axhspan(line - 0.5, line + 0.5, color=style.BAND, lw=0, zorder=0)
    unit = " (%)" if board.percent else ""
    better = "" if board.higher_is_better else ", lower is better"
    axes.set_title(f"{board.metric}{unit}{better}", fontsize=8, pad=3)


def _differences(
    axes: "Axes", differences: Sequence[ControlDifference | None], scale: float
) -> None:
    changes = {line: change for line, change in enumerate(differences) if change is not None}
    means = {line: scale * change.interval.mean for line, change in changes.items()}
    # Numbers replace means beyond thrice those of four fifths of the entries.
    sizes = sorted(map(abs, means.values()))
    reach = 3 * sizes[4 * (len(sizes) - 1) // 5]
    axes.axvline(0, color=style.INK, lw=0.8)
    bars = [
        (float(line), style.VERDICT_MARKS[change.verdict], bar_of(change.interval, scale))
        for line, change in changes.items()
        if abs(means[line]) <= reach
    ]
    style.row_intervals(axes, bars)
    for line in (line for line, mean in means.items() if abs(mean) > reach):
        mean, colour = means[line], style.VERDICT_MARKS[changes[line].verdict].colour
        axes.text(float(mean > 0), line, f"{mean:+.3g}", color=colour, fontsize=7,
                  ha="right" if mean > 0 else "left", va="center_baseline",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    for line in range(len(differences)):
        if line not in changes:
            axes.axhspan(line - 0.5, line + 0.5, color=style.BAND, lw=0, zorder=0)
