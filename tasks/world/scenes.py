"""The generated world: symbolic scenes with known facts and their pictures.

Kinds have a usual colour and a usual place, so a language prior and its counter-examples can be
sampled at known rates. A scene's symbol, not its pixels, decides which split it belongs to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.seeds import seed_for

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
RGB = tuple[int, int, int]

GRID = 2
"""Cells along a side of a scene, unless it says otherwise."""
CELLS = GRID**2
"""Cells of such a scene, numbered row by row."""

COLOURS: Mapping[str, RGB] = {
    "red": (210, 45, 40),
    "orange": (240, 140, 35),
    "yellow": (240, 220, 60),
    "green": (60, 160, 70),
    "blue": (60, 95, 215),
    "purple": (130, 60, 165),
    "pink": (240, 145, 190),
    "brown": (125, 80, 45),
}

PLACES: Mapping[str, RGB] = {
    "orchard": (205, 225, 190),
    "garden": (165, 150, 125),
    "bakery": (235, 220, 195),
    "sea": (125, 180, 215),
}
"""Background tint of each place."""

SPLITS: Mapping[str, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Share of all possible scenes that each split may draw from."""


def _disc(x: Field, y: Field, r: float, cx: float = 0, cy: float = 0) -> Mask:
    return _oval(x, y, r, r, cx, cy)


def _oval(x: Field, y: Field, a: float, b: float, cx: float = 0, cy: float = 0) -> Mask:
    inside: Mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
    return inside


def _bar(x: Field, y: Field, a: float, b: float, cx: float = 0, cy: float = 0) -> Mask:
    inside: Mask = (np.abs(x - cx) < a) & (np.abs(y - cy) < b)
    return inside


def _cone(x: Field, y: Field, half: float, tip: float, base: float) -> Mask:
    """Triangle with its tip at height ``tip`` and a base of width ``2 * half`` at ``base``."""
    rise = (y - tip) / (base - tip)
    return (np.abs(x) < half * rise) & (rise < 1)


def _banana(x: Field, y: Field) -> Mask:
    return _disc(x, y, 0.95, 0, -0.1) & ~_disc(x, y, 0.9, 0, -0.6)


def _apple(x: Field, y: Field) -> Mask:
    halves = _disc(x, y, 0.55, -0.35, 0.2) | _disc(x, y, 0.55, 0.35, 0.2)
    return halves | _bar(x, y, 0.1, 0.3, 0, -0.55)


def _pear(x: Field, y: Field) -> Mask:
    return _disc(x, y, 0.6, 0, 0.35) | _oval(x, y, 0.33, 0.6, 0, -0.35)


def _grapes(x: Field, y: Field) -> Mask:
    top = _disc(x, y, 0.3, -0.6, -0.5) | _disc(x, y, 0.3, 0, -0.5) | _disc(x, y, 0.3, 0.6, -0.5)
    return (
        top | _disc(x, y, 0.3, -0.3, 0.05) | _disc(x, y, 0.3, 0.3, 0.05) | _disc(x, y, 0.3, 0, 0.6)
    )


def _carrot(x: Field, y: Field) -> Mask:
    leaves = _bar(x, y, 0.08, 0.25, -0.2, -0.7) | _bar(x, y, 0.08, 0.25, 0.2, -0.7)
    return _cone(x, y, 0.42, 1, -0.5) | leaves


def _corn(x: Field, y: Field) -> Mask:
    return _oval(x, y, 0.45, 0.95) & (np.abs(y) % 0.5 > 0.14)


def _broccoli(x: Field, y: Field) -> Mask:
    crown = _disc(x, y, 0.45, -0.45, -0.2) | _disc(x, y, 0.45, 0.45, -0.2)
    return crown | _disc(x, y, 0.45, 0, -0.5) | _bar(x, y, 0.2, 0.4, 0, 0.5)


def _mushroom(x: Field, y: Field) -> Mask:
    return (_disc(x, y, 0.9, 0, 0.1) & (y < 0.1)) | _bar(x, y, 0.25, 0.35, 0, 0.4)


