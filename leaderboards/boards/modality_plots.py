"""Draw the score of each modality alone, and how it differs from the control."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from steelyard.leaderboards.boards.board import Board, BoardEntry
from steelyard.leaderboards.boards.tradeoff import OTHER
from steelyard.leaderboards.output.style import (
    BAD,
    FAINT,
    GOOD,
    IMAGE,
    INK,
    LINE,
    SOFT,
    TEXT,
    headline,
    name_rows,
    names_width,
)
from steelyard.leaderboards.stats.differences import ControlDifference
from steelyard.tasks.corruptions.variants import CLEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: panel of scores, panel of differences, room between, below and above them.
WIDE, NARROW, GAP, UNDER, OVER = 2.5, 1.2, 0.25, 0.4, 0.95
LOOKS = {"better": (GOOD, "^"), "worse": (BAD, "v"), "": (SOFT, "o")}
SHAPES = {"text": (TEXT, "s"), "image": (IMAGE, "D")}


def modalities_figure(board: Board) -> "Figure":
    """Draw a line per entry: both modalities and the clean score, then differences to the control.

    Entries whose gap closes at the cost of the strong modality or of clean inputs are marked.
    """
    from matplotlib.figure import Figure

    traded = {e.label for e in board.entries if e.tradeoff and e.tradeoff.traded}
    labels = [f"{e.label} ‡" if e.label in traded else e.label for e in board.entries]
    names, high = names_width(labels), LINE * len(labels) + 0.1
    width, height = names + WIDE + 4 * (NARROW + GAP) + 0.1, OVER + high + UNDER
    figure = Figure(figsize=(width, height))
    box = UNDER / height, high / height
    axes = figure.add_axes((names / width, box[0], WIDE / width, box[1]))
    name_rows(axes, labels, with_names=True)
    _scores(axes, board)
    start = names + WIDE + GAP
    for title, pick in _panels(board).items():
        axes = figure.add_axes((start / width, box[0], NARROW / width, box[1]))
        name_rows(axes, labels, with_names=False)
        _differences(axes, board, title, pick)
        start += NARROW + GAP
    mark = " ‡ gap closed at the cost of the strong modality or clean inputs." if traded else ""
    headline(
        figure,
        f"{board.task}: both modalities and the cost of balance",
        f"Left: with text alone (square), image alone (diamond), both (bar). Right: differences to "
        f"{board.control}, 95 % intervals;\nblue ▲ better and orange ▼ worse after Holm's "
        f"correction; numbers: off scale.{mark}",
    )
    return figure


def _panels(board: Board) -> dict[str, Callable[[BoardEntry], ControlDifference | None]]:
    strong, weak = board.strong_modality, OTHER[board.strong_modality]
    return {
        f"{strong} (strong)": lambda entry: entry.tradeoff.strong if entry.tradeoff else None,
        f"{weak} (weak)": lambda entry: entry.tradeoff.weak if entry.tradeoff else None,
        "gap of the two": lambda entry: entry.tradeoff.gap if entry.tradeoff else None,
        CLEAN: lambda entry: entry.differences.get(CLEAN),
    }


def _scores(axes: "Axes", board: Board) -> None:
    scale = 100 if board.percent else 1
    rows = np.arange(len(board.entries))
    means = {
        name: np.array([scale * entry.scores[name].mean for entry in board.entries])
        for name in (CLEAN, *OTHER)
    }
    axes.hlines(rows, means["text"], means["image"], colors=FAINT, lw=3, zorder=0.9)
    for modality, (colour, shape) in SHAPES.items():
        axes.plot(means[OTHER[modality]], rows, shape, color=colour, ms=5, mec="white", mew=0.5,
                  zorder=3)  # fmt: skip
    axes.vlines(means[CLEAN], rows - 0.32, rows + 0.32, colors=INK, lw=1.6, zorder=2)
    for line, entry in enumerate(board.entries):
        if entry.label == board.control:
            axes.axhspan(line - 0.5, line + 0.5, color="#f2f2f2", lw=0, zorder=0)
    unit = " (%)" if board.percent else ""
    better = "" if board.higher_is_better else ", lower is better"
    axes.set_title(f"{board.metric}{unit}{better}", fontsize=8, pad=3)


def _differences(
    axes: "Axes", board: Board, title: str, pick: Callable[[BoardEntry], ControlDifference | None]
) -> None:
    scale = 100 if board.percent else 1
    all_changes = {line: pick(entry) for line, entry in enumerate(board.entries)}
    changes = {line: change for line, change in all_changes.items() if change is not None}
    means = {line: scale * change.interval.mean for line, change in changes.items()}
    # Numbers replace means beyond thrice those of four fifths of the entries.
    sizes = sorted(map(abs, means.values()))
    reach = 3 * sizes[4 * (len(sizes) - 1) // 5]
    axes.axvline(0, color=INK, lw=0.8)
    near = {line: change for line, change in changes.items() if abs(means[line]) <= reach}
    for verdict, (colour, shape) in LOOKS.items():
        rows = [line for line, change in near.items() if change.verdict == verdict]
        spans = [near[line].interval for line in rows]
        ends = scale * np.array([(i.low, i.mean, i.high) for i in spans]).reshape(-1, 3)
        axes.hlines(rows, ends[:, 0], ends[:, 2], colors=colour, lw=1.3, alpha=0.7,
                    capstyle="round")  # fmt: skip
        axes.plot(ends[:, 1], rows, shape, color=colour, ms=5, mec="white", mew=0.5)
    for line in (line for line in changes if line not in near):
        mean, (colour, _) = means[line], LOOKS[changes[line].verdict]
        axes.text(float(mean > 0), line, f"{mean:+.3g}", color=colour, fontsize=7,
                  ha="right" if mean > 0 else "left", va="center_baseline",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    for line in (line for line in all_changes if line not in changes):
        axes.axhspan(line - 0.5, line + 0.5, color="#f2f2f2", lw=0, zorder=0)
    axes.set_title(f"Δ {title}", fontsize=8, pad=3)
