"""From run folders to one long table of scores, and the items behind them when asked for."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Record, find, items_file, read
from steelyard.harness.records.spec import RunSpec
from steelyard.leaderboards.loading import items as item_table
from steelyard.tasks import NOTHING
from steelyard.tasks.weighted_metrics import Items

COLUMNS = (
    "task", "label", "seed", "variant", "metric", "value", "main", "higher_is_better", "n",
    "stderr", "status", "flops", "seconds", "steps", "items", "peak_bytes", "device", "backbone",
    "budget", "id",
)  # fmt: skip

MORE_COLUMNS = ("scored_on", "subset", "track")
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
        columns = [*item_table.CLASSES, *item_table.VALUES]
        table, order = item_table.read(self.items_path(task), columns)
        return item_table.items_of([table], order, classes, columns)[0]

    def items_path(self, task: str | None = None) -> Path:
        """Where the items of a task lie, of the one trained on unless named."""
        trained_on = self.record.spec.task
        return self.folder / items_file(task or trained_on, trained_on)


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of a board, ordered by task, label and seed."""

    runs: tuple[Run, ...]
    oracle: tuple[Run, ...] = ()
    """Runs whose settings saw the test split: to be shown apart, in no table and no rank."""

    @property
    def scores(self) -> pd.DataFrame:
        """One row a (task, label, seed, variant, metric), columns ``COLUMNS`` and ``MORE_COLUMNS``.

        A failed run has one row without variant, metric and value.
        """
        rows = [row for run in self.runs for row in _rows(run.record)]
        more = [name for name in MORE_COLUMNS if any(name in row for row in rows)]
        return pd.DataFrame(rows, columns=[*COLUMNS, *more])

    def of(self, task: str) -> tuple[Run, ...]:
        """The runs of one task."""
        return tuple(run for run in self.runs if run.record.spec.task == task)

    def groups(self, task: str) -> dict[str, list[Run]]:
        """The runs of one task by label."""
        found: dict[str, list[Run]] = {}
        for run in self.of(task):
            found.setdefault(run.record.label, []).append(run)
        return found

    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return sorted({run.record.spec.task for run in self.runs})


def collect(
    folders: Sequence[Path],
    *,
    backbone: str | None = None,
    budget: str | None = None,
    track: str | None = None,
) -> Runs:
    """Read every record under ``folders``, of one backbone, budget or track where given.

    Trials of tuning are left out.

    Raises:
        UserError: no record is found, two records claim the same (label, task, seed), or the runs
            of a task differ in backbone, track, budget, rules or data, which no board may compare.
    """
    paths = [path for folder in folders for path in find(folder)]
    runs = [Run(path, read(path)) for path in paths]
    found = [run for run in runs if run.record.kind != "trial"]
    kept = [
        run
        for run in found
        if backbone in (None, backbone_name(run.record.spec))
        and budget in (None, cap_name(run.record.spec))
        and track in (None, run.record.spec.track)
    ]
    where = ", ".join(map(str, folders))
    if not found:
        raise UserError(f"No record under {where or 'no folder'}: finish a run first.")
    if not kept:
        raise UserError(
            f"None of {len(found)} records under {where} has backbone {backbone or 'any'}, "
            f"budget {budget or 'any'} and track {track or 'any'}: loosen --backbone, --budget or "
            "--track."
        )
    for run in kept:
        _check_finite(run)
    _check_comparable(kept)
    unique = sorted(_without_copies(kept), key=_identity)
    runs = [run for run in unique if run.record.kind == "entry"]
    oracle = tuple(run for run in unique if run.record.kind == "oracle")
    if not runs:
        raise UserError(f"All records under {where} are those of an oracle, which never ranks.")
    return Runs(tuple(runs), oracle)


def backbone_name(spec: RunSpec) -> str:
    """The backbone with the options that were changed: ``tiny(head=concat)``."""
    changed = ", ".join(f"{key}={value}" for key, value in sorted(spec.backbone_options.items()))
    return f"{spec.backbone}({changed})" if changed else spec.backbone


def cap_name(spec: RunSpec) -> str:
    """The budget, with its cap on seconds where it has one: ``S within 60 s``."""
    return spec.budget if spec.wall is None else f"{spec.budget} within {spec.wall:g} s"


def budget_name(spec: RunSpec) -> str:
    """The budget as a board shows it: ``S``, or ``S of equal data`` on the data track."""
    return cap_name(spec) if spec.track == "compute" else f"{spec.budget} of equal {spec.track}"


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
        records = [run.record for run in runs if run.record.spec.task == task]
        specs = [record.spec for record in records]
        _one_only(task, "tracks", {spec.track for spec in specs}, "--track")
        rules = {str(record.provenance.get("rules", 1)) for record in records}
        _one_only(task, "versions of the rules", rules, "the folders you give")
        if task != NOTHING:  # of models as they are, the backbone is what is compared
            _one_only(task, "backbones", {backbone_name(spec) for spec in specs}, "--backbone")
        _one_only(
            task,
            "budgets",
            {cap_name(spec) for spec in specs},
            "--budget, or show all of them with --track anytime",
        )
        if any(spec.wall is not None for spec in specs):
            devices = {record.ledger.device for record in records}
            _one_only(task, "devices under a cap on seconds", devices, "the folders you give")
        data = {", ".join(f"{k}={v}" for k, v in sorted(spec.data.items())) for spec in specs}
        _one_only(task, "data revisions", data, "the folders you give")


def _check_finite(run: Run) -> None:
    for score in run.record.scores:
        if not math.isfinite(score.value):
            raise UserError(
                f"{run.folder}: {score.metric} of {score.task} on {score.variant} is "
                f"{score.value}, which no board can rank; evaluate the run again."
            )


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
        **({} if spec.track == "compute" else {"track": spec.track}),
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
