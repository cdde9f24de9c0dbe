"""What the writers of generated question sets share: fresh scenes, and where each split lies.

Each evaluation set has its test items in the folder itself and items for choosing settings below
``val``; no scene of one is in the other.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.tasks.world.language import Habits, Question, part_of
from steelyard.tasks.world.scenes import GRID, NEUTRAL, Priors, Scene, arrange, draw, split_of

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


BASE_KNOBS: Knobs = {"p_color": 0.985, "p_cooc": 0.9, "p_neutral": 0.25}
"""How the world usually is: what the base model is trained on."""
BASE_HABITS = Habits(
    BASE_KNOBS["p_color"], BASE_KNOBS["p_cooc"], BASE_KNOBS["p_neutral"], yes=0.7, same_place=0.15
)
SYNONYMS = {
    "grapes": ("grape",),
    "doughnut": ("donut",),
    "shrimp": ("prawn",),
    "bread": ("loaf",),
    "ball": ("sphere",),
    "cup": ("mug",),
}
"""What else a caption may call an object."""
PARTS = {"train": "pool", "val": "val", "test": "test"}


def habits_of(source: Source, yes: float = 0.5, same_place: float = 0.5) -> Habits:
    """How the source's scenes are composed."""
    prior, together, neutral = (source.knobs[key] for key in ("p_color", "p_cooc", "p_neutral"))
    return Habits(prior, together, neutral, yes, same_place, source.grid, source.most)


def new_scene(source: Source, make: Callable[[], Scene], *, again: bool = False) -> Scene:
    """A scene of the source's part, unless ``again`` one that it has not given before."""
    for _ in range(10_000):
        scene = make()
        fresh = again or scene.symbol not in source.used
        if fresh and part_of(scene) == PARTS[source.split]:
            source.used.add(scene.symbol)
            return scene
    raise UserError(f"No new {source.split} scene is left; ask for fewer items.")


def evaluation(
    build: Callable[[Path, int, Source], list[Row]], images: str = "images"
) -> Callable[[Path, Mapping[str, int], Mapping[str, Source]], list[Row]]:
    """Writer of a set without training items: test in the folder, validation below ``val``.

    ``build`` finds the folder ``images`` in place.
    """

    def both(folder: Path, counts: Mapping[str, int], sources: Mapping[str, Source]) -> list[Row]:
        truth = []
        for split, place in (("test", folder), ("val", folder / "val")):
            (place / images).mkdir(parents=True, exist_ok=True)
            rows = build(place, counts[split], sources[split])
            truth += [{"split": split, **row} for row in rows]
        return truth

    return both


def truth_of(scene: Scene, question: Question) -> Row:
    """What is true of an item, for ``truth.jsonl``."""
    return {"scene": scene.symbol, "kind": question.kind, "answer": question.answer}
