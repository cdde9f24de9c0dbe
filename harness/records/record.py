"""Record of a run: ``record.json`` in the run's folder, written last, next to tables of items.

Field names are the keys of ``record.json`` and stay as they are: published records are read back.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import write_json
from steelyard.harness.core.folders import tree
from steelyard.harness.core.options import fits
from steelyard.harness.core.readers import read_object, short_repr
from steelyard.harness.records.generation import Generation, total
from steelyard.harness.records.spec import RunSpec

SCHEMA = 2
READABLE = (1, 2)
"""Schema 1 had no checksum, no kind of record and no tracks: those take their defaults."""
RULES = 3
"""Version of RULES.md that a run follows; only results of one version are comparable."""
RECORD = "record.json"
ITEMS = "items.parquet"
ARTEFACTS = ("features", "mine", "teacher")
"""Phases whose results (mined answers, a teacher, cached features) other runs could reuse."""

PARTS = ("code", "data", "packages", "scored")
"""Objects of ``provenance``."""

RecordKind = Literal["entry", "oracle", "trial"]
"""Row of a board, run whose settings were chosen on the test split, or trial of a tuning."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Cost of a run by phase, without test evaluation, which is equal for all methods."""

    flops: Mapping[str, float]
    """Executed floating-point operations by phase."""
    seconds: Mapping[str, float]
    """Wall-clock seconds by phase, with the device synchronised."""
    steps: int
    items: int
    """Prompts trained on (questions, or examples of a classifier), counted again when repeated."""
    peak_bytes: int
    """Peak bytes of tensors: by torch's allocator of a GPU, on a CPU within audited windows."""
    device: str
    limit_flops: float | None
    limit_seconds: float | None
    stopped: Literal["finished", "budget"]
    """``finished`` if the method ended by itself, ``budget`` if the meter stopped it."""
    limit_items: int | None = None
    """Number of prompts at which the data track ends."""
    audited: int = 0
    """Number of windows of the run whose FLOPs were compared with torch's own counter."""
    unposted: float = 0.0
    """Largest fraction of an audited window's FLOPs that the meter did not count."""
    answers: int = 0
    """Answers to those prompts that losses took; 0 in records that did not count them."""
    generation: tuple[Generation, ...] = ()
    """Tokens of sampled answers by phase, and their prices; empty in records without them."""

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def artefact_flops(self) -> float:
        return sum(self.flops.get(phase, 0.0) for phase in ARTEFACTS)

    def amortised_flops(self, uses: int) -> float:
        """Return the total FLOPs if ``uses`` runs share the cost of the artefacts."""
        return self.total_flops - self.artefact_flops * (1 - 1 / uses)


def merged(ledgers: Sequence[Ledger]) -> Ledger:
    """Return the ledger of all ranks: the sum of FLOPs, and seconds of the slowest one.

    Steps, items and answers are those of all ranks in each ledger already.
    """
    phases = sorted({phase for ledger in ledgers for phase in ledger.flops})
    return replace(
        ledgers[0],
        flops={phase: sum(ledger.flops.get(phase, 0.0) for ledger in ledgers) for phase in phases},
        seconds=max(ledgers, key=lambda ledger: ledger.total_seconds).seconds,
        peak_bytes=max(ledger.peak_bytes for ledger in ledgers),
        audited=min(ledger.audited for ledger in ledgers),
        unposted=max(ledger.unposted for ledger in ledgers),
        generation=total(part for ledger in ledgers for part in ledger.generation),
    )


UNPARSED = ("unparsed", "invalid")
"""Metrics that count answers of which a task could read nothing."""


@dataclass(frozen=True, slots=True)
class Score:
    """Value of one metric on one variant of a task."""

    task: str
    variant: str
    """``clean``, or corruptions such as ``image-noise:3`` and ``image-noise:3+text-typo:2``."""
    metric: str
    value: float
    n: int
    """Number of items scored."""
    stderr: float | None
    """Standard error over items, or over clusters if the task declares them."""
    main: bool
    """True for the main metric of the task."""
    higher_is_better: bool | None
    """None for a number that only describes, such as the fraction of yes answers."""
    subset: str = ""
    """Subset of the task's items; empty for all."""
    shown: bool = False
    """True if a board over several tasks has a column for it."""


@dataclass(frozen=True, slots=True)
class Record:
    """Published facts about a run."""

    id: str
    label: str
    """Name of the entry on the board."""
    spec: RunSpec
    status: Literal["done", "failed"]
    failure: str
    """Why and at which step a failed run failed; empty when done."""
    ledger: Ledger
    scores: tuple[Score, ...]
    provenance: Mapping[str, Any]
    """Source hash, commit and layout, versions, device, hashes of weights, data and item ids."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Values that the method logged, averaged over training: lambda, conflict rate ..."""
    kind: RecordKind = "entry"
    schema: int = SCHEMA
    seal: str = ""
    """Checksum of all other fields; set by ``write``."""

    @property
    def origin(self) -> Literal["trained", "as it is", "trained elsewhere", "answers from a file"]:
        """Return where the scored answers come from."""
        # The task of a model that was not trained here.
        if self.spec.task != "none":
            return "trained"
        elsewhere = self.provenance.get("elsewhere")
        if elsewhere is None:
            return "as it is"
        return "answers from a file" if "answers" in elsewhere else "trained elsewhere"

    @property
    def declared_flops(self) -> float | None:
        """Return the cost of training elsewhere that the user declared; None if unknown."""
        flops: float | None = self.provenance.get("elsewhere", {}).get("flops")
        return flops

    @property
    def unparsed(self) -> dict[tuple[str, str], float]:
        """Return the fraction of unparsed answers by task and variant, where it is half or more."""
        return {
            (score.task, score.variant): score.value
            for score in self.scores
            if score.metric in UNPARSED and not score.subset and score.value >= 0.5
        }

    @property
    def layout(self) -> int:
        """Layout of the source that made the run: 1 had flat folders, 2 has nested packages."""
        return int(self.provenance.get("code", {}).get("layout", 1))


