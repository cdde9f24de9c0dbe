"""A profile's figures: scores side by side, differences to the control, reliance, cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.profile import NO_IMAGE, Profile, Row
from steelyard.leaderboards.profile_tables import DIRECTIONS, phases_of, words
from steelyard.leaderboards.ratios import Column
from steelyard.leaderboards.stats import Interval
from steelyard.leaderboards.style import (
    COLOURS,
    FAINT,
    INK,
    LEFT,
    RC,
    SIZES,
    SOFT,
    Mark,
    headline,
    marks,
    save,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: width of a panel, height of an entry's line, room between panels, below and above them.
WIDE, LINE, GAP, UNDER, OVER, TITLE = 1.5, 0.21, 0.22, 0.32, 0.62, 0.4
LETTER = 0.066
"""Inches a letter of a name takes, about."""
ACROSS = 5
"""Panels in a row."""
BARS = 5.0
"""Inches: width of the cost panel."""
GOOD, BAD = "#0072B2", "#D55E00"
HATCHES = ("", "////", "....", "xxxx", "----", "||||", "oooo", "\\\\\\\\")


def figures(profile: Profile) -> Iterator[tuple[str, bytes]]:
    """File endings such as ``scores.svg`` and contents of each figure there is data for."""
    import matplotlib as mpl

    if not profile.rows:
        return
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not show
        mpl.rcParams.update(RC)
        made = {"scores": _scores(profile)}
        if any(row.differences for row in profile.rows):
            made["differences"] = _differences(profile)
        if any(row.reliance for row in profile.rows):
            made["reliance"] = _reliance(profile)
        made["cost"] = _cost(profile)
        for name, figure in made.items():
            for kind, content in save(figure).items():
                yield f"{name}.{kind}", content


def _names(rows: Sequence[Row]) -> float:
    """Inches that the column of names takes."""
    return max(LEFT, LETTER * max(len(shortened(row.label)) for row in rows) + 0.15)


def _grid(count: int, rows: Sequence[Row]) -> tuple["Figure", list["Axes"]]:
    """Panels in lines of ``ACROSS``, each with a line for every entry, the best on top."""
    from matplotlib.figure import Figure

    # At least three wide, or the small print of the heading would run out of the page.
    across, names = min(count, ACROSS), _names(rows)
    high = LINE * len(rows) + 0.1
    width = names + max(across, 3) * (WIDE + GAP)
    step = TITLE + high + UNDER
    height = OVER + -(-count // across) * step
    figure = Figure(figsize=(width, height))
    panels = []
    for place in range(count):
        line, column = divmod(place, across)
        left = (names + column * (WIDE + GAP)) / width
        bottom = 1 - (OVER + line * step + TITLE + high) / height
        axes = figure.add_axes((left, bottom, WIDE / width, high / height))
        _lines(axes, rows, named=column == 0)
        panels.append(axes)
    return figure, panels


def _lines(axes: "Axes", rows: Sequence[Row], *, named: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels([shortened(row.label) for row in rows] if named else [], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.spines["left"].set_visible(False)


def _title(axes: "Axes", column: Column, direction: str) -> None:
    """The task in small print above the metric: together they do not fit a panel's width."""
    metric = words(f"{column.subset} {column.metric}".strip()) + direction
    axes.set_title(metric, fontsize=8, pad=3)
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(words(column.task), (0, 1), (0, 15), fontsize=7, color=SOFT, va="bottom", **style)


def _look(profile: Profile) -> Mapping[str, Mark]:
    labels = [row.label for row in profile.rows] + [blank.label for blank in profile.blanks]
    return marks(labels, profile.control)


def _interval(axes: "Axes", each: Interval, line: int, colour: str) -> None:
    ends = [100 * each.low, 100 * each.high]
    axes.plot(ends, [line, line], color=colour, lw=1.3, alpha=0.7, solid_capstyle="round")


def _dot(axes: "Axes", each: Interval, line: int, mark: Mark) -> None:
    size = 0.85 * SIZES[mark.marker]
    axes.plot(100 * each.mean, line, mark.marker, color=mark.colour, ms=size, mec="white", mew=0.5)


