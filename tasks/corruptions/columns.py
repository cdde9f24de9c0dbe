"""Scores that rank, on boards and in tuning: weighted sums over variants, means over tasks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES
from steelyard.tasks.corruptions.variants import CLEAN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Columns = Mapping[str, Mapping[str, float]]
"""Weight of each variant in each column."""


def columns_of(task: str, variants: Sequence[str]) -> Columns:
    """Average over severities, then over corruptions, then over the two modalities.

    So neither a corruption with many severities nor a modality with many corruptions weighs more.
    Variants that corrupt both modalities have columns of their own and count for neither.
    """
    if CLEAN not in variants:
        raise UserError(f"{task} has no clean scores: evaluate its runs on clean too.")
    severities: dict[str, list[str]] = {}
    for variant in variants:
        if variant != CLEAN:
            severities.setdefault(corruption_of(variant), []).append(variant)
    # Such a variant would count for no modality.
    stray = [name for name in severities if modality_of(name) not in (*MODALITIES, "both")]
    if stray:
        raise UserError(f"Corruption '{stray[0]}' has no modality: name it image-... or text-...")
    single = {name: _average([{variant: 1.0} for variant in v]) for name, v in severities.items()}
    averages = {}
    for modality in MODALITIES:
        if columns := [single[name] for name in single if modality_of(name) == modality]:
            averages[modality] = _average(columns)
    clean = {CLEAN: 1.0}
    # Only joint corruptions, or none: the clean score is the balanced one.
    if not averages:
        return {"balanced": clean, "clean": clean, **single}
    corrupted = _average(list(averages.values()))
    balanced = _average([clean, corrupted])
    return {"balanced": balanced, "clean": clean, "corrupted": corrupted, **averages, **single}


def _average(columns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    variants = dict.fromkeys(variant for column in columns for variant in column)
    return {v: sum(column.get(v, 0.0) for column in columns) / len(columns) for v in variants}


def corruption_of(variant: str) -> str:
    """Drop severities: ``image-noise:3+text-typo:2`` gives ``image-noise+text-typo``."""
    return "+".join(part.partition(":")[0] for part in variant.split("+"))


def modality_of(variant: str) -> str:
    """Return ``image`` or ``text``, or ``both`` for a variant that corrupts both modalities."""
    return "both" if "+" in variant else variant.partition("-")[0]


def task_means(
    tasks: Sequence[str], numbers: "Sequence[NDArray[np.float64]]"
) -> "dict[str, NDArray[np.float64]]":
    """Return the mean of the numbers of each task, whose mean over tasks is a composite.

    So every task has one vote, however many numbers it has.

    Args:
        tasks: task of each number.
        numbers: arrays of one shape.
    """
    import numpy as np  # here, because a command's help must be fast

    by_task: dict[str, list[NDArray[np.float64]]] = {}
    for task, number in zip(tasks, numbers, strict=True):
        by_task.setdefault(task, []).append(number)
    return {task: np.asarray(np.mean(values, axis=0)) for task, values in by_task.items()}


def upward(number: "NDArray[np.float64]", higher_is_better: bool | None) -> "NDArray[np.float64]":
    """Turn a number to higher is better: those better when lower are fractions."""
    return 1 - number if higher_is_better is False else number
