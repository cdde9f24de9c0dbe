"""A run's result on disk: one ``record.json`` written last and atomically, items beside it."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from steelyard.harness.errors import UserError
from steelyard.harness.spec import RunSpec

SCHEMA = 1
RECORD = "record.json"
ITEMS = "items.parquet"


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a run cost, by phase; test evaluation is equal for all and not counted."""

    flops: Mapping[str, float]
    """Executed floating-point operations by phase."""
    seconds: Mapping[str, float]
    """Wall seconds on the device by phase, synchronised."""
    steps: int
    """Optimiser steps."""
    items: int
    """Training examples seen, repeats counted."""
    peak_bytes: int
    """Peak memory: device memory on a GPU, resident memory of the process on a CPU."""
    device: str
    limit_flops: float | None
    limit_seconds: float | None
    stopped: Literal["finished", "budget"]
    """Whether the method ended by itself or the meter stopped it."""

    @property
    def total_flops(self) -> float:
        """All phases together."""
        return sum(self.flops.values())

    @property
    def total_seconds(self) -> float:
        """All phases together."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one task variant."""

    task: str
    variant: str
    """``clean`` or ``corruption[:severity]``, for example ``image-noise:3``."""
    metric: str
    value: float
    n: int
    """Items scored."""
    stderr: float | None
    """Standard error over items (clusters where the task declares them)."""
    main: bool
    """Whether this is the task's main metric."""
    higher_is_better: bool | None
    """None for a number that only describes, such as the share of yes answers."""
    subset: str = ""
    """The part of the task's items it was taken over; empty for all of them."""
    shown: bool = False
    """Whether a board over several tasks gives it a column of its own."""


@dataclass(frozen=True, slots=True)
class Record:
    """Everything published about a run."""

    id: str
    label: str
    """The entry's name on the board."""
    spec: RunSpec
    status: Literal["done", "failed"]
    failure: str
    """Why and at which step a failed run failed; empty when done."""
    ledger: Ledger
    scores: tuple[Score, ...]
    provenance: Mapping[str, Any]
    """Code commit and dirty flag, versions, device, weights hash, data and item-id hashes."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """What the method logged, averaged over training: lambda, conflict rate, reliance ..."""
    schema: int = SCHEMA


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either whole or absent, also when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # a temporary file is private, a record is not
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error


def write(record: Record, folder: Path) -> None:
    """Write ``record.json``: the last act of a run, so its presence means the run is done."""
    write_json(folder / RECORD, asdict(record))


def read(folder: Path) -> Record:
    """Read a run's record; a broken or foreign file is a UserError naming the file."""
    path = folder / RECORD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != SCHEMA:
            raise UserError(f"{path}: schema {raw['schema']}, this version reads {SCHEMA}.")
        spec = RunSpec(**raw.pop("spec"))
        ledger = Ledger(**raw.pop("ledger"))
        scores = tuple(Score(**score) for score in raw.pop("scores"))
        return Record(spec=spec, ledger=ledger, scores=scores, **raw)
    except FileNotFoundError:
        raise UserError(f"No record at {path}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a steelyard record: {error}.") from error


def items_file(task: str, trained_on: str) -> str:
    """Name of the file with a task's items in a run's folder."""
    return ITEMS if task == trained_on else f"items-{task}.parquet"


def find(root: Path) -> list[Path]:
    """Folders under ``root`` that hold a finished record, in name order."""
    return sorted(path.parent for path in root.rglob(RECORD))
