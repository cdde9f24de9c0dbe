"""Whether records can be believed: each by itself, then against one another and the published ones.

What is checked needs no data set and no model. It finds mistakes and careless cheating: edited
scores, wrong ledgers, missing seeds. Whoever also rewrites the items and the checksums is found by
``steelyard reproduce`` only.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.budget.audit import TOLERANCE as UNPOSTED
from steelyard.harness.core import progress
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import file_hash
from steelyard.harness.models import registry
from steelyard.harness.records import record
from steelyard.harness.records.budget import parse_budget
from steelyard.harness.records.record import Record, Score, checksum
from steelyard.harness.records.spec import RunSpec
from steelyard.leaderboards.boards import item_scores
from steelyard.leaderboards.loading import items as item_table
from steelyard.leaderboards.loading.collect import Run

ROUNDING = 1e-9
INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories that no name needs: control and format characters, line separators."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, in one line."""

    where: Path
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {''.join(_plain(letter) for letter in self.what)}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at and what was found."""

    runs: tuple[Run, ...]
    findings: tuple[Finding, ...]
    unsealed: int
    """Records of a schema that had no checksum yet."""
    unchecked: tuple[str, ...]
    """Metrics that items do not give, so that nobody recomputed them."""


def validate(
    path: Path,
    *,
    against: Path | None = None,
    method: Path | None = None,
    report: progress.Progress = progress.no_progress,
) -> Report:
    """Check every record and tuning file under ``path``.

    Args:
        path: a folder of records, at any depth.
        against: a folder of published records; the same run must have scored the same there.
        method: the file whose results a submission shows.
        report: told which record is checked and the share of them that is done.

    Raises:
        UserError: there is no record under ``path``, or no such folder or file.
    """
    from steelyard.leaderboards.validate import method_scan, sets

    folders = record.find(path) if path.is_dir() else []
    if not folders:
        raise UserError(f"No record under {path}: give a folder of finished runs.")
    findings: list[Finding] = []
    runs: list[Run] = []
    items: dict[Path, item_scores.ItemCheck] = {}
    orders: dict[str, item_table.Order] = {}
    for place, folder in enumerate(folders):
        report(f"checking {folder.name}", place / len(folders))
        found = _read(folder, findings)
        if found is None:
            continue
        runs.append(Run(folder, found))
        findings += [Finding(folder, what) for check in CHECKS for what in check(folder, found)]
        items[folder] = item_scores.check(folder, found, orders)
        findings += [Finding(folder, what) for what in items[folder].wrong]
    findings += sets.check(path, runs, {place: each.ids for place, each in items.items()})
    if against is not None:
        findings += sets.jumps(runs, against)
    if method is not None:
        findings += [Finding(method, what) for what in method_scan.check(method, runs)]
    unsealed = sum(run.record.schema < 2 for run in runs)
    unchecked = sorted({metric for each in items.values() for metric in each.skipped})
    return Report(tuple(runs), tuple(findings), unsealed, tuple(unchecked))


def _read(folder: Path, findings: list[Finding]) -> Record | None:
    """The record however it was edited; what cannot be read is a finding."""
    path = folder / record.RECORD
    try:
        content = record.load(path)
        found = record.parse(content, path)
    except UserError as error:
        findings.append(Finding(folder, str(error)))
        return None
    if found.schema > 1 and found.seal != (computed := checksum(content)):
        findings.append(Finding(folder, f"edited: checksum {found.seal}, content {computed}"))
    return found


def names_are_plain(folder: Path, found: Record) -> Iterator[str]:
    """Identity: the folder and id follow from the spec, and nothing hides in a name."""
    if found.id != found.spec.id:
        yield f"the id is {found.id}, the spec gives {found.spec.id}"
    if folder.name != found.id:
        yield f"the folder is called {folder.name}, the run {found.id}"
    for where, text in _texts(asdict(found)):
        if any(unicodedata.category(letter) in INVISIBLE for letter in text):
            yield f"control characters in {where}: {json.dumps(text)}"


def _texts(value: Any, where: str = "record") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(str(key), f"a name in {where}")
            yield from _texts(inner, f"{where}.{key}" if where != "record" else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, where)


def _plain(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if unicodedata.category(letter) in INVISIBLE else letter


def scores_make_sense(folder: Path, found: Record) -> Iterator[str]:
    """Every number finite, every main metric directed as its task says, nothing said twice."""
    if found.status == "failed":
        if found.scores:
            yield "a failed run has scores"
        return
    if found.kind == "entry" and found.provenance.get("data", {}).get("split") == "val":
        yield "scored on validation items, which only tuning trials may be"
    seen: set[tuple[str, str, str, str]] = set()
    for score in found.scores:
        name = _name(score)
        if not math.isfinite(score.value) or not math.isfinite(score.stderr or 0.0):
            yield f"{name} is {score.value} ± {score.stderr}"
        if score.main and score.higher_is_better is None:
            yield f"{name} is the main metric and has no direction"
        key = (score.task, score.variant, score.metric, score.subset)
        if key in seen:
            yield f"{name} is given twice"
        seen.add(key)
    yield from _directions(found.scores)


def _directions(scores: Iterable[Score]) -> Iterator[str]:
    told: set[tuple[str, str]] = set()
    for score in scores:
        if (score.task, score.metric) in told:
            continue
        told.add((score.task, score.metric))
        declared = _declared(score.task)
        if score.metric in declared and declared[score.metric] != score.higher_is_better:
            yield (
                f"{_name(score)}: higher is better is {score.higher_is_better}, the task says "
                f"{declared[score.metric]}"
            )


@cache
def _declared(task: str) -> Mapping[str, bool | None]:
    """The directions of a task's metrics; of a task that is not known here, none."""
    return tasks.info(task).metrics if task in tasks.names() else {}


