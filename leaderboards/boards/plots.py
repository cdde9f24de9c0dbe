"""A board's figures: what balance costs, what it gives up, how it fails, where compute went."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.boards.board import Board, BoardEntry
from steelyard.leaderboards.boards.cost_plots import cost_axis, cost_scale, draw_front
from steelyard.leaderboards.boards.measure import CLEAN
from steelyard.leaderboards.boards.modality_plots import modalities_figure
from steelyard.leaderboards.boards.overall import Overall
from steelyard.leaderboards.boards.rank_plots import critical_figure
from steelyard.leaderboards.output.style import (
    BAD,
    COLOURS,
    HATCHES,
    INK,
    PRINT,
    SOFT,
    Anchor,
    Figures,
    Mark,
    axis_limits,
    dots,
    draw_curves,
    headline,
    inches,
    lines,
    marks,
    name_points,
    names_width,
    off_scale,
    panels,
    select_entries,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAD, ASIDE = 0.06, 0.045
"""Share of an axis left free at each end; of one of severities."""
LIGHT: dict[str, Any] = {"lw": 0.8, "alpha": 0.35, "zorder": 2}
"""How intervals are drawn."""
# Inches of the figure of phases: its bars at most, room above and below them.
ACROSS, OVER, UNDER = 5.6, 0.3, 0.5

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A score as drawn, in percent for shares."""

    low: float
    mean: float
    high: float


def figures(board: Board, labels: Sequence[str]) -> Figures:
    """Each figure that the board can fill by the ending of its name, such as ``cost``.

    ``labels`` are those of all boards, so that an entry looks the same on each.
    """
    if not board.entries:
        return {}
    look, board = marks(labels, board.control), best_of(board)
    made: dict[str, Callable[[], Figure]] = {
        "cost": partial(_cost, board, look),
        "phases": partial(_phases, board),
    }
    if "corrupted" in board.columns:
        made["balance"] = partial(_balance, board, look)
    if any(entry.tradeoff for entry in board.entries):
        made["sides"] = partial(modalities_figure, board)
    if _graded(board):
        made["severity"] = partial(_severity, board, look)
    return made


def critical(overall: Overall, labels: Sequence[str], control: str) -> Figures:
    """The critical difference over all tasks; nothing where there are too few blocks."""
    if overall.critical is None:
        return {}
    look = marks(labels, control)
    return {"overall-critical": partial(critical_figure, overall.critical, "all tasks", look)}


def best_of(board: Board) -> Board:
    """The board with as many entries as a figure shows, named so, and nothing it does not show."""
    title, kept = select_entries(
        board.task, board.entries, board.control, lambda entry: entry.label
    )
    return replace(board, task=title, entries=kept, samples={}, entry_scores={})


def _scale(board: Board) -> float:
    return 100.0 if board.percent else 1.0


def _axis(board: Board, what: str) -> str:
    unit = " (%)" if board.percent else ""
    direction = "" if board.higher_is_better else ", lower is better"
    return f"{what} {board.metric}{unit}{direction}".strip()


def _number(board: Board, value: float) -> str:
    return f"{value:.1f}" if board.percent else f"{value:.4g}"


def _bars(board: Board, name: str) -> dict[str, Bar]:
    scale = _scale(board)
    scores = {entry.label: entry.scores[name] for entry in board.entries}
    return {x: Bar(scale * i.low, scale * i.mean, scale * i.high) for x, i in scores.items()}


def _off(board: Board, spans: Mapping[str, Span]) -> set[str]:
    return off_scale(spans, higher_is_better=board.higher_is_better)


def _lagging(board: Board, bars: Mapping[str, Bar]) -> set[str]:
    return _off(board, {label: (bar.mean, bar.mean) for label, bar in bars.items()})


def _limits(board: Board, spans: Sequence[Span], below: float, above: float) -> Span:
    """Axis limits with the better scores at the far end."""
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    return axis_limits(*((low, high) if board.higher_is_better else (high, low)), below, above)


def _bar_limits(board: Board, bars: Sequence[Bar], below: float, above: float) -> Span:
    """Limits around bars; of bars much longer than the means are apart, as two seeds give, a part.

    Counted is the distance of the means, or a twentieth of the largest where that is more.
    """
    means = [bar.mean for bar in bars]
    most = max(max(means) - min(means), max(map(abs, means)) / 20)
    spans = [(max(bar.low, bar.mean - most), min(bar.high, bar.mean + most)) for bar in bars]
    return _limits(board, spans, below, above)


