"""Cards that a run can be planned for: peak rate and memory, and what does not fit.

Rates are the vendors' data sheets', of dense products: NVIDIA A100 (2021), H100 and H200 SXM
(2024), L40S (2023), and the Ada architecture's white paper for the RTX 4090. In bf16 they are those
of tensor cores with sums in fp32, in fp32 those outside tensor cores. A CPU is counted by one core,
since a run on a CPU uses one thread, and its rate is measured.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from steelyard.harness.core.errors import UserError, unknown

GB = 1e9
SIDE = 1024
"""Of the matrices whose product measures a CPU."""
RESERVE_GB = 1.0
"""Of a card's memory, for the driver's context and libraries; no tensor can have it."""
UTILISATION = 0.3
"""Fraction of the peak rate that training reaches: usual for models of 1B and more with eager
attention and checkpointing; small models reach far less."""


@dataclass(frozen=True, slots=True)
class Card:
    """Device with its peak rates in FLOP/s and its memory in GB of 10^9 bytes."""

    name: str
    bf16: float
    fp32: float
    memory_gb: float | None = None
    """None for the host's memory, which is not checked."""

    @property
    def device(self) -> str:
        """Device type, which decides the precision that ``auto`` stands for."""
        return "cpu" if self.memory_gb is None else "cuda"

    def hours(self, flops: float, precision: str, utilisation: float) -> float:
        """Return the hours that so many FLOPs take at this fraction of the peak rate."""
        rate = self.bf16 if precision == "bf16" else self.fp32
        return flops / (rate * utilisation) / 3600


CARDS = {
    card.name: card
    for card in (
        Card("A100-40", 312e12, 19.5e12, 40),
        Card("A100-80", 312e12, 19.5e12, 80),
        Card("H100", 989e12, 67e12, 80),
        Card("H200", 989e12, 67e12, 141),
        Card("L40S", 362e12, 91.6e12, 48),
        Card("RTX4090", 165e12, 82.6e12, 24),
        Card("cpu", 96e9, 96e9),  # AVX2 at 3 GHz, until ``find`` has measured it
    )
}


def find(name: str | None) -> Card:
    """Return the card of a name; without one the GPU at hand, or the CPU.

    Raises:
        UserError: there is no such card.
    """
    if name is not None:
        if name not in CARDS:
            raise unknown("card", name, CARDS)
        return _measured_cpu() if name == "cpu" else CARDS[name]
    import torch

    if not torch.cuda.is_available():
        return _measured_cpu()
    properties = torch.cuda.get_device_properties(0)
    size = properties.total_memory / GB
    label = properties.name.replace(" ", "").upper()
    known = [card for card in CARDS.values() if card.name.partition("-")[0].upper() in label]
    # Of an unknown card the memory counts, and times are those of the slowest.
    like = known[0] if known else CARDS["RTX4090"]
    return Card(properties.name, like.bf16, like.fp32, size)


def _measured_cpu() -> Card:
    """Return the CPU with the rate at which one core multiplies matrices."""
    import torch

    def rate(dtype: torch.dtype) -> float:
        matrix, seconds = torch.ones(SIDE, SIDE, dtype=dtype), []
        for _ in range(4):  # the first prepares kernels
            start = time.process_time()  # not the time that other processes take
            torch.mm(matrix, matrix)
            seconds.append(time.process_time() - start)
        return float(2 * SIDE**3 / max(min(seconds), 1e-6))

    return replace(CARDS["cpu"], bf16=rate(torch.bfloat16), fp32=rate(torch.float32))


def check_fit(card: Card, run: str, memory: Mapping[str, float], advice: Mapping[str, str]) -> None:
    """Raise UserError if the parts of a run's memory, in bytes, do not fit the card.

    ``advice`` has what to set against a part; that of the largest part is given.
    """
    needed = sum(memory.values()) / GB
    if card.memory_gb is None or needed <= card.memory_gb - RESERVE_GB:
        return
    ranked = sorted(memory, key=memory.__getitem__, reverse=True)
    parts = ", ".join(f"{name} {memory[name] / GB:.1f}" for name in ranked if memory[name] >= 5e7)
    remedy = next((advice[name] for name in ranked if name in advice), "")
    remedy = f"set {remedy}, or take" if remedy else "take"
    raise UserError(
        f"{run} needs {needed:.1f} GB of the {card.memory_gb - RESERVE_GB:g} that {card.name} has "
        f"for tensors ({parts}): {remedy} a larger card."
    )
