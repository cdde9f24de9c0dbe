"""A profile's figures: differences to the control, what is left without the image, the cost."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from steelyard.leaderboards.profile import Profile, Row
from steelyard.leaderboards.profile_tables import heading
from steelyard.leaderboards.ratios import Column
from steelyard.leaderboards.style import COLOURS, FAINT, INK, RC, SOFT, headline, save, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, LINE = 1.55, 0.21
"""Inches: width of a panel, height of an entry's line."""
NAMES, GAP, UNDER, OVER = 2.3, 0.22, 0.5, 0.78
"""Inches: room for names, between panels, below and above them."""
ACROSS = 5
"""Panels in a row."""
GOOD, BAD = "#0072B2", "#D55E00"
HATCHES = ("", "////", "....", "xxxx", "----", "||||", "oooo", "\\\\\\\\")


def figures(profile: Profile) -> Iterator[tuple[str, bytes]]:
    """File endings such as ``differences.svg`` and contents of each figure there is data for."""
    import matplotlib as mpl

    if not profile.rows:
        return
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not show
        mpl.rcParams.update(RC)
        made = {"cost": _cost(profile)}
        if any(row.differences for row in profile.rows):
            made["differences"] = _differences(profile)
        if any(column.name.endswith(", no image") for column in profile.impaired):
            made["blind"] = _blind(profile)
        for name, figure in made.items():
            for kind, content in save(figure).items():
                yield f"{name}.{kind}", content


def _grid(count: int, rows: int) -> tuple["Figure", list["Axes"]]:
    """Panels in lines of ``ACROSS``, each with a line for every entry."""
    from matplotlib.figure import Figure

    across = min(count, ACROSS)
    lines = -(-count // across)
    high = LINE * rows + 0.1
    width = NAMES + across * (WIDE + GAP)
    height = OVER + lines * (high + UNDER + 0.25)
    figure = Figure(figsize=(width, height))
    panels = []
    for place in range(count):
        line, column = divmod(place, across)
        left = (NAMES + column * (WIDE + GAP)) / width
        bottom = 1 - (OVER + 0.2 + high + line * (high + UNDER + 0.25)) / height
        panels.append(figure.add_axes((left, bottom, WIDE / width, high / height)))
    return figure, panels


def _lines(axes: "Axes", rows: Sequence[Row], first: bool) -> None:
    """An entry a line, named left of the first panel, the best on top."""
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels([shortened(row.label) for row in rows] if first else [], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(shortened(text), fontsize=8, pad=4)


def _differences(profile: Profile) -> "Figure":
    rows = [row for row in profile.rows if row.differences]
    columns = [column for column in profile.shown if column.higher_is_better is not None]
    figure, panels = _grid(len(columns), len(rows))
    for place, (axes, column) in enumerate(zip(panels, columns, strict=True)):
        _lines(axes, rows, place % ACROSS == 0)
        axes.axvline(0, color=INK, lw=0.8)
        for line, row in enumerate(rows):
            found = row.differences[column.name]
            each = found.interval
            colour = {"better": GOOD, "worse": BAD, "": SOFT}[found.verdict]
            ends = [100 * each.low, 100 * each.high]
            axes.plot(ends, [line, line], color=colour, lw=1.4, solid_capstyle="round")
            marker = {"better": "^", "worse": "v", "": "o"}[found.verdict]
            axes.plot(100 * each.mean, line, marker, color=colour, ms=4.5, mec="white", mew=0.5)
        _title(axes, heading(column))
    headline(
        figure,
        f"{profile.name}: difference to {profile.control}, percentage points",
        "Paired by seed and item, 95 % intervals; coloured triangles survive Holm's correction "
        "within their panel (blue better, orange worse). ↓ lower is better.",
    )
    return figure


def _blind(profile: Profile) -> "Figure":
    pairs: list[tuple[Column, str]] = [
        (column, profile.main[column.task])
        for column in profile.impaired
        if column.name.endswith(", no image")
    ]
    figure, panels = _grid(len(pairs), len(profile.rows))
    for place, (axes, (blind, clean)) in enumerate(zip(panels, pairs, strict=True)):
        _lines(axes, profile.rows, place % ACROSS == 0)
        for line, row in enumerate(profile.rows):
            sighted, without = row.scores[clean], row.scores[blind.name]
            ends = [100 * without.mean, 100 * sighted.mean]
            axes.plot(ends, [line, line], color=FAINT, lw=2.4, zorder=1)
            axes.plot(ends[0], line, "o", ms=5, mfc="white", mec=INK, mew=1.1)
            axes.plot(ends[1], line, "o", ms=5.4, color=COLOURS[0], mec="white", mew=0.5)
        _title(axes, heading(blind).replace(", no image", ""))
    headline(
        figure,
        f"{profile.name}: what is left without the image, percent",
        "Filled: with the image. Open: image removed. A short line means the answer hardly depends "
        "on what is seen.",
    )
    return figure


def _cost(profile: Profile) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = profile.rows
    phases = sorted({phase for row in rows for phase in row.cost.phases})
    high = LINE * len(rows) + 0.1
    width, height = NAMES + 5.2, OVER + high + 0.85
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((NAMES / width, 0.85 / height, 5.0 / width, high / height))
    _lines(axes, rows, first=True)
    for line, row in enumerate(rows):
        left = 0.0
        for place, phase in enumerate(phases):
            share = row.cost.phases.get(phase, 0.0)
            axes.barh(line, share, 0.68, left, color=COLOURS[place % len(COLOURS)],
                      hatch=HATCHES[place % len(HATCHES)], edgecolor="white", lw=0.4)  # fmt: skip
            left += share
    axes.set_xlabel("training FLOPs", fontsize=8)
    handles = [
        Patch(facecolor=COLOURS[p % len(COLOURS)], hatch=HATCHES[p % len(HATCHES)],
              edgecolor="white", label=phase)
        for p, phase in enumerate(phases)
    ]  # fmt: skip
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=min(6, len(handles)), fontsize=7.5)
    headline(
        figure,
        f"{profile.name}: where the compute went",
        "Executed floating-point operations by phase, mean over seeds.",
    )
    return figure
