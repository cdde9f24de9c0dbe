"""Check records without data or models.

Validation finds mistakes and careless cheating: edited scores, wrong ledgers, missing seeds. If the
items and the checksums are rewritten too, only ``steelyard reproduce`` finds it.
"""

from dataclasses import dataclass
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.loading.items import Order
from steelyard.leaderboards.loading.packed import find_records, path_of
from steelyard.leaderboards.validate import items, method_scan, sets
from steelyard.leaderboards.validate.finding import Finding
from steelyard.leaderboards.validate.items import ItemCheck
from steelyard.leaderboards.validate.record import CHECKS, read_edited


@dataclass(frozen=True, slots=True)
class Validation:
    """Result of checking a folder of records."""

    runs: tuple[Run, ...]
    findings: tuple[Finding, ...]
    without_checksum: int
    """Number of records of schema 1, which had no checksum."""
    unchecked: tuple[str, ...]
    """Metrics that cannot be computed from items."""


def validate(
    path: Path,
    *,
    against: Path | None = None,
    method: Path | None = None,
    report: Progress = no_progress,
) -> Validation:
    """Check every record and tuning file under ``path``.

    Args:
        path: a folder of records, at any depth.
        against: a folder of published records; equal runs must have equal scores.
        method: the method file of a submission.
        report: called with the current record and the finished fraction.

    Raises:
        UserError: there is no record under ``path``, or no such folder or file.
    """
    files = find_records(path) if path.is_dir() else []
    if not files:
        raise UserError(f"No record under {path}: give a folder of finished runs.")
    findings: list[Finding] = []
    runs: list[Run] = []
    item_checks: dict[Path, ItemCheck] = {}
    # Most runs of a task share the order of their items, which is slow to read.
    orders: dict[str, Order] = {}
    for index, file in enumerate(files):
        report(f"checking {path_of(file).parent.name}", index / len(files))
        run = read_edited(file, findings)
        if run is None:
            continue
        runs.append(run)
        item_checks[run.folder] = items.check(run, orders)
        messages = [message for check in CHECKS for message in check(run)]
        messages += item_checks[run.folder].wrong
        findings += [Finding(run.folder, message) for message in messages]
    # Checks across runs need every record.
    findings += sets.check(path, runs, {run: check.ids for run, check in item_checks.items()})
    if against is not None:
        findings += sets.compare_published(runs, against)
    if method is not None:
        findings += [Finding(method, message) for message in method_scan.check(method, runs)]
    return Validation(
        runs=tuple(runs),
        findings=tuple(findings),
        without_checksum=sum(run.record.schema < 2 for run in runs),
        unchecked=tuple(sorted({name for check in item_checks.values() for name in check.skipped})),
    )
