"""The missing-modality protocol: at a given rate, which items of a split lose which side.

After Lee et al., Multimodal Prompting with Missing Modalities, CVPR 2023
(``missing_aware_prompts``):
the rate is a percentage of items; under ``both-missing`` half of the chosen items lose the image
and half the text, none loses both. As there, counts are rounded down.

Which items those are is drawn once for a task, a split and a seed by a hash of their ids. The exact
count is taken from the front of that order, so the items of a higher rate contain those of a lower
one and lose the same side. Drawn from are the items of the whole split that have what may be lost,
whatever ``--limit`` then scores. The drawn items are a table that stands beside the record.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Modality
from steelyard.harness.core.seeds import seed_for

if TYPE_CHECKING:
    from steelyard.tasks.corruptions.variants import Variant

FOLDER = "missing"
"""Of a run and of published boards, holds the tables."""
HEADER = ("id", "lost")
RATE_STEP = 10
"""Of a range of rates."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What may be lost."""

    modality: Literal["image", "text", "both"]
    order: tuple[Modality, ...]
    """What the chosen items lose, one after another and round again."""
    summary: str


MISSING: dict[str, Missing] = {
    "image-missing": Missing("image", ("image",), "image removed from a percentage of items"),
    "text-missing": Missing("text", ("text",), "evidence removed from a percentage of items"),
    # The text first, for an odd count is halved in its favour in the published code.
    "both-missing": Missing(
        "both",
        ("text", "image"),
        "image removed from one half of a percentage, text from the other",
    ),
}


def lost(
    kind: str, rate: int, seed: int, task: str, split: str, examples: Sequence[Example]
) -> dict[str, Modality]:
    """The side that each chosen item loses, by its id, in the order in which they are drawn.

    Args:
        kind: a key of ``MISSING``.
        rate: percentage from 0 to 100.
        examples: the whole split.
    """
    order = MISSING[kind].order
    able = [
        example.id for example in examples if all(_has(example, modality) for modality in order)
    ]
    able.sort(key=lambda id_: seed_for("missing", task, split, seed, id_))
    count = rate * len(able) // 100
    return {id_: order[place % len(order)] for place, id_ in enumerate(able[:count])}


def of(variant: "Variant", split: str, examples: Sequence[Example]) -> dict[str, Modality]:
    """``lost`` of a task's variant; nothing under damage of another kind."""
    corruption = variant.missing
    if corruption is None or corruption.level is None:
        return {}
    return lost(corruption.name, corruption.level, corruption.seed, variant.task, split, examples)


def _has(example: Example, modality: Modality) -> bool:
    return bool(example.image if modality == "image" else (example.text or "").strip())


def file_name(task: str, split: str, variant: str) -> str:
    """Name of the table of a task's variant: ``food101-test-image-missing-70.csv``."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", f"{task}-{split}-{variant}") + ".csv"


def table(items: Mapping[str, Modality]) -> bytes:
    """A CSV with columns ``id`` and ``lost``, one row an item that loses something, by id."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(HEADER)
    rows.writerows(sorted(items.items()))
    return file.getvalue().encode()


def read_table(path: Path) -> dict[str, Modality]:
    """Which items lose which side, as ``table`` wrote it.

    Raises:
        UserError: there is no such file, or it is another kind of file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Could not read {path}: {error}.") from error
    found: dict[str, Modality] = {}
    for line, row in enumerate([header, *rows], 1):
        if line == 1 and tuple(row) == HEADER:
            continue
        if line == 1 or len(row) != len(HEADER) or row[1] not in ("image", "text"):
            wanted = "id,lost" if line == 1 else "an id and 'image' or 'text'"
            raise UserError(f"{path}, line {line}: '{','.join(row)}', expected {wanted}.")
        found[row[0]] = "image" if row[1] == "image" else "text"
    return found