def _doughnut(x: Field, y: Field) -> Mask:
    return _disc(x, y, 0.9) & ~_disc(x, y, 0.4)


def _bread(x: Field, y: Field) -> Mask:
    return _bar(x, y, 0.75, 0.4, 0, 0.3) | _oval(x, y, 0.95, 0.45, 0, -0.2)


def _pizza(x: Field, y: Field) -> Mask:
    holes = (
        _disc(x, y, 0.2, -0.35, -0.35) | _disc(x, y, 0.2, 0.35, -0.35) | _disc(x, y, 0.2, 0, 0.15)
    )
    return _cone(x, y, 0.95, 0.95, -0.75) & ~holes


def _muffin(x: Field, y: Field) -> Mask:
    case = _cone(x, y, 0.8, 2.6, -0.1) & (y < 0.85)
    return case | _oval(x, y, 0.9, 0.45, 0, -0.3)


def _fish(x: Field, y: Field) -> Mask:
    tail = (np.abs(y) < x - 0.3) & (x < 0.95)
    return (_oval(x, y, 0.7, 0.42, -0.25) | tail) & ~_disc(x, y, 0.12, -0.6, -0.1)


def _crab(x: Field, y: Field) -> Mask:
    claws = _disc(x, y, 0.28, -0.65, -0.5) | _disc(x, y, 0.28, 0.65, -0.5)
    return (
        claws
        | _oval(x, y, 0.65, 0.35, 0, 0.15)
        | (_bar(x, y, 0.9, 0.35, 0, 0.45) & (x % 0.4 > 0.28))
    )


def _shrimp(x: Field, y: Field) -> Mask:
    return _disc(x, y, 0.9) & ~_disc(x, y, 0.5, 0.05, 0.05) & ((x < 0) | (y < 0))


def _mussel(x: Field, y: Field) -> Mask:
    return _disc(x, y, 1.0, 0, 0.4) & _disc(x, y, 1.0, 0, -0.4) & (np.abs(y) > 0.1)


def _ball(x: Field, y: Field) -> Mask:
    return _disc(x, y, 0.8)


def _box(x: Field, y: Field) -> Mask:
    return _bar(x, y, 0.72, 0.72)


def _kite(x: Field, y: Field) -> Mask:
    return np.abs(x) / 0.6 + np.abs(y) < 1


def _cup(x: Field, y: Field) -> Mask:
    handle = _disc(x, y, 0.45, 0.45) & ~_disc(x, y, 0.25, 0.45)
    return _bar(x, y, 0.45, 0.75, -0.2) | handle


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of object; ``place`` and ``colour`` are its usual ones, None for a neutral kind."""

    place: str | None
    colour: str | None
    glyph: Callable[[Field, Field], Mask]
    """Mask of the object from coordinates in [-1, 1], y downwards."""


KINDS: Mapping[str, Kind] = {
    "banana": Kind("orchard", "yellow", _banana),
    "apple": Kind("orchard", "red", _apple),
    "pear": Kind("orchard", "green", _pear),
    "grapes": Kind("orchard", "purple", _grapes),
    "carrot": Kind("garden", "orange", _carrot),
    "corn": Kind("garden", "yellow", _corn),
    "broccoli": Kind("garden", "green", _broccoli),
    "mushroom": Kind("garden", "brown", _mushroom),
    "doughnut": Kind("bakery", "pink", _doughnut),
    "bread": Kind("bakery", "brown", _bread),
    "pizza": Kind("bakery", "orange", _pizza),
    "muffin": Kind("bakery", "blue", _muffin),
    "fish": Kind("sea", "blue", _fish),
    "crab": Kind("sea", "red", _crab),
    "shrimp": Kind("sea", "pink", _shrimp),
    "mussel": Kind("sea", "purple", _mussel),
    "ball": Kind(None, None, _ball),
    "box": Kind(None, None, _box),
    "kite": Kind(None, None, _kite),
    "cup": Kind(None, None, _cup),
}
FOODS = tuple(name for name, kind in KINDS.items() if kind.place is not None)
NEUTRAL = tuple(name for name, kind in KINDS.items() if kind.place is None)


@dataclass(frozen=True, slots=True)
class Object:
    """One thing in a scene."""

    kind: str
    colour: str
    cell: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows, without pixels."""

    place: str
    objects: tuple[Object, ...]
    """At most one a cell, in cell order."""
    grid: int = GRID
    """Cells along a side."""

    @property
    def symbol(self) -> str:
        """One line that equal scenes share: ``sea: blue fish@0, red cup@3``."""
        things = (f"{thing.colour} {thing.kind}@{thing.cell}" for thing in self.objects)
        size = "" if self.grid == GRID else f" of {self.grid} x {self.grid}"
        return f"{self.place}{size}: {', '.join(things)}"


