"""Checks of one record by itself."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, astuple
from functools import cache
from typing import Any

from steelyard import tasks
from steelyard.harness.budget.audit import TOLERANCE
from steelyard.harness.core.characters import is_invisible
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import file_hash
from steelyard.harness.core.options import Option
from steelyard.harness.models import registry
from steelyard.harness.records.budget import parse_budget
from steelyard.harness.records.record import Ledger, Score, checksum
from steelyard.leaderboards.loading.collect import Run, run_of
from steelyard.leaderboards.loading.packed import PackedFile, RunFile, load_record, path_of
from steelyard.leaderboards.validate.finding import Finding

ROUNDING = 1e-9


def read_edited(file: RunFile, findings: list[Finding]) -> Run | None:
    """Read a record even if its checksum is wrong; append errors to ``findings``."""
    folder = path_of(file).parent
    try:
        content = load_record(file)
        run = run_of(file, content)
    except UserError as error:
        findings.append(Finding(folder, str(error)))
        return None
    # Records of schema 1 have no checksum.
    if run.record.schema > 1 and run.record.seal != (computed := checksum(content)):
        findings.append(Finding(folder, f"edited: checksum {run.record.seal}, content {computed}"))
    return run


def check_names(run: Run) -> Iterator[str]:
    """Check that folder and id follow from the spec and names have no invisible characters."""
    record = run.record
    if record.id != record.spec.id:
        yield f"the id is {record.id}, the spec gives {record.spec.id}"
    if run.folder.name != record.id:
        yield f"the folder is called {run.folder.name}, the run {record.id}"
    for where, text in _texts(asdict(record)):
        if not text.isprintable() and any(map(is_invisible, text)):
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


def check_scores(run: Run) -> Iterator[str]:
    """Check that scores are finite and unique, with the directions of the task."""
    record = run.record
    if record.status == "failed":
        if record.scores:
            yield "a failed run has scores"
        return
    if record.kind == "entry" and record.provenance.get("data", {}).get("split") == "val":
        yield "scored on validation items, which is allowed for tuning trials only"
    keys: set[tuple[str, str, str, str]] = set()
    for score in record.scores:
        name = _name(score)
        if not math.isfinite(score.value) or not math.isfinite(score.stderr or 0.0):
            yield f"{name} is {score.value} ± {score.stderr}"
        if score.main and score.higher_is_better is None:
            yield f"{name} is the main metric and has no direction"
        key = (score.task, score.variant, score.metric, score.subset)
        if key in keys:
            yield f"{name} occurs twice"
        keys.add(key)
    yield from _directions(record.scores)


def _directions(scores: Iterable[Score]) -> Iterator[str]:
    first: dict[tuple[str, str], Score] = {}
    for score in scores:
        # Variants share the direction: one finding per metric is enough.
        first.setdefault((score.task, score.metric), score)
    for score in first.values():
        declared = _declared(score.task)
        if score.metric in declared and declared[score.metric] != score.higher_is_better:
            yield (
                f"{_name(score)}: higher is better is {score.higher_is_better}, the task says "
                f"{declared[score.metric]}"
            )


@cache
def _declared(task: str) -> Mapping[str, bool | None]:
    """Return the directions of a task's metrics; nothing for a task that is not ours."""
    return tasks.info(task).metrics if task in tasks.names() else {}


def _name(score: Score) -> str:
    parts = (score.task, score.variant, score.subset, score.metric)
    return " ".join(part for part in parts if part)


