"""Draw several scores side by side, differences to the control, reliance."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.boards.board import Board, BoardRow
from steelyard.leaderboards.boards.cells import DIRECTIONS, words
from steelyard.leaderboards.boards.columns import NO_IMAGE, Column
from steelyard.leaderboards.boards.plots.costs import bar_of
from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: panel, room right of and below it with the next title, heading with the first title.
WIDE, GAP, UNDER, OVER = 1.5, 0.22, 0.72, 1.02
ACROSS = 5
"""Panels in a line."""


def several_figures(
    board: Board, title: str, look: Mapping[str, Mark]
) -> dict[str, Callable[[], "Figure"]]:
    """Return what draws each figure, by the ending of its file name."""
    drawings: dict[str, Callable[[], Figure]] = {"scores": partial(_scores, board, title, look)}
    if any(row.differences for row in board.rows):
        drawings["differences"] = partial(_differences, board, title)
    if any(row.reliance for row in board.rows):
        drawings["reliance"] = partial(_reliance, board, title)
    return drawings


def _grid(columns: Sequence[Column], rows: Sequence[BoardRow]) -> tuple["Figure", list["Axes"]]:
    """Lay out a panel per column, its task in small print above: one line is too narrow."""
    figure, grid = style.named_panels(
        [row.label for row in rows], [WIDE] * ACROSS, count=len(columns), gap=GAP, top=OVER,
        bottom=UNDER,
    )  # fmt: skip
    offset: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    for axes, column in zip(grid, columns, strict=True):
        metric = words(f"{column.subset} {column.metric}".strip())
        axes.set_title(metric + DIRECTIONS[column.higher_is_better], fontsize=8, pad=3)
        task = words(column.task)
        axes.annotate(task, (0, 1), (0, 15), fontsize=7, color=style.SOFT, va="bottom", **offset)
    return figure, grid


def _scores(board: Board, title: str, look: Mapping[str, Mark]) -> "Figure":
    """Draw every clean number in its own panel, which shows trades between two numbers."""
    figure, grid = _grid(board.clean, board.rows)
    for axes, column in zip(grid, board.clean, strict=True):
        bars = [bar_of(row.scores[column.name]) for row in board.rows]
        for row, bar in zip(board.rows, bars, strict=True):
            if row.label == board.control:
                axes.axvline(bar.mean, color=style.SOFT, lw=0.8, ls=(0, (4, 3)), zorder=0.8)
        looks = [look[row.label] for row in board.rows]
        style.row_intervals(axes, list(zip(range(len(bars)), looks, bars, strict=True)))
    compared = any(row.label == board.control for row in board.rows)
    dashed = f" Dashed: {board.control}." if compared else ""
    style.headline(
        figure,
        f"{title}: clean scores side by side (%)",
        f"Bars: 95 % intervals.{dashed} ↓ lower is better; no arrow: only describes.\n"
        "Rows are ordered by the composite of all panels.",
    )
    return figure


def _differences(board: Board, title: str) -> "Figure":
    rows = [row for row in board.rows if row.differences]
    # A verdict needs a direction.
    columns = [column for column in board.clean if column.compared]
    figure, grid = _grid(columns, rows)
    for axes, column in zip(grid, columns, strict=True):
        axes.axvline(0, color=style.INK, lw=0.8)
        changes = [row.differences[column.name] for row in rows]
        style.row_intervals(axes, [
            (line, style.VERDICT_MARKS[change.verdict], bar_of(change.interval))
            for line, change in enumerate(changes)
        ])  # fmt: skip
    style.headline(
        figure,
        f"{title}: difference to {board.control} (percentage points)",
        "Paired by seed and item, 95 % intervals. Blue ▲ better, orange ▼ worse after Holm's "
        "correction in a panel.\n↓ lower is better: there, better is left of zero.",
    )
    return figure


def _reliance(board: Board, title: str) -> "Figure":
    columns = [column for column in board.corrupted if column.name.endswith(NO_IMAGE)]
    main = {column.task: column.name for column in board.clean if column.main}
    figure, grid = _grid(columns, board.rows)
    for axes, column in zip(grid, columns, strict=True):
        for line, row in enumerate(board.rows):
            full, blank = row.scores[main[column.task]], row.scores[column.name]
            ends = [100 * blank.mean, 100 * full.mean]
            axes.plot(ends, [line, line], color=style.FAINT, lw=3, zorder=0.9)
            for score, face in ((blank, "white"), (full, style.GOOD)):
                low, mean, high = bar_of(score)
                axes.plot([low, high], [line, line], color=style.GOOD, lw=1.3, alpha=0.7,
                          solid_capstyle="round")  # fmt: skip
                axes.plot(mean, line, "o", ms=5, mfc=face, mec=style.GOOD, mew=1, zorder=3)
    style.headline(
        figure,
        f"{title}: with the image and without (%)",
        "Filled: with the image. Open: image removed. Bars: 95 % intervals.\n"
        "A short distance means that the answers hardly depend on the image.",
    )
    return figure
