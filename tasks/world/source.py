"""Random source and writers that all generated data sets share.

Each evaluation set has its test items in the folder itself and items for choosing settings below
``val``; no scene of one is in the other.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.tasks._shared import official
from steelyard.tasks.world.prior import (
    BASE_PARAMETERS,
    MAX_OBJECTS,
    LanguagePrior,
    all_colours,
    arrange,
    compose,
    part_of,
    pick,
)
from steelyard.tasks.world.scenes import GRID, NEUTRAL, Scene, draw, draw_sign, split_of

CLASSIFIED_OBJECTS = 3
"""Objects in each scene of the classification sets. Fewer leave so few scenes that splitting them
changes the parameters' effect."""
ATTEMPTS = 10_000
FILLERS = {
    "manner": ("easy", "quick", "homemade", "classic", "best", "simple", "rustic", "perfect"),
    "meal": ("dinner", "lunch", "supper", "weeknight dish", "family favourite", "party plate"),
    "site": ("Kitchen Diary", "The Daily Spoon", "Cook Along", "My Table", "Tasty Notes"),
    "opener": ("monday", "my friends", "this face", "meetings"),
    "who": ("a teacher", "two sisters", "an old sailor", "a young cook", "three neighbours"),
    "where": ("in a small town", "by the coast", "in the capital", "far from home"),
    "noun": ("River", "Winter", "Letter", "Garden", "Stranger", "Promise", "Mirror"),
}

JsonRow = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SceneSource:
    """Random source of one split, whose scenes belong to no other split and do not repeat."""

    split: str
    size: int
    """Width and height of a picture in pixels."""
    count: int
    """Number of items to sample, about that of a set of groups."""
    parameters: Mapping[str, float]
    rng: np.random.Generator
    grid: int = GRID
    """Cells per row and column in a scene of the question sets."""
    max_objects: int = MAX_OBJECTS
    """Most objects in such a scene."""
    used: set[str] = field(default_factory=set)

    @property
    def prior(self) -> LanguagePrior:
        # Defaults of the sets that do not have these parameters.
        values = {"p_neutral": 0.0, "yes": 0.5, "same_place": 0.5, **self.parameters}
        names = ("p_color", "p_cooc", "p_neutral", "yes", "same_place")
        probabilities = {name: values[name] for name in names}
        return LanguagePrior(**probabilities, grid=self.grid, objects=self.max_objects)

    def scene(
        self,
        first: str | None = None,
        first_colour: str | None = None,
        objects: int | None = None,
        colours: Callable[[str], Collection[str]] = all_colours,
        prior: LanguagePrior | None = None,
        *,
        reuse: bool = False,
        accept: Callable[[Scene], bool] = lambda scene: True,
    ) -> Scene:
        """Sample a scene of a question set by ``compose``, until ``accept`` returns True.

        ``prior`` replaces that of the parameters. With ``reuse``, a scene may occur again.
        """
        # Scenes of the base model's training are in no other data set.
        prior, part = prior or self.prior, "pool" if self.split == "train" else self.split
        for _ in range(ATTEMPTS):
            scene = compose(prior, self.rng, colours, first, first_colour, objects)
            is_new = reuse or scene.symbol not in self.used
            if is_new and part_of(scene) == part and accept(scene):
                self.used.add(scene.symbol)
                return scene
        raise UserError(f"No new {self.split} scene is left; ask for fewer items.")

    def classified_scene(self, kinds: Sequence[str]) -> Scene:
        """Sample a scene of a classification set: these kinds, and neutral ones beside them."""
        prior = self.prior
        for _ in range(ATTEMPTS):
            neutral = [self.pick(NEUTRAL) for _ in range(CLASSIFIED_OBJECTS - len(kinds))]
            scene = arrange([*kinds, *neutral], prior, self.rng)
            if split_of(scene) == self.split and scene.symbol not in self.used:
                self.used.add(scene.symbol)
                return scene
        raise UserError(f"No new {self.split} scene of {', '.join(kinds)} is left; ask for fewer.")

    def picture(self, scene: Scene, sign: str = "") -> Image.Image:
        """Draw a scene, with ``sign`` on a white sign in one of the upper corners."""
        picture = Image.fromarray(draw(scene, self.rng, self.size))
        if sign:
            # Two characters take nine dots: 3/8 of the picture's width.
            pixels = draw_sign(sign, max(1, self.size // 24))
            x = int(self.rng.integers(2)) * (picture.width - pixels.shape[1])
            picture.paste(Image.fromarray(pixels), (x, 0))
        return picture

    def save(self, scene: Scene, path: Path, sign: str = "") -> None:
        """Draw a scene into a PNG, or a JPEG of high quality, in a folder created on demand."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.picture(scene, sign).save(path, quality=95, subsampling=0)

    def pick(self, choices: Sequence[T]) -> T:
        return pick(choices, self.rng)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return [items[index] for index in self.rng.permutation(len(items)).tolist()]

    def fill(self, template: str, **words: str) -> str:
        """Fill the slots of a template with these words, and with random ``FILLERS``."""
        # Every slot draws, used or not: later draws do not depend on the template.
        return template.format(**{slot: self.pick(FILLERS[slot]) for slot in FILLERS} | words)

    def chance(self, parameter: str) -> bool:
        """Return True with the probability that the parameter gives."""
        return bool(self.rng.random() < self.parameters[parameter])


class WorldSet(NamedTuple):
    """Writer of one generated data set."""

    parameters: Mapping[str, float]
    """Probabilities that shape the set, with their defaults."""
    write: Callable[[Path, Mapping[str, SceneSource]], list[JsonRow]]
    """Writes the official files from the source of each split; returns the truth of each item."""


class Item(NamedTuple):
    """Item of an evaluation set: its facts, and its rows by official file."""

    truth: JsonRow
    rows: Mapping[str, JsonRow]


def write_rows(path: Path, rows: list[JsonRow]) -> None:
    """Write JSON lines, or a JSON list if the file's name ends in ``.json``."""
    write = official.write_json if path.suffix == ".json" else official.write_lines
    write(path, rows)


def evaluation(
    sample: Callable[[Path, SceneSource], Iterator[Item]],
    write_file: Callable[[Path, list[JsonRow]], None] = write_rows,
) -> WorldSet:
    """Return a set without training items: test in the folder, validation in ``val``.

    ``sample`` saves the pictures of the source's items; ``write_file`` writes each file's rows.
    """

    def write(folder: Path, sources: Mapping[str, SceneSource]) -> list[JsonRow]:
        truth = []
        for split, target in (("test", folder), ("val", folder / "val")):
            tables: defaultdict[str, list[JsonRow]] = defaultdict(list)
            for item in sample(target, sources[split]):
                truth.append({"split": split, **item.truth})
                for file, row in item.rows.items():
                    tables[file].append(row)
            for file, rows in tables.items():
                write_file(target / file, rows)
        return truth

    return WorldSet(BASE_PARAMETERS, write)


def fact(id_: str, scene: Scene, kind: str, answer: str, **facts: object) -> JsonRow:
    """Return the true facts of an item, for ``truth.jsonl``."""
    return {"id": id_, **facts, "scene": scene.symbol, "kind": kind, "answer": answer}
