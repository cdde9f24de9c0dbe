"""Scenes of the generated world: symbolic scenes with known facts, and their pictures.

Kinds have a usual colour and a usual place, so a language prior and its counter-examples can be
sampled at known rates. A scene's symbol, not its pixels, decides which split it belongs to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.seeds import seed_for

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
RGB = tuple[int, int, int]

GRID = 2
"""Default of the cells per row and column of a scene; cells are numbered row by row."""
DOTS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717",
    "6": "74757", "7": "71111", "8": "75757", "9": "75717", "+": "02720",
}  # fmt: skip
"""Five rows of three dots per character, from the top; a row is the bits of a digit."""

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
"""Fraction of all possible scenes that each split may use."""


def _disc(x: Field, y: Field, r: float, cx: float = 0, cy: float = 0) -> Mask:
    return _oval(x, y, r, r, cx, cy)


def _discs(x: Field, y: Field, r: float, cx: float, cy: float) -> Mask:
    """Return a disc and its mirror image on the other side of the vertical axis."""
    return _disc(np.abs(x), y, r, cx, cy)


def _oval(x: Field, y: Field, a: float, b: float, cx: float = 0, cy: float = 0) -> Mask:
    inside: Mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
    return inside


def _bar(x: Field, y: Field, a: float, b: float, cx: float = 0, cy: float = 0) -> Mask:
    inside: Mask = (np.abs(x - cx) < a) & (np.abs(y - cy) < b)
    return inside


def _cone(x: Field, y: Field, half: float, tip: float, base: float) -> Mask:
    """Return a triangle with its tip at height ``tip`` and a base ``2 * half`` wide at ``base``."""
    rise = (y - tip) / (base - tip)
    return (np.abs(x) < half * rise) & (rise < 1)


def _grapes(x: Field, y: Field) -> Mask:
    top = _discs(x, y, 0.3, 0.6, -0.5) | _disc(x, y, 0.3, 0, -0.5)
    return top | _discs(x, y, 0.3, 0.3, 0.05) | _disc(x, y, 0.3, 0, 0.6)


def _broccoli(x: Field, y: Field) -> Mask:
    crown = _discs(x, y, 0.45, 0.45, -0.2) | _disc(x, y, 0.45, 0, -0.5)
    return crown | _bar(x, y, 0.2, 0.4, 0, 0.5)


def _pizza(x: Field, y: Field) -> Mask:
    holes = _discs(x, y, 0.2, 0.35, -0.35) | _disc(x, y, 0.2, 0, 0.15)
    return _cone(x, y, 0.95, 0.95, -0.75) & ~holes


def _fish(x: Field, y: Field) -> Mask:
    tail = (np.abs(y) < x - 0.3) & (x < 0.95)
    return (_oval(x, y, 0.7, 0.42, -0.25) | tail) & ~_disc(x, y, 0.12, -0.6, -0.1)


def _crab(x: Field, y: Field) -> Mask:
    legs = _bar(x, y, 0.9, 0.35, 0, 0.45) & (x % 0.4 > 0.28)
    return _discs(x, y, 0.28, 0.65, -0.5) | _oval(x, y, 0.65, 0.35, 0, 0.15) | legs


def _cup(x: Field, y: Field) -> Mask:
    handle = _disc(x, y, 0.45, 0.45) & ~_disc(x, y, 0.25, 0.45)
    return _bar(x, y, 0.45, 0.75, -0.2) | handle


GLYPHS: Mapping[str, Callable[[Field, Field], Mask]] = {
    "banana": lambda x, y: _disc(x, y, 0.95, 0, -0.1) & ~_disc(x, y, 0.9, 0, -0.6),
    "apple": lambda x, y: _discs(x, y, 0.55, 0.35, 0.2) | _bar(x, y, 0.1, 0.3, 0, -0.55),
    "pear": lambda x, y: _disc(x, y, 0.6, 0, 0.35) | _oval(x, y, 0.33, 0.6, 0, -0.35),
    "grapes": _grapes,
    "carrot": lambda x, y: _cone(x, y, 0.42, 1, -0.5) | _bar(np.abs(x), y, 0.08, 0.25, 0.2, -0.7),
    "corn": lambda x, y: _oval(x, y, 0.45, 0.95) & (np.abs(y) % 0.5 > 0.14),
    "broccoli": _broccoli,
    "mushroom": lambda x, y: _disc(x, y, 0.9, 0, 0.1) & (y < 0.1) | _bar(x, y, 0.25, 0.35, 0, 0.4),
    "doughnut": lambda x, y: _disc(x, y, 0.9) & ~_disc(x, y, 0.4),
    "bread": lambda x, y: _bar(x, y, 0.75, 0.4, 0, 0.3) | _oval(x, y, 0.95, 0.45, 0, -0.2),
    "pizza": _pizza,
    "muffin": lambda x, y: (
        _cone(x, y, 0.8, 2.6, -0.1) & (y < 0.85) | _oval(x, y, 0.9, 0.45, 0, -0.3)
    ),
    "fish": _fish,
    "crab": _crab,
    "shrimp": lambda x, y: _disc(x, y, 0.9) & ~_disc(x, y, 0.5, 0.05, 0.05) & ((x < 0) | (y < 0)),
    "mussel": lambda x, y: _disc(x, y, 1.0, 0, 0.4) & _disc(x, y, 1.0, 0, -0.4) & (np.abs(y) > 0.1),
    "ball": lambda x, y: _disc(x, y, 0.8),
    "box": lambda x, y: _bar(x, y, 0.72, 0.72),
    "kite": lambda x, y: np.abs(x) / 0.6 + np.abs(y) < 1,
    "cup": _cup,
}
"""Mask of each kind of object from coordinates in [-1, 1], y downwards."""


class ObjectKind(NamedTuple):
    """Usual place and colour of a kind of object, None for a neutral kind."""

    place: str | None = None
    colour: str | None = None


KINDS: Mapping[str, ObjectKind] = {
    "banana": ObjectKind("orchard", "yellow"),
    "apple": ObjectKind("orchard", "red"),
    "pear": ObjectKind("orchard", "green"),
    "grapes": ObjectKind("orchard", "purple"),
    "carrot": ObjectKind("garden", "orange"),
    "corn": ObjectKind("garden", "yellow"),
    "broccoli": ObjectKind("garden", "green"),
    "mushroom": ObjectKind("garden", "brown"),
    "doughnut": ObjectKind("bakery", "pink"),
    "bread": ObjectKind("bakery", "brown"),
    "pizza": ObjectKind("bakery", "orange"),
    "muffin": ObjectKind("bakery", "blue"),
    "fish": ObjectKind("sea", "blue"),
    "crab": ObjectKind("sea", "red"),
    "shrimp": ObjectKind("sea", "pink"),
    "mussel": ObjectKind("sea", "purple"),
    **{name: ObjectKind() for name in ("ball", "box", "kite", "cup")},
}
FOODS = tuple(name for name, kind in KINDS.items() if kind.place is not None)
NEUTRAL = tuple(name for name, kind in KINDS.items() if kind.place is None)


@dataclass(frozen=True, slots=True)
class Object:
    kind: str
    colour: str
    cell: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Content of a picture, without pixels."""

    place: str
    objects: tuple[Object, ...]
    """At most one per cell, in cell order."""
    grid: int = GRID
    """Cells per row and column."""

    @property
    def symbol(self) -> str:
        """Return a line that only equal scenes share: ``sea: blue fish@0, red cup@3``."""
        objects = (f"{obj.colour} {obj.kind}@{obj.cell}" for obj in self.objects)
        size = "" if self.grid == GRID else f" of {self.grid} x {self.grid}"
        return f"{self.place}{size}: {', '.join(objects)}"


