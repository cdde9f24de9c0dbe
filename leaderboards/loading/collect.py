"""Collect the records under folders into runs, and their scores into one long table."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Record, items_file, parse, verified
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.provenance import data_revisions
from steelyard.leaderboards.loading.memo import remembered
from steelyard.leaderboards.loading.packed import (
    PackedFile,
    RunFile,
    find_records,
    key_of,
    load_record,
    path_of,
)
from steelyard.tasks import NOTHING

COLUMNS = (
    "task", "label", "seed", "variant", "metric", "value", "main", "higher_is_better", "n",
    "stderr", "status", "flops", "seconds", "steps", "items", "peak_bytes", "device", "backbone",
    "budget", "id",
)  # fmt: skip

MORE_COLUMNS = ("scored_on", "subset", "track")
"""Columns that exist only if a run needs them; ``task`` is the one trained on."""


@dataclass(frozen=True, slots=True)
class Run:
    """Finished or failed run and its folder."""

    folder: Path
    record: Record
    packed: Path | None = None
    """Folder of the Parquet files that hold it, of which ``folder`` would be a part."""

    def file(self, name: str) -> RunFile:
        if self.packed is None:
            return self.folder / name
        return PackedFile(self.packed, (self.folder / name).relative_to(self.packed).as_posix())

    def items(self, task: str) -> RunFile:
        """Return the file of a task's items."""
        return self.file(items_file(task, self.record.spec.task))


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of all boards, ordered by task, label and seed."""

    runs: tuple[Run, ...]
    oracle: tuple[Run, ...] = ()
    """Runs whose settings were chosen on the test split: shown apart, never ranked."""

    @property
    def scores(self) -> pd.DataFrame:
        """Return one row per (task, label, seed, variant, metric).

        The columns are ``COLUMNS``, then the needed ones of ``MORE_COLUMNS``. A failed run has one
        row without variant, metric and value.
        """
        rows = [row for run in self.runs for row in _rows(run.record)]
        more = [name for name in MORE_COLUMNS if any(name in row for row in rows)]
        return pd.DataFrame(rows, columns=[*COLUMNS, *more])

    def of(self, task: str) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.record.spec.task == task)

    def groups(self, task: str) -> dict[str, list[Run]]:
        """Group the runs of one task by label."""
        groups: dict[str, list[Run]] = {}
        for run in self.of(task):
            groups.setdefault(run.record.label, []).append(run)
        return groups

    def tasks(self) -> list[str]:
        return sorted({run.record.spec.task for run in self.runs})


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read every record at and below the folders, by path; unchanged ones were verified before.

    Raises:
        UserError: as ``record.read``.
    """
    return [run for folder in folders for run in _read_runs(folder)]


def _read_runs(root: Path) -> Iterator[Run]:
    files, contents = find_records(root), {}
    keys = [key_of(file) for file in files]

    def texts(indices: Sequence[int]) -> Iterator[bytes]:
        for index in indices:
            file = files[index]
            contents[index] = verified(load_record(file), path_of(file))
            yield json.dumps(contents[index]).encode()

    root_name = os.fsencode(root.resolve())
    values = remembered("records", [root_name], keys, texts, at_once=100, compression="zstd")
    for index, (file, text) in enumerate(zip(files, values, strict=True)):
        content = contents.pop(index, None) or json.loads(bytes(text))
        yield run_of(file, content)


def run_of(file: RunFile, content: Mapping[str, Any]) -> Run:
    """Build a run from the file and the JSON of its record."""
    path = path_of(file)
    packed = file.root if isinstance(file, PackedFile) else None
    return Run(path.parent, parse(content, path), packed)


def collect(
    folders: Sequence[Path],
    *,
    backbone: str | None = None,
    budget: str | None = None,
    track: str | None = None,
) -> Runs:
    """Read the records under ``folders`` except tuning trials, optionally filtered.

    Raises:
        UserError: there is no record, two different records have the same (label, task, seed), or
            the runs of a task differ in backbone, track, budget, rules or data, which no board may
            compare.
    """
    records = read_runs(folders)
    # Trials choose settings on validation items: their scores are no results.
    finished = [run for run in records if run.record.kind != "trial"]
    selected = [
        run
        for run in finished
        if backbone in (None, backbone_name(run.record.spec))
        and budget in (None, cap_name(run.record.spec))
        and track in (None, run.record.spec.track)
    ]
    where = ", ".join(map(str, folders))
    if not finished:
        raise UserError(f"No record under {where or 'no folder'}: finish a run first.")
    if not selected:
        raise UserError(
            f"None of {len(finished)} records under {where} has backbone {backbone or 'any'}, "
            f"budget {budget or 'any'} and track {track or 'any'}: loosen --backbone, --budget or "
            "--track."
        )
    for run in selected:
        _check_finite(run)
    _check_comparable(selected)
    unique = sorted(_without_copies(_told_apart(selected)), key=identity)
    runs = [run for run in unique if run.record.kind == "entry"]
    oracle = tuple(run for run in unique if run.record.kind == "oracle")
    if not runs:
        raise UserError(f"All records under {where} are oracle runs, which are never ranked.")
    return Runs(tuple(runs), oracle)


def backbone_name(spec: RunSpec) -> str:
    """Return the backbone with its changed options: ``tiny(head=concat)``."""
    changed = ", ".join(f"{key}={value}" for key, value in sorted(spec.model_options.items()))
    return f"{spec.model}({changed})" if changed else spec.model


