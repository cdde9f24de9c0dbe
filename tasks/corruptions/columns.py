"""Columns of a board: weighted sums over the variants that its entries are scored on."""

from collections.abc import Mapping, Sequence

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES
from steelyard.tasks.corruptions.variants import CLEAN

Columns = Mapping[str, Mapping[str, float]]
"""Each column as a weighted sum over variants."""


def columns_of(task: str, variants: Sequence[str]) -> Columns:
    """How each column sums over variants: severities, then corruptions, then the two sides.

    So neither a corruption with many severities nor a side with many corruptions weighs more.
    Damage to both sides at once stands in columns of its own and counts for neither side.
    """
    if CLEAN not in variants:
        raise UserError(f"{task} has no clean scores: evaluate its runs on clean too.")
    severities: dict[str, list[str]] = {}
    for variant in variants:
        if variant != CLEAN:
            severities.setdefault(corruption_of(variant), []).append(variant)
    stray = [name for name in severities if modality_of(name) not in (*MODALITIES, "both")]
    if stray:
        raise UserError(f"Corruption '{stray[0]}' names no side: call it image-... or text-...")
    single = {name: _average([{variant: 1.0} for variant in v]) for name, v in severities.items()}
    modalities = {
        modality: [single[name] for name in single if modality_of(name) == modality]
        for modality in MODALITIES
    }
    averages = {modality: _average(parts) for modality, parts in modalities.items() if parts}
    clean = {CLEAN: 1.0}
    if not averages:
        return {"balanced": clean, "clean": clean, **single}
    corrupted = _average(list(averages.values()))
    balanced = _average([clean, corrupted])
    return {"balanced": balanced, "clean": clean, "corrupted": corrupted, **averages, **single}


def _average(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    variants = dict.fromkeys(variant for part in parts for variant in part)
    return {v: sum(part.get(v, 0.0) for part in parts) / len(parts) for v in variants}


def corruption_of(variant: str) -> str:
    """The kind of damage without its strength.

    ``image-noise:3+text-typo:2`` gives ``image-noise+text-typo``.
    """
    return "+".join(part.partition(":")[0] for part in variant.split("+"))


def modality_of(variant: str) -> str:
    """``image`` or ``text``, or ``both`` where one variant damages both sides."""
    return "both" if "+" in variant else variant.partition("-")[0]
