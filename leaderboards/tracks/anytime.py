"""Scores over budgets: runs of their own at each, a curve an entry and the area under it."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import Progress, no_progress, subtask
from steelyard.harness.records.budget import parse_budget
from steelyard.harness.records.record import find, read
from steelyard.leaderboards.output.files import exact, json_text, write_files
from steelyard.leaderboards.output.sheet import Cell, Sheet, sheet_markdown
from steelyard.leaderboards.publish import Published, publish
from steelyard.leaderboards.stats.intervals import Interval


@dataclass(frozen=True, slots=True)
class AnytimeCurve:
    """One entry on one data set, by budget."""

    trained_on: str
    label: str
    flops: tuple[float, ...]
    """Rising."""
    scores: tuple[Interval, ...]
    """What its board ranks by: the balanced score, or a profile's composite."""
    area: float
    """Mean height over the logarithm of the budget: what to expect whenever training stops."""


@dataclass(frozen=True, slots=True)
class Anytime:
    """All curves, best area first within a data set, and what was written."""

    curves: tuple[AnytimeCurve, ...]
    sheets: tuple[Sheet, ...]
    """The same as a table for each data set."""
    lacking: tuple[str, ...]
    """Entries without a rank at some budget."""
    files: tuple[Path, ...]


def publish_anytime(
    folders: Sequence[Path], out: Path, *, report: Progress = no_progress, **options: Any
) -> Anytime:
    """Write the boards of each budget into a folder of its own and the curves over them.

    Raises:
        UserError: the records are of one budget only, or what ``publish`` raises.
    """
    budgets = _budgets(folders)
    made = {
        name: publish(
            folders,
            out / f"budget-{name}",
            budget=name,
            track="compute",
            report=subtask(report, name, place, len(budgets)),
            **options,
        )
        for place, name in enumerate(budgets)
    }
    files = [path for published in made.values() for path in published.files]
    curves, lacking = _curves(made)
    sets = dict.fromkeys(curve.trained_on for curve in curves)
    sheets = tuple(sheet(curves, list(made), task) for task in sets)
    content = {
        "anytime.md": _markdown(sheets, lacking),
        "anytime.csv": _csv(curves, list(made)),
        "anytime.json": json_text({"curves": curves}),
    }
    files += write_files(out, {name: text.encode() for name, text in content.items()})
    return Anytime(tuple(curves), sheets, tuple(lacking), tuple(files))


def area(flops: Sequence[float], heights: Sequence[float]) -> float:
    """Mean height of the line through the points over log FLOPs, by the trapezoid rule."""
    places = [math.log(value) for value in flops]
    strips = [
        (right - left) * (low + high) / 2
        for left, right, low, high in zip(places, places[1:], heights, heights[1:], strict=False)
    ]
    return sum(strips) / (places[-1] - places[0])


def _budgets(folders: Sequence[Path]) -> list[str]:
    specs = [read(path).spec for folder in folders for path in find(folder)]
    names = {spec.budget for spec in specs if spec.track == "compute" and spec.wall is None}
    if len(names) < 2:
        where = ", ".join(map(str, folders))
        raise UserError(
            f"The records under {where} have {len(names)} budget(s), a curve needs several: "
            "'steelyard run SUITE --track anytime' makes them."
        )
    return sorted(names, key=lambda name: parse_budget(name).flops)


def _scores(published: Published) -> Iterator[tuple[tuple[str, str], Interval]]:
    for board in published.boards:
        for entry in board.entries:
            yield (board.task, entry.label), entry.scores["balanced"]
    for profile in published.profiles:
        for row in profile.rows:
            yield (profile.trained_on, row.label), row.composite


def _curves(made: Mapping[str, Published]) -> tuple[list[AnytimeCurve], list[str]]:
    by_budget = {name: dict(_scores(published)) for name, published in made.items()}
    keys = dict.fromkeys(key for found in by_budget.values() for key in found)
    flops = tuple(parse_budget(name).flops for name in made)
    curves, lacking = [], []
    for task, label in keys:
        scores = [found.get((task, label)) for found in by_budget.values()]
        known = tuple(score for score in scores if score is not None)
        if len(known) < len(scores):
            lacking.append(f"{label} on {task}")
            continue
        height = area(flops, [score.mean for score in known])
        curves.append(AnytimeCurve(task, label, flops, known, height))
    return sorted(curves, key=lambda curve: (curve.trained_on, -curve.area, curve.label)), lacking


def sheet(curves: Sequence[AnytimeCurve], budgets: Sequence[str], task: str) -> Sheet:
    """The curves of one data set as a table."""
    own = [curve for curve in curves if curve.trained_on == task]
    best = max(curve.area for curve in own)
    rows = [
        (
            Cell(str(place)),
            Cell(curve.label),
            *(Cell(f"{100 * s.mean:.1f} ± {100 * s.half:.1f}") for s in curve.scores),
            Cell(f"{100 * curve.area:.1f}", best=curve.area == best),
        )
        for place, curve in enumerate(own, 1)
    ]
    return Sheet(f"{task} at any time", ("#", "entry", *budgets, "area"), tuple(rows))


def _markdown(sheets: Sequence[Sheet], lacking: Sequence[str]) -> str:
    parts = ["# Scores over budgets"]
    for made in sheets:
        parts += [f"## {made.title}", sheet_markdown(made)]
    parts.append(
        "Every number is of runs with that budget and a schedule that ends with it. Area is the "
        "mean height of the curve over the logarithm of the budget; it does not rank."
    )
    if lacking:
        parts.append(f"Not ranked at every budget: {', '.join(lacking)}.")
    return "\n\n".join(parts) + "\n"


def _csv(curves: Sequence[AnytimeCurve], budgets: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{name}{end}" for name in budgets for end in ("", "_low", "_high")]
    writer.writerow(["trained_on", "label", *ends, "area"])
    for curve in curves:
        numbers = [value for s in curve.scores for value in (s.mean, s.low, s.high)]
        cells = [exact(value) for value in (*numbers, curve.area)]
        writer.writerow([curve.trained_on, curve.label, *cells])
    return out.getvalue()