def cap_name(spec: RunSpec) -> str:
    """Return the budget, with its cap on seconds if it has one: ``S within 60 s``."""
    return spec.budget if spec.wall is None else f"{spec.budget} within {spec.wall:g} s"


def budget_name(spec: RunSpec) -> str:
    """Return the budget as boards show it: ``S``, or ``S of equal data`` on the data track."""
    return cap_name(spec) if spec.track == "compute" else f"{spec.budget} of equal {spec.track}"


def identity(run: Run) -> tuple[str, str, int]:
    """Return task, label and seed, by which a board orders its runs."""
    return run.record.spec.task, run.record.label, run.record.spec.seed


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return runs in which entries of one label and other content have labels of their own.

    These are models that were not trained here, and files of methods. They get as much of their
    path as differs, or else their content.
    """
    paths: dict[str, dict[str, str]] = {}
    for run in runs:
        if source := _source(run.record):
            _, path, content = source
            paths.setdefault(run.record.label, {}).setdefault(content, path)
    result = []
    for run in runs:
        label, source = run.record.label, _source(run.record)
        # Options stand behind the name. A method of the package has no content of its own.
        if source and source[2] and len(paths[label]) > 1 and label.startswith(source[0]):
            name, path, content = source
            others = [other for key, other in paths[label].items() if key != content]
            label = (_distinct(path, others) or f"{name}#{content[:8]}") + label.removeprefix(name)
        result.append(replace(run, record=replace(run.record, label=label)))
    return result


def _source(record: Record) -> tuple[str, str, str] | None:
    """Return name, path and content of what an entry is called after; None without a path."""
    spec = record.spec
    if record.origin in ("as it is", "trained elsewhere"):
        return spec.model_name, spec.backbone, str(record.provenance["weights"])
    if record.origin != "trained":
        return None
    return Path(spec.method.removesuffix(".py")).name, spec.method.removesuffix(".py"), spec.source


def _distinct(path: str, others: Sequence[str]) -> str | None:
    """Return the shortest end of a path that no other path ends with; None if there is none."""
    # Boards are published: no root of a machine.
    parts = [part for part in Path(path).parts if part != os.sep]
    for start in range(len(parts) - 1, -1, -1):
        end = tuple(parts[start:])
        if not any(Path(other).parts[-len(end) :] == end for other in others):
            return str(Path(*end))
    return None


def _without_copies(runs: Iterable[Run]) -> list[Run]:
    """Return each run once; records of one run in two folders are copies, but for its times."""
    first: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        earlier = first.setdefault(identity(run), run)
        if earlier is not run and _outcome(earlier.record) != _outcome(run.record):
            task, label, seed = identity(run)
            raise UserError(
                f"Two different runs of {label} on {task} with seed {seed}: {earlier.folder} and "
                f"{run.folder}. Keep one of them, or give one another --label."
            )
    return list(first.values())


def _outcome(record: Record) -> tuple[object, ...]:
    return record.spec.hash, record.status, record.failure, frozenset(record.scores)


def _check_comparable(runs: Sequence[Run]) -> None:
    for task in sorted({run.record.spec.task for run in runs}):
        records = [run.record for run in runs if run.record.spec.task == task]
        specs = [record.spec for record in records]
        _check_single(task, "tracks", {spec.track for spec in specs}, "--track")
        # Records older than the versions of the rules follow the first.
        rules = {str(record.provenance.get("rules", 1)) for record in records}
        _check_single(task, "versions of the rules", rules, "the folders you give")
        # Engines round differently, and so answer differently.
        engines = {_engine(record) for record in records if record.scores}
        _check_single(task, "engines that answered", engines, "the folders you give")
        if task != NOTHING:  # compared by backbone; without training there is no budget
            _check_single(task, "backbones", {backbone_name(spec) for spec in specs}, "--backbone")
            budgets = {cap_name(spec) for spec in specs}
            choice = "--budget, or show all of them with --track anytime"
            _check_single(task, "budgets", budgets, choice)
        # A cap on seconds buys more on a faster device.
        if any(spec.wall is not None for spec in specs):
            devices = {record.ledger.device for record in records}
            _check_single(task, "devices under a cap on seconds", devices, "the folders you give")
        data = {
            ", ".join([*(f"{k}={v}" for k, v in sorted(r.spec.data.items())), *data_revisions(r)])
            for r in records
        }
        _check_single(task, "data revisions", data, "the folders you give")


def _engine(record: Record) -> str:
    engine = record.provenance.get("engine", {"name": "transformers", "version": ""})
    return f"{engine['name']} {engine['version']}".strip()


def _check_finite(run: Run) -> None:
    for score in run.record.scores:
        if not math.isfinite(score.value):
            raise UserError(
                f"{run.folder}: {score.metric} of {score.task} on {score.variant} is "
                f"{score.value}, which no board can rank; evaluate the run again."
            )


def _check_single(task: str, noun: str, names: set[str], choice: str) -> None:
    if len(names) > 1:
        listed = " and ".join(f"'{name}'" for name in sorted(names))
        raise UserError(f"The runs of {task} have {len(names)} {noun}, {listed}: a board compares "
                        f"runs of one. Choose it with {choice}.")  # fmt: skip


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    ledger, spec = record.ledger, record.spec
    run = {
        "task": spec.task,
        "label": record.label,
        "seed": spec.seed,
        "status": record.status,
        # Training that was not metered did not cost nothing.
        "flops": ledger.total_flops if record.origin == "trained" else record.declared_flops,
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
        # Optional columns only where needed: most tables keep the same header.
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
