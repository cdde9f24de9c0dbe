"""Result of scoring one variant of a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.records.record import Score

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores and scored items of one variant."""

    variant: tasks.Variant
    scores: tuple[Score, ...]
    """One per metric, in the order in which the task lists them."""
    items: "DataFrame"
    """One row per item, sorted by id: variant, id, cluster; of a classification target and
    predicted (lists of class indices), score, confidence; of a task answered in words subset,
    answer, and each metric's part of the item as ``<metric>.top`` and ``<metric>.bottom``."""
    attack: Mapping[str, float] | None = None
    """Cost of an attack by the model itself; None without one."""


def as_items(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """Build the item table as it is stored."""
    import pandas as pd

    items = pd.DataFrame(rows)
    # Single precision is exact for these values, and double would double the file.
    suffixes = (".top", ".bottom", "confidence")
    numbers = [name for name in items.columns if name.endswith(suffixes)]
    return items.astype(dict.fromkeys(numbers, "float32"))
