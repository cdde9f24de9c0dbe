"""The tables of which items lost a side, published once however many runs were scored on them."""

from collections.abc import Sequence
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Record
from steelyard.leaderboards.loading.collect import Run
from steelyard.tasks.corruptions.missing import FOLDER, MISSING, file_name


def tables_of(runs: Sequence[Run]) -> dict[str, bytes]:
    """Name and content of each table of the runs' missing-modality variants.

    Raises:
        UserError: a run lacks a table, or two runs were scored with other items missing.
    """
    first: dict[str, Path] = {}
    for run in runs:
        for name in _names(run.record):
            path = run.folder / name
            if not path.is_file():
                raise UserError(f"No {path}: it says which items lost a side; copy the whole run.")
            known = first.setdefault(name, path)
            if path.read_bytes() != known.read_bytes():
                raise UserError(
                    f"{path} and {known} differ: score all runs of a board on the same data."
                )
    return {name: path.read_bytes() for name, path in sorted(first.items())}


def _names(record: Record) -> set[str]:
    """Where the tables of a record's variants lie in its folder."""
    scored = {
        (score.task, score.variant)
        for score in record.scores
        if any(part.partition(":")[0] in MISSING for part in score.variant.split("+"))
    }
    split = record.provenance["data"].get("split", "")
    return {f"{FOLDER}/{file_name(task, split, variant)}" for task, variant in scored}
