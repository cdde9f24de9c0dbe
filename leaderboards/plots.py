"""A board's figures: what balance costs, what it gives up, how it fails, where compute went."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from steelyard.leaderboards.board import Board, Entry
from steelyard.leaderboards.measure import CLEAN
from steelyard.leaderboards.stats import Interval
from steelyard.leaderboards.style import (
    COLOURS,
    FAINT,
    INK,
    RC,
    Anchor,
    Mark,
    label_right,
    marks,
    save,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: the axes, and the room around them for tick labels, names at the right and titles.
WIDTH, LEFT, RIGHT, BOTTOM, TOP = 3.4, 0.65, 2.15, 0.55, 0.4


def figures(board: Board, labels: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """File endings such as ``cost.svg`` and contents of each figure that the board can fill.

    ``labels`` are those of all boards, so that an entry looks the same on each.
    """
    import matplotlib as mpl

    if not board.entries:
        return
    look = marks(labels, board.control)
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not show
        mpl.rcParams.update(RC)
        made = {"cost": _cost(board, look), "phases": _phases(board)}
        if "impaired" in board.columns:
            made["balance"] = _balance(board, look)
        if _graded(board):
            made["severity"] = _severity(board, look)
        for name, figure in made.items():
            for kind, content in save(figure).items():
                yield f"{name}.{kind}", content


def pareto(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Indices of (cost, score) points that no cheaper or equally cheap point beats, by cost."""
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if not front or sign * points[index][1] > sign * points[front[-1]][1]:
            front.append(index)
    return front


def _panels(count: int, names: int) -> tuple["Figure", list["Axes"]]:
    """A row of panels, each with room for ``names`` labels at its right."""
    from matplotlib.figure import Figure

    high = max(2.7, 0.165 * names)
    across, up = LEFT + WIDTH + RIGHT, BOTTOM + high + TOP
    figure = Figure(figsize=(across * count, up))
    lefts = [(across * place + LEFT) / (across * count) for place in range(count)]
    size = WIDTH / (across * count), high / up
    return figure, [figure.add_axes((left, BOTTOM / up, *size)) for left in lefts]


def _scale(board: Board) -> float:
    return 100.0 if board.percent else 1.0


def _metric(board: Board, what: str) -> str:
    return f"{what} {board.metric}" + (" (%)" if board.percent else "")


def _point(axes: "Axes", mark: Mark, x: float, y: float) -> None:
    axes.plot(x, y, mark.marker, color=mark.colour, ms=6, mec="white", mew=0.6, zorder=3)


def _errors(interval: Interval, scale: float) -> list[float]:
    return [scale * interval.low, scale * interval.high]


def _cost(board: Board, look: Mapping[str, Mark]) -> "Figure":
    """Score against training FLOPs, clean and impaired, with the Pareto front."""
    names = [name for name in (CLEAN, "impaired") if name in board.columns]
    figure, panels = _panels(len(names), len(board.entries))
    scale = _scale(board)
    for axes, name in zip(panels, names, strict=True):
        points = [(e.cost.flops, scale * e.scores[name].mean) for e in board.entries]
        for entry, (x, y) in zip(board.entries, points, strict=True):
            mark = look[entry.label]
            ends = _errors(entry.scores[name], scale)
            axes.plot([x, x], ends, color=mark.colour, lw=1, alpha=0.7)
            _point(axes, mark, x, y)
        front = [points[i] for i in pareto(points, higher_is_better=board.higher_is_better)]
        axes.step(*zip(*front, strict=True), where="post", color=FAINT, lw=1.2, zorder=0)
        axes.set(title=f"{board.task}: {name}", xlabel="training FLOPs (grey: Pareto front)")
        axes.set_ylabel(_metric(board, name))
        widest = max(x for x, _ in points) or 1.0
        axes.set_xlim(-0.05 * widest, 1.1 * widest)
        anchors = [Anchor(e.label, *p) for e, p in zip(board.entries, points, strict=True)]
        _finish(figure, axes, anchors, look)
    return figure


