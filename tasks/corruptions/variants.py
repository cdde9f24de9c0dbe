"""Syntax of variants: ``image-noise:3``, ``image-noise:3+text-typo:2``, ``both-missing:70s1``.

A corruption has a severity from 1 to 5, or none. A missing modality has a rate in percent and may
have a seed; without one it is 0. ``+`` joins a corruption of the image and one of the text.

    parse("image-noise:3")       # (Corruption("image-noise", 3),)
    expand("image-noise:1-3")    # three variants
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Example, Modality
from steelyard.tasks.corruptions import CORRUPTIONS, DEFAULT_SEVERITY
from steelyard.tasks.corruptions.missing import MISSING, RATE_STEP, missing_modality

CLEAN = "clean"
JOINT = "+"


@dataclass(frozen=True, slots=True)
class Corruption:
    name: str
    """A key of ``CORRUPTIONS`` or ``MISSING``."""
    level: int | None = None
    """Severity, or rate in percent; None if it has none."""
    seed: int = 0
    """Seed of the draw of items that lack a modality; 0 for corruptions."""

    @property
    def modality(self) -> Literal["image", "text", "both"]:
        return (MISSING if self.name in MISSING else CORRUPTIONS)[self.name].modality

    def __str__(self) -> str:
        level = "" if self.level is None else f":{self.level}"
        return f"{self.name}{level}{f's{self.seed}' if self.seed else ''}"


@dataclass(frozen=True, slots=True)
class Variant:
    task: str
    corruptions: tuple[Corruption, ...] = ()
    """At most one a modality, the image's first."""

    @property
    def name(self) -> str:
        """``clean``, ``image-blank``, ``image-noise:3`` or ``image-noise:3+text-typo:2``."""
        return JOINT.join(map(str, self.corruptions)) or CLEAN

    def __str__(self) -> str:
        return f"{self.task}@{self.name}" if self.corruptions else self.task

    def on(self, modality: Modality) -> Corruption | None:
        """Return the corruption of one modality; None too if it goes missing in some items."""
        single = (part for part in self.corruptions if part.name in CORRUPTIONS)
        return next((part for part in single if part.modality == modality), None)

    @property
    def missing(self) -> Corruption | None:
        return next((part for part in self.corruptions if part.name in MISSING), None)

    def missing_items(self, split: str, examples: Sequence[Example]) -> dict[str, Modality]:
        """Return ``missing_modality`` among all items of a split; empty if none goes missing."""
        part = self.missing
        if part is None or part.level is None:
            return {}
        return missing_modality(part.name, part.level, part.seed, self.task, split, examples)

    @property
    def attack(self) -> int | None:
        """Severity of the attack by the scored model, or None."""
        part = self.on("image")
        return part.level if part and CORRUPTIONS[part.name].apply is None else None


def parse(text: str) -> tuple[Corruption, ...]:
    """Read one corruption, or one of the image and one of the text; the image's is first."""
    # By modality in alphabetical order: image, text.
    parts = sorted(map(_corruption, text.split(JOINT)), key=lambda part: part.modality)
    modalities = [part.modality for part in parts]
    if len(parts) > 1 and modalities != ["image", "text"]:
        raise UserError(
            f"'{text}': give one corruption of the image and one of the text, not "
            f"{' and '.join(modalities)}."
        )
    if len(parts) > 1 and all(part.name in MISSING for part in parts):
        raise UserError(f"'{text}': for items that lack one or the other write 'both-missing:70'.")
    return tuple(parts)


def expand(text: str) -> list[tuple[Corruption, ...]]:
    """Read a text with ranges: ``image-noise:1-3+text-typo:2`` gives three variants."""
    parts = [_levels(part) for part in text.split(JOINT)]
    # Parsed one by one, so that every level of a range is checked.
    return [parse(JOINT.join(choice)) for choice in itertools.product(*parts)]


def _corruption(text: str) -> Corruption:
    name, colon, level = text.partition(":")
    if name in MISSING:
        rate, _, seed = level.partition("s")
        # ``70s`` has a letter without a seed and is refused.
        if not (rate.isdecimal() and int(rate) <= 100 and (seed.isdecimal() or level == rate)):
            raise UserError(
                f"'{text}': give a rate from 0 to 100 %, such as '{name}:70', and a seed only "
                f"for another draw, '{name}:70s1'."
            )
        return Corruption(name, int(rate), int(seed or 0))
    check_known("corruption", name, [*CORRUPTIONS, *MISSING])
    severities = CORRUPTIONS[name].severities
    if not colon:
        return Corruption(name, DEFAULT_SEVERITY if severities else None)
    if not severities:
        raise UserError(f"'{text}': {name} has no severities; write '{name}'.")
    if level not in map(str, severities):
        allowed = ", ".join(map(str, severities))
        raise UserError(f"'{text}': severity '{level}' is unknown. Allowed: {allowed}.")
    return Corruption(name, int(level))


def _levels(text: str) -> list[str]:
    """Split ``name:1-3`` into one text a level; return a text without a range as it is."""
    name, _, levels = text.partition(":")
    span = re.fullmatch(r"(\d+)-(\d+)(s\d+)?", levels)
    if not span:
        return [text]
    low, high, seed = int(span[1]), int(span[2]), span[3] or ""
    if low > high:
        raise UserError(f"'{text}' is an empty range; write '{name}:{high}-{low}{seed}'.")
    step = RATE_STEP if name in MISSING else 1
    if (high - low) % step:
        raise UserError(f"'{text}': a range of rates has steps of {step} from {low}.")
    return [f"{name}:{level}{seed}" for level in range(low, high + 1, step)]
