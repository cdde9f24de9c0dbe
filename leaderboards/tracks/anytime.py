"""Publish scores over budgets: separate runs at each, a curve per entry and the area under it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import Progress, no_progress, subtask
from steelyard.harness.records.budget import parse_budget
from steelyard.leaderboards.boards import evidence
from steelyard.leaderboards.boards.cells import SheetColumn, entry_sheet, number, with_half
from steelyard.leaderboards.loading.collect import read_runs
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Cell, Sheet
from steelyard.leaderboards.publish import Published, publish
from steelyard.leaderboards.stats.intervals import Interval

RULE = (
    "Every number is of runs with that budget and a schedule that ends with it. Area is the mean "
    "height of the curve over the logarithm of the budget; it does not rank."
)


@dataclass(frozen=True, slots=True)
class AnytimeCurve:
    trained_on: str
    label: str
    flops: tuple[float, ...]
    """Ascending."""
    scores: tuple[Interval, ...]
    """Score that its board ranks by: balanced or composite."""
    area: float
    """Mean height over the logarithm of the budget."""


@dataclass(frozen=True, slots=True)
class Anytime:
    """Curves, largest area first within a data set, and the written files."""

    curves: tuple[AnytimeCurve, ...]
    sheets: tuple[Sheet, ...]
    """One table per data set."""
    preliminary: Mapping[str, str]
    """By data set, why its curves cannot carry a conclusion; empty if they can."""
    lacking: tuple[str, ...]
    """Entries without a rank at some budget."""
    files: tuple[Path, ...]


def publish_anytime(
    folders: Sequence[Path], out: Path, *, report: Progress = no_progress, **options: Any
) -> Anytime:
    """Write the boards of each budget into a folder of its own, and the curves over them.

    Raises:
        UserError: the records are of one budget only, or as ``publish``.
    """
    budgets = _budgets(folders)
    by_budget = {
        name: publish(
            folders,
            out / f"budget-{name}",
            budget=name,
            # Budgets in items, of the data track, have no FLOPs to be an axis.
            track="compute",
            report=subtask(report, name, index, len(budgets)),
            **options,
        )
        for index, name in enumerate(budgets)
    }
    files = [path for published in by_budget.values() for path in published.files]
    curves, lacking = _curves(by_budget)
    preliminary, sheets = {}, []
    for task in dict.fromkeys(curve.trained_on for curve in curves):
        boards = {
            name: next(board for board in published.boards if board.task == task)
            for name, published in by_budget.items()
        }
        reasons = {name: board.preliminary for name, board in boards.items()}
        preliminary[task] = evidence.joined(reasons)
        generated = any(board.generated for board in boards.values())
        title = evidence.titled(task, generated=generated, preliminary=preliminary[task])
        task_curves = [curve for curve in curves if curve.trained_on == task]
        sheets.append(sheet(task_curves, budgets, f"{title} at any time"))
    notes = [f"Not ranked at every budget: {', '.join(lacking)}."] if lacking else []
    curves_report = Report(
        stem="anytime",
        title="Scores over budgets",
        parts=[
            ReportPart(table.title, evidence.sentence(reason).strip(), [table])
            for table, reason in zip(sheets, preliminary.values(), strict=True)
        ],
        notes=notes,
        rules=[RULE],
        rows=[
            {"trained_on": curve.trained_on, "label": curve.label}
            | dict(zip(budgets, curve.scores, strict=True))
            | {"area": curve.area, "preliminary": preliminary[curve.trained_on]}
            for curve in curves
        ],
        content={"curves": curves, "preliminary": preliminary},
    )
    files += curves_report.write(out)
    return Anytime(tuple(curves), tuple(sheets), preliminary, tuple(lacking), tuple(files))


def area(flops: Sequence[float], heights: Sequence[float]) -> float:
    """Return the mean height of the line through the points over log FLOPs (trapezoid rule)."""
    # Budgets grow by factors: each doubling counts alike.
    logs = [math.log(value) for value in flops]
    return float(np.trapezoid(heights, logs)) / (logs[-1] - logs[0])


def _budgets(folders: Sequence[Path]) -> list[str]:
    specs = [run.record.spec for run in read_runs(folders)]
    # A cap on seconds changes what a budget buys: no point of the same curve.
    names = {spec.budget for spec in specs if spec.track == "compute" and spec.wall is None}
    if len(names) < 2:
        raise UserError(
            f"The records under {', '.join(map(str, folders))} have {len(names)} budget(s), a "
            "curve needs several: 'steelyard run SUITE --track anytime' makes them."
        )
    return sorted(names, key=lambda name: parse_budget(name).flops)


def _curves(by_budget: Mapping[str, Published]) -> tuple[list[AnytimeCurve], list[str]]:
    """Return the curves of entries ranked at every budget, and the names of the others."""
    scores_by_budget = [
        {(b.task, row.label): row.scores[b.order_by] for b in published.boards for row in b.rows}
        for published in by_budget.values()
    ]
    flops = tuple(parse_budget(name).flops for name in by_budget)
    curves, lacking = [], []
    for task, label in dict.fromkeys(key for scores in scores_by_budget for key in scores):
        # An area over fewer budgets does not compare.
        if not all((task, label) in scores for scores in scores_by_budget):
            lacking.append(f"{label} on {task}")
            continue
        intervals = tuple(scores[task, label] for scores in scores_by_budget)
        height = area(flops, [interval.mean for interval in intervals])
        curves.append(AnytimeCurve(task, label, flops, intervals, height))
    return sorted(curves, key=lambda curve: (curve.trained_on, -curve.area, curve.label)), lacking


def sheet(curves: Sequence[AnytimeCurve], budgets: Sequence[str], title: str) -> Sheet:
    """Build the table of one data set's curves."""

    def score(index: int, curve: AnytimeCurve) -> str:
        return with_half(curve.scores[index])

    best = max(curve.area for curve in curves)
    columns: list[SheetColumn[AnytimeCurve]] = [
        *((budget, partial(score, index)) for index, budget in enumerate(budgets)),
        ("area", lambda curve: Cell(number(curve.area), best=curve.area == best)),
    ]
    return entry_sheet(title, curves, lambda curve: curve.label, columns)