def _note(axes: "Axes", left_out: Sequence[str], raised: float = 0.0) -> float:
    """Name what lies off scale at the foot of the axes; returns the share of the height in use."""
    wide, high = inches(axes)
    lines = textwrap.wrap("off scale: " + ", ".join(left_out), int(wide * 17)) if left_out else []
    axes.text(
        0.015, (raised + 0.04) / high, "\n".join(lines), transform=axes.transAxes, fontsize=7.5,
        color=SOFT, va="bottom", linespacing=1.25,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    return (raised + PRINT * len(lines)) / high


def _cost(board: Board, look: Mapping[str, Mark]) -> "Figure":
    """Score against training cost, clean and impaired, with the Pareto front."""
    names = [name for name in (CLEAN, "corrupted") if name in board.columns]
    figure, row = panels(len(names), 3.2, len(board.entries))
    label, why, spent = cost_axis({entry.label: entry.cost for entry in board.entries})
    for axes, name in zip(row, names, strict=True):
        anchors = _cost_panel(axes, board, name, spent, look)
        axes.set(title=name, xlabel=label, ylabel=_axis(board, name))
    name_points(row[-1], anchors, look)
    reading = f"{why}Up and left is better. Grey: Pareto front. Bars: 95 % intervals."
    headline(figure, f"{board.task}: score against training cost", reading)
    return figure


def _cost_panel(
    axes: "Axes", board: Board, name: str, spent: Mapping[str, float], look: Mapping[str, Mark]
) -> list[Anchor]:
    """Fill one panel; returns where the points are, those off scale too."""
    bars = _bars(board, name)
    off = _lagging(board, bars)
    shown = {label: bar for label, bar in bars.items() if label not in off}
    below = _note(axes, [f"{x} {_number(board, bars[x].mean)}" for x in bars if x in off])
    axes.set_ylim(_bar_limits(board, list(shown.values()), below + PAD, PAD))
    cost_scale(axes, [spent[label] for label in shown])
    bounds = [(look[x].colour, [spent[x]] * 2, [bar.low, bar.high]) for x, bar in shown.items()]
    lines(axes, bounds, **LIGHT)
    dots(axes, [(look[x], spent[x], bar.mean) for x, bar in shown.items()], zorder=3)
    points = [(spent[label], bar.mean) for label, bar in shown.items()]
    draw_front(axes, points, higher_is_better=board.higher_is_better)
    return [Anchor(label, spent[label], bar.mean) for label, bar in bars.items()]


def _balance(board: Board, look: Mapping[str, Mark]) -> "Figure":
    """Clean against impaired: right of the control but below it hurts to gain balance."""
    figure, (axes,) = panels(1, 4.6, len(board.entries))
    up, right = _bars(board, CLEAN), _bars(board, "corrupted")
    off = _lagging(board, up)
    off |= _lagging(board, {label: bar for label, bar in right.items() if label not in off})
    shown = [label for label in up if label not in off]
    left_out = [
        f"{x} (clean {_number(board, up[x].mean)}, impaired {_number(board, right[x].mean)})"
        for x in up
        if x in off
    ]
    bought = {entry.label for entry in board.entries if entry.tradeoff and entry.tradeoff.traded}
    below = _note(axes, left_out, raised=PRINT) + PAD
    above = PRINT / inches(axes)[1] + PAD
    axes.set_xlim(_bar_limits(board, [right[label] for label in shown], PAD, PAD))
    axes.set_ylim(_bar_limits(board, [up[label] for label in shown], below, above))
    _crosses(axes, {label: (right[label], up[label]) for label in shown}, look)
    for label in (label for label in shown if label in bought):
        x, y = right[label].mean, up[label].mean
        axes.plot(x, y, "o", ms=11, mfc="none", mec=BAD, mew=1.1, zorder=2.5)
    if board.control in shown:
        _cross_hair(axes, board.control, right[board.control].mean, up[board.control].mean, below)
    axes.set(title="clean against impaired")
    axes.set(xlabel=_axis(board, "corrupted"), ylabel=_axis(board, CLEAN))
    name_points(axes, [Anchor(x, right[x].mean, up[x].mean) for x in up], look)
    reading = "Up: better on clean inputs. Right: better on impaired inputs. Bars: 95 % intervals."
    if bought.intersection(shown):
        reading += "\nRinged: balance bought by hurting the strong side or the clean score."
    headline(figure, f"{board.task}: what balance gives up", reading)
    return figure


def _crosses(axes: "Axes", shown: Mapping[str, tuple[Bar, Bar]], look: Mapping[str, Mark]) -> None:
    """Each entry's point with its intervals on both axes."""
    bounds, points = [], []
    for label, (x, y) in shown.items():
        colour = look[label].colour
        bounds += [(colour, [x.low, x.high], [y.mean] * 2), (colour, [x.mean] * 2, [y.low, y.high])]
        points.append((look[label], x.mean, y.mean))
    lines(axes, bounds, **LIGHT)
    dots(axes, points, zorder=3)


def _cross_hair(axes: "Axes", control: str, x: float, y: float, foot: float) -> None:
    """Dashed lines through the control, and what each quadrant means."""
    axes.axhline(y, color=SOFT, lw=0.9, ls=(0, (5, 4)), zorder=0.8)
    axes.axvline(x, color=SOFT, lw=0.9, ls=(0, (5, 4)), zorder=0.8)
    right, (bottom, top) = axes.get_xlim()[1], axes.get_ylim()
    axes.fill_between([x, right], y, top, color="#eef4f1", lw=0, zorder=0)
    quiet: dict[str, Any] = {"color": SOFT, "fontsize": 7.5}
    low = (y - bottom) / (top - bottom) < 0.5
    axes.text(
        x, 1 - PAD if low else foot, f"{shorten(control)} (control) ", rotation=90, ha="right",
        va="top" if low else "bottom", transform=axes.get_xaxis_transform(), **quiet,
    )  # fmt: skip
    corners = (
        (0.015, 0.985, "better clean only"),
        (0.985, 0.985, "better on both"),
        (0.015, 0.015, "worse on both"),
        (0.985, 0.015, "better impaired only"),
    )
    for across, up, meaning in corners:
        axes.text(
            across, up, meaning, transform=axes.transAxes, style="italic",
            ha="left" if across < 0.5 else "right", va="bottom" if up < 0.5 else "top", **quiet,
        )  # fmt: skip


def _graded(board: Board) -> dict[str, dict[int, str]]:
    """Corruptions scored at two severities or more: severity or rate, clean as 0, to variant."""
    graded: dict[str, dict[int, str]] = {}
    for variant in board.entries[0].variants:
        name, _, severity = variant.partition(":")
        if severity.isdecimal():  # not of both sides at once, nor of another draw
            graded.setdefault(name, {0: CLEAN})[int(severity)] = variant
    return {name: dict(sorted(steps.items())) for name, steps in graded.items() if len(steps) > 2}


def _severity(board: Board, look: Mapping[str, Mark]) -> "Figure":
    """One panel a graded corruption, on one scale: score from clean to the strongest severity."""
    graded, scale = _graded(board), _scale(board)
    figure, row = panels(len(graded), 3.0, len(board.entries))
    drawn = {variant for steps in graded.values() for variant in steps.values()}
    spans = {entry.label: _reach(entry, drawn, scale) for entry in board.entries}
    off = _off(board, spans)
    left_out = [
        f"{label} {_number(board, low)} to {_number(board, high)}"
        for label, (low, high) in spans.items()
        if label in off
    ]
    ends = [span for label, span in spans.items() if label not in off]
    for axes, (name, steps) in zip(row, graded.items(), strict=True):
        axes.set_ylim(_limits(board, ends, _note(axes, left_out) + PAD, PAD))
        places = list(steps)
        axes.set(title=name, xlabel="severity (0: clean)", xticks=places)
        axes.set_ylabel(_axis(board, ""))
        axes.set_xlim(*axis_limits(places[0], places[-1], ASIDE, ASIDE))
        curves = {entry.label: _curve(entry, steps, scale) for entry in board.entries}
        draw_curves(axes, places, curves, look)
        anchors = [Anchor(label, places[-1], means[-1]) for label, means in curves.items()]
    name_points(row[-1], anchors, look)
    reading = "Means over seeds; a flat line is robust. The intervals are in the JSON file."
    headline(figure, f"{board.task}: score by severity", reading)
    return figure


def _reach(entry: BoardEntry, variants: set[str], scale: float) -> Span:
    means = [scale * entry.variants[variant].mean for variant in variants]
    return min(means), max(means)


def _curve(entry: BoardEntry, steps: Mapping[int, str], scale: float) -> list[float]:
    return [scale * entry.variants[variant].mean for variant in steps.values()]


def _phases(board: Board) -> "Figure":
    """Where each entry's training compute went, stacked by phase."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    entries = board.entries[::-1]
    found = {phase for entry in entries for phase in entry.cost.phases}
    passes = [phase for phase in ("forward", "backward") if phase in found]
    phases = [*passes, *sorted(found.difference(passes))]
    names, high = names_width([entry.label for entry in entries]), 0.24 * len(entries) + 0.2
    width, height = names + ACROSS, OVER + high + UNDER
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((names / width, UNDER / height, ACROSS / width, high / height))
    left = [0.0] * len(entries)
    for place, phase in enumerate(phases):
        widths = [entry.cost.phases.get(phase, 0.0) for entry in entries]
        colour, hatch = COLOURS[place % len(COLOURS)], HATCHES[place % len(HATCHES)]
        axes.barh(
            range(len(entries)), widths, left=left, height=0.7, label=phase,
            color=colour, hatch=hatch, edgecolor="white", lw=0.5,
        )  # fmt: skip
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        if total == 0:
            axes.text(0, place, " no training", va="center", fontsize=7.5, color=SOFT)
    axes.set_yticks(range(len(entries)), [shorten(entry.label) for entry in entries])
    axes.set_title(f"{board.task}: training compute by phase", fontsize=10.5)
    axes.set_xlabel("training FLOPs")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02, y=0.02)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    if phases:
        figure.legend(loc="upper center", bbox_to_anchor=(0.5, (UNDER - 0.45) / height),
                      ncols=min(len(phases), 6), labelcolor=INK)  # fmt: skip
    return figure
