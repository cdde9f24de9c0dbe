"""Where a run ends: a cap on FLOPs and perhaps on seconds, or a number of training items."""

import math
from dataclasses import dataclass
from typing import Literal

from steelyard.harness.core.errors import UserError, unknown

Track = Literal["compute", "data"]
"""Equal FLOPs for every method, or equal training items with the cost only reported."""
TRACKS = ("compute", "data", "anytime")
"""What may be asked for; ``anytime`` is the compute track at several budgets."""
SHARES = (0.25, 0.5, 1.0)
"""Budgets of the anytime track, as shares of the whole one."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a meter enforces: the limit that is reached first ends the run."""

    name: str
    flops: float = math.inf
    """Executed floating-point operations."""
    seconds: float | None = None
    """Device seconds of training."""
    items: int | None = None
    """Training items, repeats counted: steps times batch size."""

    def __str__(self) -> str:
        parts = [f"{self.flops:.3g} FLOPs"] if self.flops < math.inf else []
        parts += [] if self.seconds is None else [f"{self.seconds:g} s"]
        parts += [] if self.items is None else [f"{self.items:,} items"]
        return " or ".join(parts)


@dataclass(frozen=True, slots=True)
class Preset:
    """A budget with a meaning on both tracks."""

    name: str
    flops: float
    items: int
    meant_for: str


BUDGETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("XS", 4e10, 3_200, "smoke tests: some hundred steps of the tiny classifier"),
        Preset("S", 2e11, 16_000, "the tiny classifier on a laptop: some 500 steps"),
        Preset("M", 1e14, 64_000, "small pretrained encoders on one GPU"),
        Preset("L", 1e17, 320_000, "base-size encoders or a small vision-language model"),
        Preset("paper", 1e19, 1_200_000, "published scale: twenty passes over 60,000 items, or "
               "some ten thousand pairs for a model of 7B"),
    )
}  # fmt: skip


def parse_budget(text: str, track: Track = "compute", wall: float | None = None) -> Budget:
    """A preset's name, or a number: of FLOPs such as ``5e12``, or of items on the data track.

    Raises:
        UserError: no such preset, no positive number, or a wall cap where the data is equal.
    """
    if wall is not None and (track == "data" or not 0 < wall < math.inf):
        reason = "the data track caps items alone" if track == "data" else "give seconds above 0"
        raise UserError(f"--wall {wall:g}: {reason}.")
    preset = BUDGETS.get(text)
    if track == "data":
        return Budget(text, items=preset.items if preset else _whole(text))
    return Budget(text, preset.flops if preset else _number(text, "FLOPs, for example 2e12"), wall)


def _number(text: str, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise unknown("budget", text, BUDGETS) from None
    if not 0 < value < math.inf:
        raise UserError(f"Budget {text}: give a positive number of {wanted}.")
    return value


def _whole(text: str) -> int:
    value = _number(text, "training items, for example 16000")
    if value != int(value):
        raise UserError(f"Budget {text}: the data track counts whole training items.")
    return int(value)


def part(text: str, share: float) -> str:
    """A share of a budget on the compute track, as a budget: ``S`` and 0.25 give ``5e10``."""
    if share == 1:
        return text
    return f"{share * parse_budget(text).flops:g}".replace("e+0", "e").replace("e+", "e")
