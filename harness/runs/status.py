"""State of the runs of a plan, from their folders alone: who runs where, and what failed."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.text import Text

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.lease import holder
from steelyard.harness.core.progress import table
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.harness.runs.attempt import LEASE, PARTS, read_state
from steelyard.harness.runs.job import finished
from steelyard.harness.runs.plan import Plan

SCHEMA = 1
STATES = ("done", "failed", "running", "waiting")


@dataclass(frozen=True, slots=True)
class CellState:
    """State of one run of a plan."""

    state: Literal["done", "failed", "running", "waiting"]
    reason: str = ""
    """Why it failed."""
    host: str = ""
    """Machine that runs it."""
    process: int = 0
    begun: float = 0.0
    """Time at which the attempt began, in seconds since 1970."""
    stage: str = ""
    fraction: float = 0.0
    """Of the stage that is done."""
    attempts: int = 0
    """Number so far, of a run that is not done."""
    hours: float = 0.0
    """That a finished training took."""

    @property
    def is_settled(self) -> bool:
        return self.state in ("done", "failed")


def cell_state(plan: Plan, index: int, runs: Path) -> CellState:
    """Return the state of a cell; data is not read."""
    job = plan.job(index)
    folder = runs / job.spec.id
    try:
        result = _settled(plan, index, folder)
    except UserError as error:  # a record that is broken or was changed
        return CellState("failed", str(error))
    if result is not None:
        return CellState(result.status, result.failure, hours=result.ledger.total_seconds / 3600)
    state = read_state(folder)
    owner = holder(folder / PARTS / LEASE)
    if owner is None:
        return CellState("waiting", attempts=state.attempts)
    return CellState("running", "", owner.host, owner.process, state.begun, state.stage,
                     state.fraction, state.attempts)  # fmt: skip


def _settled(plan: Plan, index: int, folder: Path) -> Record | None:
    """Return the record of a run that this plan has no more to do for."""
    if not (folder / record.RECORD).is_file():
        return None
    outlines = plan.data[plan.cells[index].data].outlines()
    result = finished(plan.job(index), folder.parent, outlines)
    if result is not None:
        # Else something is left to remove, or to be removed just now.
        return result if result.status == "failed" or not (folder / PARTS).exists() else None
    result = record.read(folder)
    is_new = (folder / record.RECORD).stat().st_mtime >= plan.made_at
    return result if result.status == "failed" and is_new else None


def states(
    plan: Plan, indices: Iterable[int], runs: Path, before: Mapping[int, CellState] | None = None
) -> dict[int, CellState]:
    """Return the states of cells by their index; what was settled ``before`` still is."""
    settled = {index: state for index, state in (before or {}).items() if state.is_settled}
    return {index: settled.get(index) or cell_state(plan, index, runs) for index in indices}


def hours_left(plan: Plan, cells: Mapping[int, CellState]) -> float | None:
    """Return the hours until all is done with the workers at work now; None if nothing tells.

    By the estimates of the plan; without these by the mean of the trainings done.
    """
    took = [state.hours for state in cells.values() if state.state == "done"]
    mean = sum(took) / len(took) if took else None
    total = 0.0
    for index, state in cells.items():
        needs = plan.cells[index].needs
        hours = needs.hours if needs else mean
        if state.is_settled:
            continue
        if hours is None:
            return None
        spent = (time.time() - state.begun) / 3600 if state.state == "running" else 0.0
        total += max(0.0, hours - spent)
    return total / max(1, sum(state.state == "running" for state in cells.values()))


def summary(plan: Plan, cells: Mapping[int, CellState]) -> str:
    """Return how many runs are in each state, and the time left."""
    counts: Counter[str] = Counter(state.state for state in cells.values())
    line = ", ".join(f"{counts[name]} {name}" for name in STATES) + f" of {len(cells)} runs"
    if hours := hours_left(plan, cells):
        amount = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
        line += f", about {amount} left"
    return line


def view(plan: Plan, cells: Mapping[int, CellState]) -> Group:
    """Return what runs where, what failed, and the summary, to print."""
    now = time.time()
    rows = [
        (
            index,
            plan.cells[index].spec.id,
            f"{state.host} ({state.process})",
            f"{(now - state.begun) / 60:.0f} min" if state.begun else "",
            f"{state.stage} {state.fraction:.0%}" if state.stage else "starting",
            state.attempts,
        )
        for index, state in cells.items()
        if state.state == "running"
    ]
    running = table(("cell", "run", "where", "for", "stage", "attempt"), rows)
    failed = [
        Text.assemble(("failed", "red"), f" {index} {plan.cells[index].spec.id}: {state.reason}")
        for index, state in cells.items()
        if state.state == "failed"
    ]
    return Group(*([running] if rows else []), *failed, Text(summary(plan, cells)))


def as_json(plan: Plan, cells: Mapping[int, CellState]) -> str:
    """Return the content of ``--json``."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "counts": Counter(state.state for state in cells.values()),
        "hours_left": hours_left(plan, cells),
        "cells": [
            {"cell": index, "run": plan.cells[index].spec.id, **asdict(state)}
            for index, state in cells.items()
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True)
