"""A run's result on disk: one ``record.json`` written last and atomically, items beside it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import write_json
from steelyard.harness.records.spec import RunSpec

SCHEMA = 2
READABLE = (1, 2)
"""Schema 1 had no seal, no kind of record and no tracks: it is read with the defaults of those."""
RULES = 2
"""Version of RULES.md that a run follows; results are comparable within one."""
RECORD = "record.json"
ITEMS = "items.parquet"
ARTEFACTS = ("features", "mine", "teacher")
"""Phases whose product could be kept and used again by other runs."""

Kind = Literal["entry", "oracle", "trial"]
"""What a run is for: a board's row, one whose settings saw the test split, or a tuning trial."""


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
    limit_items: int | None = None
    """Training examples at which the data track ends."""
    audited: int = 0
    """Stretches of the run that were compared with torch's own counter."""
    unposted: float = 0.0
    """Largest share of such a stretch's FLOPs that the meter did not count."""

    @property
    def total_flops(self) -> float:
        """All phases together."""
        return sum(self.flops.values())

    @property
    def total_seconds(self) -> float:
        """All phases together."""
        return sum(self.seconds.values())

    @property
    def artefact_flops(self) -> float:
        """What was spent on mined answers, teachers and cached features."""
        return sum(self.flops.get(phase, 0.0) for phase in ARTEFACTS)

    def amortised_flops(self, uses: int) -> float:
        """All phases, with artefacts charged once for ``uses`` runs that share them."""
        return self.total_flops - self.artefact_flops * (1 - 1 / uses)


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
    kind: Kind = "entry"
    schema: int = SCHEMA
    seal: str = ""
    """Hash of all the rest; set when written."""


def sealed(content: Mapping[str, Any]) -> str:
    """Hash of a record's JSON without its seal, whatever the spacing and the order of its keys."""
    rest = {name: value for name, value in content.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write(record: Record, folder: Path) -> Record:
    """Write ``record.json``, sealed: the last act of a run, so its presence means it is done."""
    whole = replace(record, seal=sealed(asdict(record)))
    write_json(folder / RECORD, asdict(whole))
    return whole


def read(folder: Path) -> Record:
    """Read a run's record.

    Raises:
        UserError: names the file, which is missing, broken, foreign, of a schema that is not read
            here, or was changed after it was written.
    """
    path = folder / RECORD
    content = load(path)
    if content["schema"] > 1 and content.get("seal") != sealed(content):
        raise UserError(
            f"{path} was changed after it was written: its seal is {content.get('seal')}, its "
            f"content gives {sealed(content)}. 'steelyard validate' says what does not fit."
        )
    return parse(content, path)


def load(path: Path) -> dict[str, Any]:
    """The content of a record file of a schema that is read here, seal unchecked."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        schema = raw["schema"]
    except FileNotFoundError:
        raise UserError(f"No record at {path}.") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a steelyard record: {error}.") from error
    if schema not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise UserError(f"{path}: schema {schema}, this version reads {known}.")
    return dict(raw)


def parse(content: Mapping[str, Any], path: Path) -> Record:
    """A record from its file's content; fields of later schemas take their defaults."""
    try:
        parts = dict(content)
        spec = RunSpec(**parts.pop("spec"))
        ledger = Ledger(**parts.pop("ledger"))
        scores = tuple(Score(**score) for score in parts.pop("scores"))
        return Record(spec=spec, ledger=ledger, scores=scores, **parts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a steelyard record: {error}.") from error


def items_file(task: str, trained_on: str) -> str:
    """Name of the file with a task's items in a run's folder."""
    return ITEMS if task == trained_on else f"items-{task.replace('/', '-')}.parquet"


def find(root: Path) -> list[Path]:
    """Folders under ``root`` that hold a finished record, in name order."""
    found = (Path(folder) for folder, _, names in os.walk(root) if RECORD in names)
    return sorted(found, key=lambda folder: folder.parts)  # their own order, sooner