def _name(score: Score) -> str:
    parts = (score.task, score.variant, score.subset, score.metric)
    return " ".join(part for part in parts if part)


def ledger_fits_spec(folder: Path, found: Record) -> Iterator[str]:
    """The caps are those of the budget and were kept; work and steps belong together."""
    ledger, spec = found.ledger, found.spec
    if spec.task == tasks.NOTHING:
        return  # a model as it is: nothing was spent on it
    budget = parse_budget(spec.budget, spec.track, spec.wall)
    caps = (None if math.isinf(budget.flops) else budget.flops, budget.seconds, budget.items)
    if caps != (ledger.limit_flops, ledger.limit_seconds, ledger.limit_items):
        kept = (ledger.limit_flops, ledger.limit_seconds, ledger.limit_items)
        yield f"the budget means caps (FLOPs, seconds, items) of {caps}, the ledger has {kept}"
    numbers = [*ledger.flops.values(), *ledger.seconds.values(), ledger.steps, ledger.items]
    if any(not math.isfinite(number) or number < 0 for number in numbers):
        yield "the ledger holds a number that is negative or not finite"
    if ledger.total_flops > budget.flops * (1 + ROUNDING):
        yield f"{ledger.total_flops:.4g} FLOPs spent of {budget.flops:.4g}"
    if budget.items is not None and ledger.items > budget.items:
        yield f"{ledger.items} items trained of {budget.items}"
    batch = _batch_size(spec)
    if batch is not None and ledger.items > ledger.steps * batch:
        yield f"{ledger.items} items in {ledger.steps} steps of at most {batch}"
    if ledger.steps and not ledger.total_flops:
        yield f"{ledger.steps} steps without a single FLOP"
    if ledger.unposted > UNPOSTED:
        yield f"{ledger.unposted:.0%} of the audited FLOPs were executed behind the meter"
    if found.schema > 1 and found.status == "done" and not ledger.audited:
        yield "no stretch of the run was audited"


def _batch_size(spec: RunSpec) -> int | None:
    """Items a step; None of a backbone whose files lie on another machine."""
    try:
        return registry.configure(spec.backbone, spec.backbone_options).batch_size
    except UserError:
        return None


def tables_are_whole(folder: Path, found: Record) -> Iterator[str]:
    """The items' files are those that the run wrote."""
    tables = found.provenance.get("tables")
    if tables is None and found.schema > 1 and found.scores:
        yield "the provenance lacks the hashes of the items' files"
    for name, expected in (tables or {}).items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif file_hash(path) != expected:
            yield f"{name} was changed: its hash is {file_hash(path)}, recorded is {expected}"


def weights_are_told(folder: Path, found: Record) -> Iterator[str]:
    """Since the second version of the rules, the hash of the weights that gave the scores."""
    since = found.provenance.get("rules", 1) != 1
    if since and found.status == "done" and not found.provenance.get("weights"):
        yield "the provenance lacks the hash of the weights: nothing ties the scores to a model"


CHECKS: tuple[Callable[[Path, Record], Iterator[str]], ...] = (
    names_are_plain,
    scores_make_sense,
    ledger_fits_spec,
    tables_are_whole,
    weights_are_told,
)
"""Of one record by itself, in the order in which findings are printed."""
