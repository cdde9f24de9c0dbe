"""The ``answers`` command: what a run answered, as a judge outside of this package wants it."""

import json
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.records import record


def lines(folder: Path, name: str, root: Path | None, max_bad: float) -> list[dict[str, Any]]:
    """Id, question, references and answer of every item of a variant, sorted by id.

    Raises:
        UserError: the run was not scored on it, did not answer in words, or knew other data.
    """
    found, variant = record.read(folder), tasks.parse_variant(name)
    path = folder / record.items_file(variant.task, found.spec.task)
    rows = _rows(path, variant) if path.is_file() else []
    if not rows:
        raise UserError(f"{folder} has no answers to {name}: steelyard evaluate {folder} {name}.")
    known = {example.id: example for example in _examples(found, variant.task, root, max_bad)}
    return [
        {
            "id": row["id"],
            "question": known[row["id"]].text,
            "references": list(known[row["id"]].answers),
            "answer": row["answer"],
        }
        for row in rows
    ]


def _rows(path: Path, variant: tasks.Variant) -> list[dict[str, Any]]:
    import pandas as pd

    table = pd.read_parquet(path)
    if "answer" not in table:
        raise UserError(f"{path} holds class probabilities, and no answers in words to judge.")
    chosen = table.loc[table["variant"] == variant.name, ["id", "answer"]]
    return [{str(key): value for key, value in row.items()} for row in chosen.to_dict("records")]


def _examples(found: record.Record, task: str, root: Path | None, max_bad: float) -> Any:
    """The items of the split that was scored, as the run knew them."""
    own = task == found.spec.task
    made = found.provenance if own else found.provenance["scored"][task]
    options = {key: value for key, value in found.spec.data.items() if own and key != "revision"}
    place = tasks.find_root(task, root)
    corpus = tasks.load(task, place, max_bad=max_bad, **options)
    if corpus.revision != made["data"]["revision"]:
        raise UserError(
            f"The data at {place} is not what {found.id} knew of {task} (revision "
            f"{corpus.revision}, not {made['data']['revision']}); give its --data-root."
        )
    return corpus.splits[made["data"]["split"]]


def as_text(rows: list[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