def check_ledger(run: Run) -> Iterator[str]:
    """Check limits against the budget, and FLOPs, steps and items against the limits."""
    record = run.record
    ledger, spec = record.ledger, record.spec
    if spec.task == tasks.NOTHING:
        return  # an untrained model spent nothing
    budget = parse_budget(spec.budget, spec.track, spec.wall)
    # JSON has no infinity: the ledger has null for no limit.
    limits = (None if math.isinf(budget.flops) else budget.flops, budget.seconds, budget.items)
    if limits != (ledger.limit_flops, ledger.limit_seconds, ledger.limit_items):
        recorded = (ledger.limit_flops, ledger.limit_seconds, ledger.limit_items)
        yield f"the budget gives limits (FLOPs, seconds, items) {limits}, the ledger has {recorded}"
    numbers = [*ledger.flops.values(), *ledger.seconds.values(), ledger.steps, ledger.items]
    if any(not math.isfinite(number) or number < 0 for number in numbers):
        yield "the ledger has a number that is negative or not finite"
    # A sum of floats by phase may exceed the limit in its last digits.
    if ledger.total_flops > budget.flops * (1 + ROUNDING):
        yield f"{ledger.total_flops:.4g} FLOPs used of {budget.flops:.4g}"
    if budget.items is not None and ledger.items > budget.items:
        yield f"{ledger.items} items used of {budget.items}"
    yield from _generation(ledger)
    batch = _batch_size(spec.backbone, tuple(spec.backbone_options.items()))
    if batch is not None and ledger.items > ledger.steps * batch:
        yield f"{ledger.items} items in {ledger.steps} steps of at most {batch}"
    if ledger.steps and not ledger.total_flops:
        yield f"{ledger.steps} steps without FLOPs"
    if ledger.unposted > TOLERANCE:
        yield f"{ledger.unposted:.0%} of the audited FLOPs were not counted by the meter"
    if record.schema > 1 and record.status == "done" and not ledger.audited:
        yield "no window of the run was audited"


def _generation(ledger: Ledger) -> Iterator[str]:
    """Compute the charge of sampled answers again, from their tokens and prices."""
    charges: defaultdict[str, float] = defaultdict(float)
    for part in ledger.generation:
        numbers = [value for value in astuple(part) if not isinstance(value, str)]
        if any(not math.isfinite(number) or number < 0 for number in numbers):
            yield f"the tokens of {part.phase} have a number that is negative or not finite"
        charges[part.phase] += part.flops
    for phase, flops in charges.items():
        # The phase may have other passes besides.
        if flops > ledger.flops.get(phase, 0.0) * (1 + ROUNDING):
            recorded = ledger.flops.get(phase, 0.0)
            yield f"the tokens of {phase} cost {flops:.4g} FLOPs, the ledger has {recorded:.4g}"


@cache
def _batch_size(backbone: str, options: tuple[tuple[str, Option], ...]) -> int | None:
    """Return the items per step; None if the backbone's files are not on this machine."""
    try:
        return registry.configure(backbone, dict(options)).batch_size
    except UserError:
        return None


def check_tables(run: Run) -> Iterator[str]:
    """Check that the item files are those that the run wrote."""
    record = run.record
    tables = record.provenance.get("tables")
    if tables is None and record.schema > 1 and record.scores:
        yield "the provenance lacks the hashes of the item files"
    for name, expected in (tables or {}).items():
        path = run.file(name)
        if not path.is_file():
            yield f"{name} is missing"
        elif isinstance(path, PackedFile):
            # Packing has compared the hash of the file.
            if not path.is_unchanged():
                yield f"{name} was changed after it was packed"
        elif file_hash(path) != expected:
            yield f"{name} was changed: its hash is {file_hash(path)}, recorded is {expected}"


def check_weights(run: Run) -> Iterator[str]:
    """Check that the hash of the weights is recorded, since version 2 of the rules."""
    record = run.record
    required = record.provenance.get("rules", 1) != 1
    if required and record.status == "done" and not record.provenance.get("weights"):
        yield "the provenance lacks the hash of the weights that gave the scores"


CHECKS: tuple[Callable[[Run], Iterator[str]], ...] = (
    check_names,
    check_scores,
    check_ledger,
    check_tables,
    check_weights,
)
"""Checks in the order of their findings."""
