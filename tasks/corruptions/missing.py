"""Missing-modality protocol: which items of a split lack which modality at a given rate.

After Lee et al., Multimodal Prompting with Missing Modalities, CVPR 2023
(``missing_aware_prompts``): the rate is a percentage of items; under ``both-missing`` half of them
lack the image and half the text, none lacks both. As there, counts are rounded down.

Items are ordered by a hash of task, split, seed and id, and the first ones are taken. So the items
of a higher rate contain those of a lower one and lack the same modality. Candidates are all items
of the split that have what may be missing, whatever ``--limit`` then scores. A CSV table of the
result is stored next to the record.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from steelyard.harness.core.examples import Example, Modality
from steelyard.harness.core.seeds import seed_for

FOLDER = "missing"
"""Folder of the tables in a run and in published boards."""
HEADER = ("id", "lost")
RATE_STEP = 10
"""Step of a range of rates, such as ``0-90``."""


@dataclass(frozen=True, slots=True)
class MissingKind:
    modality: Literal["image", "text", "both"]
    order: tuple[Modality, ...]
    """Modalities that the chosen items lack, in turn."""
    summary: str


MISSING: dict[str, MissingKind] = {
    "image-missing": MissingKind("image", ("image",), "image removed from a percentage of items"),
    "text-missing": MissingKind("text", ("text",), "text removed from a percentage of items"),
    # Text first: the published code rounds an odd count in its favour.
    "both-missing": MissingKind(
        "both", ("text", "image"), "image removed from half of a percentage, text from the rest"
    ),
}


def has(example: Example, modality: Modality) -> bool:
    """Return True if the item has an image, or text other than spaces."""
    return bool(example.image if modality == "image" else (example.text or "").strip())


def missing_modality(
    kind: str, rate: int, seed: int, task: str, split: str, examples: Sequence[Example]
) -> dict[str, Modality]:
    """Return the modality that each chosen item of the split lacks, by id, in order of the draw.

    ``kind`` is a key of ``MISSING``, ``rate`` a percentage.
    """
    order = MISSING[kind].order
    ids = [example.id for example in examples if all(has(example, name) for name in order)]
    ids.sort(key=lambda id_: seed_for("missing", task, split, seed, id_))
    # In integers: a product of floats may fall just below a whole number.
    count = rate * len(ids) // 100
    return {id_: order[index % len(order)] for index, id_ in enumerate(ids[:count])}


def file_name(task: str, split: str, variant: str) -> str:
    """Return the file name of a variant's table: ``food101-test-image-missing-70.csv``."""
    # A colon is not allowed in file names on Windows.
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", f"{task}-{split}-{variant}") + ".csv"


def table(items: Mapping[str, Modality]) -> bytes:
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(HEADER)
    # By id, so that the table does not depend on the order of the draw.
    rows.writerows(sorted(items.items()))
    return file.getvalue().encode()
