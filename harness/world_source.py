"""What the writers of generated data sets share: a split's random source and the file format."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from steelyard.harness.errors import UserError
from steelyard.harness.world import GRID, NEUTRAL, Priors, Scene, arrange, draw, split_of

OBJECTS = 3
"""Objects of every scene. Fewer leave so few scenes that splitting them distorts the knobs."""

Row = dict[str, Any]
Knobs = Mapping[str, float]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """Random source of one split: its scenes belong to no other split, and none comes twice."""

    split: str
    size: int
    knobs: Knobs
    rng: np.random.Generator
    grid: int = GRID
    """Cells along a side of a scene of the question sets."""
    most: int = 2
    """Most objects of such a scene."""
    used: set[str] = field(default_factory=set)

    def scene(self, kinds: Sequence[str]) -> Scene:
        """A new scene with these kinds, filled up with neutral ones to ``OBJECTS``."""
        priors = Priors(self.knobs["p_color"], self.knobs["p_cooc"])
        for _ in range(10_000):
            others = [self.pick(NEUTRAL) for _ in range(OBJECTS - len(kinds))]
            scene = arrange([*kinds, *others], priors, self.rng)
            if split_of(scene) == self.split and scene.symbol not in self.used:
                self.used.add(scene.symbol)
                return scene
        raise UserError(f"No new {self.split} scene of {', '.join(kinds)} is left; ask for fewer.")

    def picture(self, scene: Scene) -> Image.Image:
        """A drawing of the scene."""
        return Image.fromarray(draw(scene, self.rng, self.size))

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        return [items[position] for position in self.rng.permutation(len(items)).tolist()]

    def fill(self, template: str, **words: str) -> str:
        """The template with the given words, and others from ``FILLERS``, in its slots."""
        return template.format(**{slot: self.pick(FILLERS[slot]) for slot in FILLERS} | words)

    def chance(self, knob: str) -> bool:
        """True with the probability that the knob gives."""
        return bool(self.rng.random() < self.knobs[knob])


FILLERS = {
    "manner": ("easy", "quick", "homemade", "classic", "best", "simple", "rustic", "perfect"),
    "meal": ("dinner", "lunch", "supper", "weeknight dish", "family favourite", "party plate"),
    "site": ("Kitchen Diary", "The Daily Spoon", "Cook Along", "My Table", "Tasty Notes"),
    "opener": ("monday", "my friends", "this face", "meetings"),
    "who": ("a teacher", "two sisters", "an old sailor", "a young cook", "three neighbours"),
    "where": ("in a small town", "by the coast", "in the capital", "far from home"),
    "noun": ("River", "Winter", "Letter", "Garden", "Stranger", "Promise", "Mirror"),
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """How one data set is made."""

    knobs: Knobs
    """Probabilities that shape the set, with their defaults."""
    build: Callable[[Path, Mapping[str, int], Mapping[str, Source]], list[Row]]
    """Writes the official files for so many items a split; returns the truth of each item."""


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """The same bytes on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")
