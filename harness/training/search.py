"""Search spaces of tuning: the ranges a method declares, and draws from them by name.

A method file lists its ranges in ``SEARCH``, by option; all methods search the learning rate. A
draw depends on the seed, the entry, the trial and the option, so it is the same on every machine,
and a range that is added later changes no other draw.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.harness.core.examples import ModelKind
from steelyard.harness.core.options import Option
from steelyard.harness.core.seeds import seed_for

BOTH: tuple[ModelKind, ...] = ("classifier", "vlm")


@dataclass(frozen=True, slots=True)
class Choice:
    """Range of several values, each equally likely."""

    values: tuple[Option, ...]
    on: tuple[ModelKind, ...] = BOTH
    """Kinds of backbone that use the option."""

    def at(self, fraction: float) -> Option:
        """Return the value at a fraction in [0, 1) of the range."""
        return self.values[int(fraction * len(self.values))]


@dataclass(frozen=True, slots=True)
class Uniform:
    """Range of numbers between two bounds."""

    low: float
    high: float
    on: tuple[ModelKind, ...] = BOTH

    def at(self, fraction: float) -> Option:
        return _rounded(self.low + fraction * (self.high - self.low))


@dataclass(frozen=True, slots=True)
class LogUniform(Uniform):
    """Range of positive numbers between two bounds, each factor equally likely."""

    def at(self, fraction: float) -> Option:
        low, high = math.log(self.low), math.log(self.high)
        return _rounded(math.exp(low + fraction * (high - low)))


Range = Choice | Uniform
Space = Mapping[str, Range]

LEARNING_RATE = LogUniform(0.25, 4.0)
"""Factor on a method's default learning rate, for every method."""


def draw(space: Space, kind: ModelKind, *names: object) -> dict[str, Option]:
    """Draw a value of every option that this kind of backbone uses."""
    options = {name: values for name, values in space.items() if kind in values.on}
    return {name: values.at(_fraction(*names, name)) for name, values in options.items()}


def learning_rate(default: float, *names: object) -> float:
    """Draw a learning rate from the common range around the method's default."""
    return _rounded(default * float(LEARNING_RATE.at(_fraction(*names, "learning_rate"))))


def _fraction(*names: object) -> float:
    return random.Random(seed_for("tune", *names)).random()


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")  # short numbers keep a record readable
