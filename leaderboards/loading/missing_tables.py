"""Tables of which items lack a modality, published once for all runs."""

from collections.abc import Sequence

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Record
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.loading.packed import RunFile
from steelyard.leaderboards.output.escape import escape_formulas
from steelyard.tasks.corruptions.missing import FOLDER, MISSING, file_name


def tables_of(runs: Sequence[Run]) -> dict[str, bytes]:
    """Return name and content of each table of the runs' missing-modality variants.

    Raises:
        UserError: a run lacks a table, or the tables of two runs differ.
    """
    first: dict[str, RunFile] = {}
    for run in runs:
        for name in _names(run.record):
            path = run.file(name)
            if not path.is_file():
                raise UserError(
                    f"No {path}, which lists items without a modality; copy the folder."
                )
            other_path = first.setdefault(name, path)
            if path.read_bytes() != other_path.read_bytes():
                raise UserError(
                    f"{path} and {other_path} differ: score all runs of a board on the same data."
                )
    return {name: escape_formulas(path.read_bytes()) for name, path in sorted(first.items())}


def _names(record: Record) -> set[str]:
    """Return the paths of a record's tables within its folder."""
    scored = {
        (score.task, score.variant)
        for score in record.scores
        # A variant of both modalities joins two corruptions by a plus.
        if any(part.partition(":")[0] in MISSING for part in score.variant.split("+"))
    }
    split = record.provenance["data"].get("split", "")
    return {f"{FOLDER}/{file_name(task, split, variant)}" for task, variant in scored}