def split_of(scene: Scene) -> str:
    """Return the only split that may hold this scene, for every data set and seed."""
    # Seeds have 63 bits: a position in [0, 1).
    position = seed_for("split", scene.symbol) / 2**63
    for split, fraction in SPLITS.items():
        if position < fraction:
            return split
        position -= fraction
    return split


def draw(scene: Scene, rng: np.random.Generator, size: int = 48) -> NDArray[np.uint8]:
    """Draw a scene, [size, size, 3]: position, size, tilt, colour and contrast vary, with noise."""
    columns, rows = _grid(size, scene.grid)
    canvas = np.empty((size, size, 3), np.float32)
    # One shift of the tint a picture, in grey levels; pixel noise is added last.
    canvas[:] = PLACES[scene.place] + rng.normal(0, 4, 3)
    for obj in scene.objects:
        row, column = divmod(obj.cell, scene.grid)
        # In units of one cell, as the radius.
        shift_x, shift_y = rng.uniform(-0.08, 0.08, 2)
        radius = rng.uniform(0.36, 0.48)
        tilt = rng.uniform(-0.35, 0.35)
        cos, sin = np.float32(np.cos(tilt) / radius), np.float32(np.sin(tilt) / radius)
        x = columns - np.float32(column + 0.5 + shift_x)
        y = rows - np.float32(row + 0.5 + shift_y)
        mask = GLYPHS[obj.kind](x * cos + y * sin, y * cos - x * sin)
        canvas[mask] = COLOURS[obj.colour] + rng.normal(0, 10, 3)
    noise = rng.standard_normal(canvas.shape, np.float32)
    # Contrast around mid-grey.
    picture = 128 + (canvas - 128) * rng.uniform(0.8, 1.1) + 8 * noise
    pixels: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return pixels


@lru_cache(maxsize=8)
def _grid(size: int, cells: int) -> tuple[Field, Field]:
    """Return pixel centres in units of one cell: columns [1, size] and rows [size, 1]."""
    centres = ((np.arange(size) + 0.5) * cells / size).astype(np.float32)
    return centres[None, :], centres[:, None]


def draw_sign(text: str, scale: int) -> NDArray[np.uint8]:
    """Draw digits as black dots of ``scale`` pixels on white, [height, width].

    Dots depend on no font, so the bytes are equal on every machine.
    """
    # Bit 3 is always 0: an empty column between characters.
    glyphs = [[[int(row) >> bit & 1 for bit in (2, 1, 0, 3)] for row in DOTS[c]] for c in text]
    # A border all around; the right one is the last character's empty column.
    dots = np.pad(np.concatenate(glyphs, axis=1), ((1, 1), (1, 0)))
    return (np.kron(1 - dots, np.ones((scale, scale))) * 255).astype(np.uint8)
