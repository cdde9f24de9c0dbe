"""What may be tuned: the ranges a method declares, and how a trial draws from them by name.

A method file lists its ranges in ``SEARCH``, by option; the learning rate is searched for all
alike. A draw depends on the seed, the entry, the trial and the option, so it is the same on every
machine, and a range that is added later changes no other draw.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.harness.core.examples import ModelKind
from steelyard.harness.core.seeds import seed_for

Option = str | int | float | bool
BOTH: tuple[ModelKind, ...] = ("classifier", "vlm")
DIGITS = 3  # of a drawn number, so that a record is readable


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each equally likely."""

    values: tuple[Option, ...]
    on: tuple[ModelKind, ...] = BOTH
    """Kinds of backbone on which the option means something."""

    def at(self, share: float) -> Option:
        """The value at a share in [0, 1) of the range."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True, slots=True)
class Uniform:
    """A number between two bounds."""

    low: float
    high: float
    on: tuple[ModelKind, ...] = BOTH

    def at(self, share: float) -> Option:
        """The value at a share in [0, 1) of the range."""
        return _rounded(self.low + share * (self.high - self.low))


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A positive number between two bounds, each factor equally likely."""

    low: float
    high: float
    on: tuple[ModelKind, ...] = BOTH

    def at(self, share: float) -> Option:
        """The value at a share in [0, 1) of the range."""
        low, high = math.log(self.low), math.log(self.high)
        return _rounded(math.exp(low + share * (high - low)))


Range = Choice | Uniform | LogUniform
Space = Mapping[str, Range]

LEARNING_RATE = LogUniform(0.25, 4.0)
"""Factor on the backbone's learning rate, for every method."""


def draw(space: Space, kind: ModelKind, *names: object) -> dict[str, Option]:
    """One value of every option that means something on this kind of backbone."""
    return {
        name: found.at(_share(*names, name)) for name, found in space.items() if kind in found.on
    }


def learning_rate(usual: float, *names: object) -> float:
    """A learning rate from the common range around the backbone's usual one."""
    return _rounded(usual * float(LEARNING_RATE.at(_share(*names, "learning_rate"))))


def _share(*names: object) -> float:
    return random.Random(seed_for("tune", *names)).random()


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
