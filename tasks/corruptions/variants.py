"""How damage is written: ``image-noise:3``, ``image-noise:3+text-typo:2``, ``both-missing:70``.

A corruption has a severity from 1 to 5, or none. A missing modality has a rate in percent and may
have a seed, ``image-missing:70s1``; left out it is 0. ``+`` joins damage to the two sides.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Literal

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Modality
from steelyard.tasks.corruptions import CORRUPTIONS, DEFAULT_SEVERITY
from steelyard.tasks.corruptions.missing import MISSING, RATE_STEP

CLEAN = "clean"
JOINT = "+"


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind of damage at one strength."""

    name: str
    """A key of ``CORRUPTIONS`` or ``MISSING``."""
    level: int | None = None
    """Severity, or rate in percent; None where there is none."""
    seed: int = 0
    """Of the draw of items that lose something; 0 for corruptions."""

    @property
    def modality(self) -> Literal["image", "text", "both"]:
        """What it is done to."""
        return (MISSING if self.name in MISSING else CORRUPTIONS)[self.name].modality

    def __str__(self) -> str:
        strength = "" if self.level is None else f":{self.level}"
        return f"{self.name}{strength}{f's{self.seed}' if self.seed else ''}"


@dataclass(frozen=True, slots=True)
class Variant:
    """A task, clean or damaged."""

    task: str
    corruptions: tuple[Corruption, ...] = ()
    """At most one a side, the image's first."""

    @property
    def name(self) -> str:
        """``clean``, ``image-blank``, ``image-noise:3`` or ``image-noise:3+text-typo:2``."""
        return JOINT.join(map(str, self.corruptions)) or CLEAN

    def __str__(self) -> str:
        return f"{self.task}@{self.name}" if self.corruptions else self.task

    def on(self, modality: Modality) -> Corruption | None:
        """The corruption of one side; a side that goes missing in some items has none."""
        return next(
            (d for d in self.corruptions if d.modality == modality and d.name in CORRUPTIONS), None
        )

    @property
    def missing(self) -> Corruption | None:
        """What goes missing in some items."""
        return next(
            (corruption for corruption in self.corruptions if corruption.name in MISSING), None
        )

    @property
    def attack(self) -> int | None:
        """Severity of the attack that the model itself makes, or None."""
        corruption = self.on("image")
        return (
            corruption.level if corruption and CORRUPTIONS[corruption.name].apply is None else None
        )


def parse(text: str) -> tuple[Corruption, ...]:
    """The damage that a text names, the image's first."""
    found = sorted(map(_corruption, text.split(JOINT)), key=lambda corruption: corruption.modality)
    modalities = [corruption.modality for corruption in found]
    if len(found) > 1 and modalities != ["image", "text"]:
        raise UserError(
            f"'{text}': give one corruption of the image and one of the text, not "
            f"{' and '.join(modalities)}."
        )
    if all(corruption.name in MISSING for corruption in found) and len(found) > 1:
        raise UserError(f"'{text}': for items that lose one or the other write 'both-missing:70'.")
    return tuple(found)


def expand(text: str) -> list[tuple[Corruption, ...]]:
    """What a text with ranges stands for: ``image-noise:1-3+text-typo:2`` for three damages."""
    parts = [_each(part) for part in text.split(JOINT)]
    return [parse(JOINT.join(choice)) for choice in itertools.product(*parts)]


def _corruption(text: str) -> Corruption:
    name, colon, given = text.partition(":")
    if name in MISSING:
        return _missing(text, name, given)
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, [*CORRUPTIONS, *MISSING])
    allowed = CORRUPTIONS[name].severities
    if not colon:
        return Corruption(name, DEFAULT_SEVERITY if allowed else None)
    if not allowed:
        raise UserError(f"'{text}': {name} has no severities; write '{name}'.")
    if given not in map(str, allowed):
        known = ", ".join(map(str, allowed))
        raise UserError(f"'{text}': severity '{given}' is unknown. Allowed: {known}.")
    return Corruption(name, int(given))


def _missing(text: str, name: str, given: str) -> Corruption:
    rate, _, seed = given.partition("s")
    wanted = rate.isdecimal() and int(rate) <= 100 and (seed.isdecimal() or given == rate)
    if not wanted:
        raise UserError(
            f"'{text}': give a rate from 0 to 100 %, such as '{name}:70', and a seed only "
            f"for another draw, '{name}:70s1'."
        )
    return Corruption(name, int(rate), int(seed or 0))


def _each(given: str) -> list[str]:
    """A part with a range of strengths as one text each; a part without as it is."""
    name, _, span = given.partition(":")
    found = re.fullmatch(r"(\d+)-(\d+)(s\d+)?", span)
    if not found:
        return [given]
    low, high, seed = int(found[1]), int(found[2]), found[3] or ""
    if low > high:
        raise UserError(f"'{given}' is an empty range; write '{name}:{high}-{low}{seed}'.")
    step = RATE_STEP if name in MISSING else 1
    if (high - low) % step:
        raise UserError(f"'{given}': a range of rates goes in steps of {step} from {low}.")
    return [f"{name}:{level}{seed}" for level in range(low, high + 1, step)]
