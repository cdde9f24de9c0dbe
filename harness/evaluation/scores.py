"""Result of scoring one variant of a task."""

from collections.abc import Iterable, Mapping
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


MetricParts = Mapping[str, tuple[float, float]]
"""Sums whose ratio, over all items, is a metric's value, by metric."""


def as_items(
    variant: tasks.Variant, rows: Iterable[tuple[Mapping[str, Any], MetricParts]]
) -> "DataFrame":
    """Build the item table as it is stored, from each item's columns and parts of metrics."""
    import pandas as pd

    items = pd.DataFrame(
        [
            {"variant": variant.name, **item}
            | {
                f"{metric}.{name}": value
                for metric, part in parts.items()
                for name, value in zip(("top", "bottom"), part, strict=True)
            }
            for item, parts in rows
        ]
    )
    # Single precision is exact for these values, and double would double the file.
    suffixes = (".top", ".bottom", "confidence")
    numbers = [name for name in items.columns if name.endswith(suffixes)]
    return items.astype(dict.fromkeys(numbers, "float32"))