@dataclass(frozen=True, slots=True)
class Priors:
    """How strongly the world favours what is usual."""

    p_color: float
    """Probability that an object has its usual colour."""
    p_cooc: float
    """Probability that the first object is in its usual place."""


def split_of(scene: Scene) -> str:
    """The only split that may hold this scene, whatever the data set or its seed."""
    position = seed_for("split", scene.symbol) / 2**63
    for split, share in SPLITS.items():
        if position < share:
            return split
        position -= share
    return split


def arrange(kinds: Sequence[str], priors: Priors, rng: np.random.Generator) -> Scene:
    """A random scene with one object of each given kind, up to ``CELLS`` of them."""
    cells = rng.permutation(CELLS)[: len(kinds)].tolist()
    objects = [
        Object(kind, _usual_or_other(KINDS[kind].colour, tuple(COLOURS), priors.p_color, rng), cell)
        for kind, cell in zip(kinds, cells, strict=True)
    ]
    place = _usual_or_other(KINDS[kinds[0]].place, tuple(PLACES), priors.p_cooc, rng)
    return Scene(place, tuple(sorted(objects, key=lambda thing: thing.cell)))


def _usual_or_other(
    usual: str | None, choices: Sequence[str], p_usual: float, rng: np.random.Generator
) -> str:
    if usual is not None and rng.random() < p_usual:
        return usual
    others = [choice for choice in choices if choice != usual]
    return others[rng.integers(len(others))]


def draw(scene: Scene, rng: np.random.Generator, size: int = 48) -> NDArray[np.uint8]:
    """Picture of a scene, [size, size, 3]: place, size, tilt, colour and contrast vary, with noise.

    Equal scenes give different pictures unless ``rng`` is in the same state.
    """
    columns, rows = _grid(size, scene.grid)
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = PLACES[scene.place] + rng.normal(0, 4, 3)
    for thing in scene.objects:
        row, column = divmod(thing.cell, scene.grid)
        shift_x, shift_y = rng.uniform(-0.08, 0.08, 2)
        radius = rng.uniform(0.36, 0.48)
        tilt = rng.uniform(-0.35, 0.35)
        cos, sin = np.float32(np.cos(tilt) / radius), np.float32(np.sin(tilt) / radius)
        x = columns - np.float32(column + 0.5 + shift_x)
        y = rows - np.float32(row + 0.5 + shift_y)
        mask = KINDS[thing.kind].glyph(x * cos + y * sin, y * cos - x * sin)
        canvas[mask] = COLOURS[thing.colour] + rng.normal(0, 10, 3)
    noise = rng.standard_normal(canvas.shape, np.float32)
    picture = 128 + (canvas - 128) * rng.uniform(0.8, 1.1) + 8 * noise
    pixels: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return pixels


@lru_cache(maxsize=8)
def _grid(size: int, cells: int) -> tuple[Field, Field]:
    """Pixel centres in units of one cell: columns [1, size] and rows [size, 1]."""
    centres = ((np.arange(size) + 0.5) * cells / size).astype(np.float32)
    return centres[None, :], centres[:, None]