def _scores(profile: Profile) -> "Figure":
    """Every clean number in a panel of its own, so that a trade between two is seen at a glance."""
    figure, panels = _grid(len(profile.shown), profile.rows)
    look = _look(profile)
    for axes, column in zip(panels, profile.shown, strict=True):
        for line, row in enumerate(profile.rows):
            each = row.scores[column.name]
            if row.label == profile.control:
                axes.axvline(100 * each.mean, color=SOFT, lw=0.8, ls=(0, (4, 3)), zorder=0.8)
            _interval(axes, each, line, look[row.label].colour)
            _dot(axes, each, line, look[row.label])
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    compared = any(row.label == profile.control for row in profile.rows)
    dashed = f" Dashed: {profile.control}." if compared else ""
    headline(
        figure,
        f"{profile.name}: clean scores side by side (%)",
        f"Bars: 95 % intervals.{dashed} ↓ lower is better; no arrow: only describes.\n"
        "Rows are ordered by the composite, which no panel alone decides.",
    )
    return figure


def _differences(profile: Profile) -> "Figure":
    rows = [row for row in profile.rows if row.differences]
    columns = [column for column in profile.shown if column.higher_is_better is not None]
    figure, panels = _grid(len(columns), rows)
    look = {
        "better": Mark(GOOD, "^"),
        "worse": Mark(BAD, "v"),
        "": Mark(SOFT, "o"),
    }
    for axes, column in zip(panels, columns, strict=True):
        axes.axvline(0, color=INK, lw=0.8)
        for line, row in enumerate(rows):
            found = row.differences[column.name]
            _interval(axes, found.interval, line, look[found.verdict].colour)
            _dot(axes, found.interval, line, look[found.verdict])
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    headline(
        figure,
        f"{profile.name}: difference to {profile.control} (percentage points)",
        "Paired by seed and item, 95 % intervals. Blue ▲ better, orange ▼ worse after Holm's "
        "correction in a panel.\n↓ lower is better: there, better lies left of zero.",
    )
    return figure


def _reliance(profile: Profile) -> "Figure":
    blind = [column for column in profile.impaired if column.name.endswith(NO_IMAGE)]
    figure, panels = _grid(len(blind), profile.rows)
    for axes, column in zip(panels, blind, strict=True):
        for line, row in enumerate(profile.rows):
            seen, without = row.scores[profile.main[column.task]], row.scores[column.name]
            axes.plot(
                [100 * without.mean, 100 * seen.mean], [line, line], color=FAINT, lw=3, zorder=0.9
            )
            for each, face in ((without, "white"), (seen, GOOD)):
                _interval(axes, each, line, GOOD)
                axes.plot(100 * each.mean, line, "o", ms=5, mfc=face, mec=GOOD, mew=1, zorder=3)
        _title(axes, column, DIRECTIONS[column.higher_is_better])
    headline(
        figure,
        f"{profile.name}: with the image and without (%)",
        "Filled: with the image. Open: image removed. Bars: 95 % intervals.\n"
        "A short distance means that the answers hardly depend on what is seen.",
    )
    return figure


def _cost(profile: Profile) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import EngFormatter

    rows, phases, names = profile.rows, phases_of(profile), _names(profile.rows)
    under = 0.75 if len(phases) <= ACROSS else 0.95
    high = LINE * len(rows) + 0.1
    width, height = names + BARS + GAP, OVER + high + under
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((names / width, under / height, BARS / width, high / height))
    _lines(axes, rows, named=True)
    axes.grid(axis="y", visible=False)
    looks: list[dict[str, Any]] = [
        {"facecolor": COLOURS[place % len(COLOURS)], "hatch": HATCHES[place % len(HATCHES)],
         "edgecolor": "white"}
        for place in range(len(phases))
    ]  # fmt: skip
    for line, row in enumerate(rows):
        left = 0.0
        for phase, style in zip(phases, looks, strict=True):
            spent = row.cost.phases.get(phase, 0.0)
            axes.barh(line, spent, 0.7, left, lw=0.5, **style)
            left += spent
        if not left:
            axes.text(0, line, " no training", va="center", fontsize=7.5, color=SOFT)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("training FLOPs", fontsize=8)
    handles = [Patch(label=phase, **style) for phase, style in zip(phases, looks, strict=True)]
    if handles:
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(names / width, 0), ncols=ACROSS,
            fontsize=7.5, borderaxespad=0, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
    headline(
        figure,
        f"{profile.name}: where training compute went",
        "Executed floating-point operations by phase, means over seeds.",
    )
    return figure