def _balance(board: Board, look: Mapping[str, Mark]) -> "Figure":
    """Clean against impaired: right of the control but below it hurts to gain balance."""
    figure, (axes,) = _panels(1, len(board.entries))
    scale = _scale(board)
    anchors = []
    for entry in board.entries:
        mark = look[entry.label]
        clean, impaired = entry.scores[CLEAN], entry.scores["impaired"]
        x, y = scale * impaired.mean, scale * clean.mean
        axes.plot(_errors(impaired, scale), [y, y], color=mark.colour, lw=0.8, alpha=0.5)
        axes.plot([x, x], _errors(clean, scale), color=mark.colour, lw=0.8, alpha=0.5)
        _point(axes, mark, x, y)
        anchors.append(Anchor(entry.label, x, y))
        if entry.label == board.control:
            axes.axhline(y, color=FAINT, lw=1, ls="--", zorder=0)
            axes.axvline(x, color=FAINT, lw=1, ls="--", zorder=0)
    axes.set(title=f"{board.task}: what balance gives up")
    axes.set(xlabel=_metric(board, "impaired"), ylabel=_metric(board, CLEAN))
    _finish(figure, axes, anchors, look)
    return figure


def _graded(board: Board) -> dict[str, dict[int, str]]:
    """Corruptions scored at two severities or more: severity to variant."""
    graded: dict[str, dict[int, str]] = {}
    for variant in board.entries[0].variants:
        name, _, severity = variant.partition(":")
        if severity:
            graded.setdefault(name, {})[int(severity)] = variant
    return {name: levels for name, levels in graded.items() if len(levels) > 1}


def _severity(board: Board, look: Mapping[str, Mark]) -> "Figure":
    """One panel a graded corruption: score from clean (0) to the strongest severity."""
    graded = _graded(board)
    figure, panels = _panels(len(graded), len(board.entries))
    for axes, (name, levels) in zip(panels, graded.items(), strict=True):
        steps = {0: CLEAN} | dict(sorted(levels.items()))
        anchors = [_curve(axes, board, entry, steps, look[entry.label]) for entry in board.entries]
        axes.set(title=f"{board.task}: {name}", xlabel="severity (0 is clean)")
        axes.set_ylabel(_metric(board, "").strip())
        axes.set_xticks(list(steps))
        _finish(figure, axes, anchors, look)
    return figure


def _curve(
    axes: "Axes", board: Board, entry: Entry, steps: Mapping[int, str], mark: Mark
) -> Anchor:
    scale = _scale(board)
    places = list(steps)
    means = [scale * entry.variants[variant].mean for variant in steps.values()]
    axes.plot(
        places, means, color=mark.colour, lw=1.3, marker=mark.marker, ms=4.5, mec="white", mew=0.5
    )
    return Anchor(entry.label, places[-1], means[-1])


def _phases(board: Board) -> "Figure":
    """Where each entry's training compute went, stacked by phase."""
    from matplotlib.figure import Figure

    entries = board.entries[::-1]
    phases = sorted({phase for entry in entries for phase in entry.cost.phases})
    figure = Figure(figsize=(7.2, 1.1 + 0.26 * len(entries)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(entries)
    names = [shortened(entry.label) for entry in entries]
    for place, phase in enumerate(phases):
        widths = [entry.cost.phases.get(phase, 0.0) for entry in entries]
        colour = COLOURS[place % len(COLOURS)]
        axes.barh(range(len(entries)), widths, left=left, color=colour, height=0.7, label=phase)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(entries)), names)
    axes.set(title=f"{board.task}: training compute by phase", xlabel="FLOPs")
    axes.margins(x=0.03, y=0.02)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=min(len(phases), 6), labelcolor=INK)
    return figure


def _finish(
    figure: "Figure", axes: "Axes", anchors: Sequence[Anchor], look: Mapping[str, Mark]
) -> None:
    """Freeze the limits, then place the labels, which would otherwise move them."""
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    label_right(figure, axes, anchors, look)
