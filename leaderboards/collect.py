"""From run folders to one long table of scores, and the items behind them when asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from steelyard.harness.errors import UserError
from steelyard.harness.record import Record, find, items_file, read
from steelyard.harness.spec import RunSpec
from steelyard.leaderboards import item_table
from steelyard.leaderboards.stats import Items
from steelyard.tasks import NOTHING

COLUMNS = (
    "task", "label", "seed", "variant", "metric", "value", "main", "higher_is_better", "n",
    "stderr", "status", "flops", "seconds", "steps", "items", "peak_bytes", "device", "backbone",
    "budget", "id",
)  # fmt: skip

MORE_COLUMNS = ("scored_on", "subset")
"""Only where some run needs them: ``task`` is what was trained on."""


@dataclass(frozen=True, slots=True)
class Run:
    """One finished or failed run and where it lies."""

    folder: Path
    record: Record

    def items(self, classes: int, task: str | None = None) -> dict[str, Items]:
        """The scored items of each variant, sorted by id; ``classes`` is the width C.

        ``task`` is the one trained on unless named.
        """
        table = item_table.read(self.items_path(task), [*item_table.CLASSES, *item_table.VALUES])
        return item_table.items_of(table, item_table.order_of(table), classes)

    def items_path(self, task: str | None = None) -> Path:
        """Where the items of a task lie, of the one trained on unless named."""
        trained_on = self.record.spec.task
        return self.folder / items_file(task or trained_on, trained_on)


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of a board, ordered by task, label and seed."""

    runs: tuple[Run, ...]
    scores: pd.DataFrame
    """One row a (task, label, seed, variant, metric), columns ``COLUMNS`` and ``MORE_COLUMNS``.

    A failed run has one row without variant, metric and value.
    """

    def of(self, task: str) -> tuple[Run, ...]:
        """The runs of one task."""
        return tuple(run for run in self.runs if run.record.spec.task == task)

    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return sorted({run.record.spec.task for run in self.runs})


def collect(
    folders: Sequence[Path], *, backbone: str | None = None, budget: str | None = None
) -> Runs:
    """Read every record under ``folders``, only those of one backbone or budget where given.

    Raises:
        UserError: no record is found, two records claim the same (label, task, seed), or the runs
            of a task differ in backbone, budget or data, which no board may compare.
    """
    found = [Run(path, read(path)) for folder in folders for path in find(folder)]
    kept = [
        run
        for run in found
        if backbone in (None, backbone_name(run.record.spec))
        and budget in (None, run.record.spec.budget)
    ]
    where = ", ".join(map(str, folders))
    if not found:
        raise UserError(f"No record under {where or 'no folder'}: finish a run first.")
    if not kept:
        raise UserError(
            f"None of {len(found)} records under {where} has backbone {backbone or 'any'} and "
            f"budget {budget or 'any'}: loosen --backbone or --budget."
        )
    _check_comparable(kept)
    runs = sorted(_without_copies(kept), key=_identity)
    rows = [row for run in runs for row in _rows(run.record)]
    more = [name for name in MORE_COLUMNS if any(name in row for row in rows)]
    return Runs(tuple(runs), pd.DataFrame(rows, columns=[*COLUMNS, *more]))


def backbone_name(spec: RunSpec) -> str:
    """The backbone with the options that were changed: ``tiny(head=concat)``."""
    changed = ", ".join(f"{key}={value}" for key, value in sorted(spec.backbone_options.items()))
    return f"{spec.backbone}({changed})" if changed else spec.backbone


def _identity(run: Run) -> tuple[str, str, int]:
    return run.record.spec.task, run.record.label, run.record.spec.seed


def _without_copies(runs: Iterable[Run]) -> list[Run]:
    """Each run once; the same record lying in two folders is no contradiction."""
    first: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        other = first.setdefault(_identity(run), run)
        if other.record != run.record:
            task, label, seed = _identity(run)
            raise UserError(
                f"Two different runs of {label} on {task} with seed {seed}: {other.folder} and "
                f"{run.folder}. Keep one of them."
            )
    return list(first.values())


def _check_comparable(runs: Sequence[Run]) -> None:
    for task in sorted({run.record.spec.task for run in runs}):
        specs = [run.record.spec for run in runs if run.record.spec.task == task]
        if task != NOTHING:  # of models as they are, the backbone is what is compared
            _one_only(task, "backbones", {backbone_name(spec) for spec in specs}, "--backbone")
        _one_only(task, "budgets", {spec.budget for spec in specs}, "--budget")
        data = {", ".join(f"{k}={v}" for k, v in sorted(spec.data.items())) for spec in specs}
        _one_only(task, "data revisions", data, "the folders you give")


def _one_only(task: str, what: str, names: set[str], choice: str) -> None:
    if len(names) > 1:
        listed = " and ".join(f"'{name}'" for name in sorted(names))
        raise UserError(f"The runs of {task} have {len(names)} {what}, {listed}: a board compares "
                        f"one. Choose it with {choice}.")  # fmt: skip


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    ledger, spec = record.ledger, record.spec
    run = {
        "task": spec.task,
        "label": record.label,
        "seed": spec.seed,
        "status": record.status,
        "flops": ledger.total_flops,
        "seconds": ledger.total_seconds,
        "steps": ledger.steps,
        "items": ledger.items,
        "peak_bytes": ledger.peak_bytes,
        "device": ledger.device,
        "backbone": backbone_name(spec),
        "budget": spec.budget,
        "id": record.id,
    }
    if record.status == "failed":
        yield run
        return
    for score in sorted(record.scores, key=lambda score: (score.variant, score.metric)):
        yield run | {
            **({"scored_on": score.task} if score.task != spec.task else {}),
            **({"subset": score.subset} if score.subset else {}),
            "variant": score.variant,
            "metric": score.metric,
            "value": score.value,
            "main": score.main,
            "higher_is_better": score.higher_is_better,
            "n": score.n,
            "stderr": score.stderr,
        }
