"""scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.records.record import Score

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one variant gave."""

    variant: tasks.Variant
    scores: tuple[Score, ...]
    """One a metric, in the order in which the task lists them."""
    items: "DataFrame"
    """One row an item, sorted by id: variant, id, cluster, and of a classification target and
    predicted (lists of class indices), score, confidence; of a task answered in words subset,
    answer, and each metric's share of the item as ``<metric>.top`` and ``<metric>.bottom``."""
    attack: Mapping[str, float] | None = None
    """What an attack by the model itself took; None without one."""


def as_items(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """Rows of items as they are stored."""
    import pandas as pd

    items = pd.DataFrame(rows)
    # Single precision holds what is stored, and twice the digits would double the file.
    return items.astype(dict.fromkeys(_numbers(items), "float32"))


def _numbers(items: "DataFrame") -> list[str]:
    return [name for name in items.columns if name.endswith((".top", ".bottom", "confidence"))]