def unparsed_lines(record: Record) -> list[str]:
    """Say on which tasks most answers could not be read."""
    return [
        f"{100 * fraction:.0f} % of the answers to {task} ({variant}) could not be read: its other "
        "scores say little about the model"
        for (task, variant), fraction in record.unparsed.items()
    ]


def checksum(content: Mapping[str, Any]) -> str:
    """Hash a record's JSON but ``seal``, independent of spacing and key order: 32 hex digits."""
    rest = {name: value for name, value in content.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write(record: Record, folder: Path) -> Record:
    """Write ``record.json`` with its checksum. Call it last: the file means that a run is done."""
    record = replace(record, seal=checksum(asdict(record)))
    write_json(folder / RECORD, asdict(record))
    return record


def read(folder: Path, file: str = RECORD) -> Record:
    """Read a run's record and verify its checksum.

    Raises:
        UserError: the file is missing, broken, of an unknown schema, or was changed after it was
            written.
    """
    path = folder / file
    return parse(verified(load(path), path), path)


def verified(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the JSON of the record at ``path``; UserError if its checksum is wrong."""
    # Schema 1 had no checksum.
    if content["schema"] > 1 and content.get("seal") != checksum(content):
        raise UserError(
            f"{path} was changed after it was written: its checksum is {content.get('seal')}, its "
            f"content gives {checksum(content)}. 'steelyard validate' says what does not fit."
        )
    return content


def load(path: Path) -> dict[str, Any]:
    """Read the JSON of a record with a readable schema; its checksum is not verified."""
    if not path.is_file():
        raise UserError(f"No record at {path}.")
    return readable(read_object(path), path)


def readable(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the JSON of the record at ``path``; UserError if its schema is not readable."""
    if "schema" not in content:
        raise UserError(f"{path} is not a steelyard record: it has no schema.")
    if content["schema"] not in READABLE:
        readable_schemas = " and ".join(map(str, READABLE))
        raise UserError(
            f"{path}: schema {content['schema']}, this version reads {readable_schemas}."
        )
    return content


def parse(content: Mapping[str, Any], path: Path) -> Record:
    """Build a record from the JSON of ``path``; missing fields take their defaults."""
    try:
        parts = dict(content)
        parts["spec"] = build(RunSpec, parts["spec"])
        parts["ledger"] = build_ledger(parts["ledger"])
        parts["scores"] = tuple(build(Score, score) for score in parts["scores"])
        record: Record = build(Record, parts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a steelyard record: {error}.") from error
    for name in PARTS:
        if not isinstance(record.provenance.get(name, {}), Mapping):
            raise UserError(f"{path} is not a steelyard record: provenance has no object {name}.")
    return record


def build_ledger(values: Mapping[str, Any]) -> Ledger:
    """Build a ledger from JSON; TypeError if a value has another type."""
    values = dict(**values)  # TypeError if it is no object
    generation = tuple(build(Generation, part) for part in values.get("generation", ()))
    ledger: Ledger = build(Ledger, values | {"generation": generation})
    return ledger


def build(kind: Any, values: Mapping[str, Any]) -> Any:
    """Build a dataclass of a record from JSON; TypeError if a value has another type."""
    part = kind(**values)
    types = _types(kind)
    for name, value in values.items():
        declared, plain = types[name]
        # First the common case, for there are tens of thousands of scores.
        if type(value) not in plain and not fits(value, declared):
            raise TypeError(f"{kind.__name__}.{name} is {short_repr(value)}")
    return part


@cache
def _types(kind: Any) -> dict[str, tuple[Any, frozenset[type]]]:
    """Return the declared type of each field, and the classes of which every value has it."""
    types = {}
    for name, declared in get_type_hints(kind).items():
        is_union = get_origin(declared) in (Union, UnionType)
        parts = get_args(declared) if is_union else (declared,)
        types[name] = declared, frozenset(part for part in parts if type(part) is type)
    return types


def items_file(task: str, trained_on: str) -> str:
    """Return the name of the table of a task's items in a run's folder."""
    # Names of lmms-eval's tasks have a slash: stock/pope.
    return ITEMS if task == trained_on else f"items-{task.replace('/', '-')}.parquet"


def find(root: Path) -> list[Path]:
    """List the folders under ``root`` that have a record, in name order."""
    folders = (Path(folder) for folder, names in tree(root) if RECORD in names)
    # Faster than to sort the paths themselves.
    return sorted(folders, key=lambda folder: folder.parts)
