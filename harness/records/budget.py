"""Budgets: a cap on FLOPs (and seconds), or a number of training items."""

import math
from dataclasses import dataclass
from typing import Literal

from steelyard.harness.core.errors import UserError, unknown

Track = Literal["compute", "data"]
"""Equal FLOPs for all methods, or equal training items with the cost only reported."""
TRACKS = ("compute", "data", "anytime")
"""Values of ``--track``; ``anytime`` is the compute track at several budgets."""
FRACTIONS = (0.25, 0.5, 1.0)
"""Budgets of the anytime track, as fractions of the full budget."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a run; the first that is reached ends it."""

    name: str
    flops: float = math.inf
    """Executed floating-point operations."""
    seconds: float | None = None
    """Device seconds of training."""
    items: int | None = None
    """Prompts trained on, counted again when repeated, with any number of answers each."""

    def __str__(self) -> str:
        parts = [f"{self.flops:.3g} FLOPs"] if self.flops < math.inf else []
        parts += [] if self.seconds is None else [f"{self.seconds:g} s"]
        parts += [] if self.items is None else [f"{self.items:,} items"]
        return " or ".join(parts)


@dataclass(frozen=True, slots=True)
class BudgetPreset:
    """Named budget for both tracks."""

    name: str
    flops: float
    items: int
    purpose: str


BUDGETS: dict[str, BudgetPreset] = {
    preset.name: preset
    for preset in (
        BudgetPreset("XS", 4e10, 3_200, "smoke tests: some hundred steps of the tiny classifier"),
        BudgetPreset("S", 2e11, 16_000, "the tiny classifier on a laptop: some 500 steps"),
        BudgetPreset("M", 1e14, 64_000, "small pretrained encoders on one GPU"),
        BudgetPreset("L", 1e17, 320_000, "base-size encoders or a small vision-language model"),
        BudgetPreset("paper", 1e19, 1_200_000, "published scale: twenty passes over 60,000 items, "
                     "or some ten thousand pairs for a model of 7B"),
    )
}  # fmt: skip


def parse_budget(text: str, track: Track = "compute", wall: float | None = None) -> Budget:
    """Parse a preset's name or a number: FLOPs such as ``5e12``, or items on the data track.

    Raises:
        UserError: no such preset, no positive number, or a cap on seconds on the data track.
    """
    if wall is not None and (track == "data" or not 0 < wall < math.inf):
        reason = "the data track caps items alone" if track == "data" else "give seconds above 0"
        raise UserError(f"--wall {wall:g}: {reason}.")
    preset = BUDGETS.get(text)
    if track == "compute":
        flops = preset.flops if preset else _number(text, "FLOPs, for example 2e12")
        return Budget(text, flops, wall)
    items = preset.items if preset else _number(text, "training items, for example 16000")
    if items != int(items):
        raise UserError(f"Budget {text}: the data track counts whole training items.")
    return Budget(text, items=int(items))


def _number(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise unknown("budget", text, BUDGETS) from None
    if not 0 < value < math.inf:
        raise UserError(f"Budget {text}: give a positive number of {unit}.")
    return value


def scaled(text: str, fraction: float) -> str:
    """Multiply a budget of the compute track: ``S`` and 0.25 give ``5e10``."""
    if fraction == 1:
        return text
    # Short and readable, as it becomes a part of folder names: 5e10, not 5e+10.
    return f"{fraction * parse_budget(text).flops:g}".replace("e+0", "e").replace("e+", "e")
