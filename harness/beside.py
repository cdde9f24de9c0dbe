"""What lies beside a run's record: which items lost a side, and what attacks on its model cost."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from steelyard import tasks
from steelyard.harness.data import Corpus
from steelyard.harness.errors import UserError
from steelyard.harness.record import write_json
from steelyard.tasks import missing

ATTACKS = "attacks.json"
Cost = Mapping[str, float]
"""FLOPs and seconds of an attack on all items of a variant, its epsilon and its steps."""


def write_missing(folder: Path, variant: tasks.Variant, split: str, corpus: Corpus | None) -> None:
    """Write the table of a variant whose items lose something; nothing for any other variant.

    Without the data, or without the split, there is nothing that could be scored either.
    """
    if variant.missing is None or corpus is None or split not in corpus.splits:
        return
    path = folder / missing_table(variant, split)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(missing.table(missing.of(variant, split, corpus.splits[split])))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error


def missing_table(variant: tasks.Variant, split: str) -> str:
    """Where the table lies in a run's folder: ``missing/food101-test-image-missing-70.csv``."""
    return f"{missing.FOLDER}/{missing.file_name(variant.task, split, variant.name)}"


def missing_tables(variants: Iterable[str], split: str) -> set[str]:
    """Where the tables of all variants lie that have one."""
    parsed = map(tasks.parse_variant, variants)
    return {missing_table(variant, split) for variant in parsed if variant.missing}


def add_attack(folder: Path, variant: str, cost: Cost | None) -> None:
    """Remember what an attack cost, before the variant counts as scored."""
    if cost is not None:
        write_json(folder / ATTACKS, {**attacks(folder), variant: dict(cost)})


def attacks(folder: Path) -> dict[str, Cost]:
    """Costs of all attacks on a run's model, by variant."""
    path = folder / ATTACKS
    found: dict[str, Cost] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def bring_back(folder: Path, provenance: Mapping[str, Mapping[str, Cost]]) -> None:
    """Write the costs that a record holds, where it came without their file."""
    known = provenance.get("attacks", {})
    if known:
        write_json(folder / ATTACKS, {**known, **attacks(folder)})
