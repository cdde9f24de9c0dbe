"""Language prior of the generated world: how often it shows which objects, colours and places.

Scenes are sampled by it. The symbol of a scene alone decides whether the scene may be used for
the base model (``base``), post-training (``pool``), choosing settings (``val``) or testing
(``test``).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from steelyard.harness.core.seeds import seed_for
from steelyard.tasks.world.scenes import (
    COLOURS,
    FOODS,
    GRID,
    KINDS,
    NEUTRAL,
    PLACES,
    Object,
    Scene,
    split_of,
)

BASE_FRACTION = 0.6
"""Fraction of the world's training scenes that only the base model is trained on."""
FREQUENCIES = (0.4, 0.3, 0.2, 0.1)
"""Frequency of each kind of a place, in the order of ``KINDS``, so that some are popular."""
MAX_OBJECTS = 2
"""Default of the most objects in a scene."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LanguagePrior:
    """Distribution of scenes and of yes-no questions; all but the last two are probabilities."""

    p_color: float
    """That an object has its usual colour."""
    p_cooc: float
    """That a food is in its usual place."""
    p_neutral: float
    """That an object is of a neutral kind."""
    yes: float
    """That the answer of a yes-no question is yes."""
    same_place: float
    """That an absent object which is asked for is usual in the place of the scene."""
    grid: int = GRID
    """Cells per row and column of a scene."""
    objects: int = MAX_OBJECTS
    """Most objects of a scene."""


BASE_PRIOR = LanguagePrior(0.985, 0.9, 0.25, yes=0.7, same_place=0.15)
"""Prior that the base model is trained on."""
BASE_PARAMETERS = {name: getattr(BASE_PRIOR, name) for name in ("p_color", "p_cooc", "p_neutral")}


def part_of(scene: Scene) -> str:
    """Return the only part that may hold this scene: ``base``, ``pool``, ``val`` or ``test``."""
    split = split_of(scene)
    if split != "train":
        return split
    return "base" if seed_for("part", scene.symbol) / 2**63 < BASE_FRACTION else "pool"


def held_out(kind: str) -> frozenset[str]:
    """Return the unusual colours a food never has in post-training: three or four of seven."""
    unusual = [colour for colour in COLOURS if colour != KINDS[kind].colour]
    # By hash: every data set and seed holds out the same colours.
    ranked = sorted(unusual, key=lambda colour: seed_for("held out", kind, colour))
    # Of seven unusual colours three and four in turn, so that half of all pairs are held out.
    return frozenset(ranked[: 3 + FOODS.index(kind) % 2])


def pool_colours(kind: str) -> frozenset[str]:
    """Return the colours that an object may have in post-training."""
    return frozenset(COLOURS) - (frozenset() if kind in NEUTRAL else held_out(kind))


def all_colours(kind: str) -> frozenset[str]:
    """Return every colour: the limit for objects outside post-training."""
    return frozenset(COLOURS)


def residents(place: str) -> tuple[str, ...]:
    """Return the foods whose usual place this is, the most frequent first."""
    return tuple(kind for kind in FOODS if KINDS[kind].place == place)


def rate(kind: str, prior: LanguagePrior) -> float:
    """Return the fraction of all objects that are of this kind, if places are equally likely."""
    home = KINDS[kind].place
    if home is None:
        return prior.p_neutral / len(NEUTRAL)
    return (1 - prior.p_neutral) / len(PLACES) * FREQUENCIES[residents(home).index(kind)]


def compose(
    prior: LanguagePrior,
    rng: np.random.Generator,
    colours: Callable[[str], Collection[str]] = all_colours,
    first: str | None = None,
    first_colour: str | None = None,
    objects: int | None = None,
) -> Scene:
    """Sample a scene of one to ``prior.objects`` objects of different kinds.

    ``colours`` limits the colours of a kind. ``first`` and ``first_colour`` fix one object,
    ``objects`` the number of objects.
    """
    # The order of draws fixes the files: any other order is another GENERATOR.
    place = _sample_place(first, prior, rng)
    kinds = [first or _sample_kind(place, prior, rng)]
    count = objects or rng.integers(1, prior.objects + 1)
    while len(kinds) < count:
        kinds.append(_sample_kind(place, prior, rng, without=kinds))
    return Scene(place, _sample_objects(kinds, prior, rng, colours, first_colour), prior.grid)


def arrange(kinds: Sequence[str], prior: LanguagePrior, rng: np.random.Generator) -> Scene:
    """Sample a scene with one object of each of these kinds, in a place that fits the first."""
    # The place is sampled last, unlike in ``compose``: the order of draws fixes the files.
    objects = _sample_objects(kinds, prior, rng)
    return Scene(_sample_place(kinds[0], prior, rng), objects, prior.grid)


def _sample_place(kind: str | None, prior: LanguagePrior, rng: np.random.Generator) -> str:
    usual = KINDS[kind].place if kind else None
    return _usual_or_other(usual, tuple(PLACES), prior.p_cooc, rng)


def _sample_kind(
    place: str, prior: LanguagePrior, rng: np.random.Generator, without: Collection[str] = ()
) -> str:
    kind = ""
    while not kind or kind in without:
        if rng.random() < prior.p_neutral:
            kind = pick(NEUTRAL, rng)
        else:
            home = _usual_or_other(place, tuple(PLACES), prior.p_cooc, rng)
            kind = residents(home)[int(rng.choice(len(FREQUENCIES), p=FREQUENCIES))]
    return kind


def _sample_objects(
    kinds: Sequence[str],
    prior: LanguagePrior,
    rng: np.random.Generator,
    colours: Callable[[str], Collection[str]] = all_colours,
    first_colour: str | None = None,
) -> tuple[Object, ...]:
    """Sample cells and colours for objects of these kinds; return them in cell order."""
    cells = rng.permutation(prior.grid**2)[: len(kinds)].tolist()
    objects = []
    for index, (kind, cell) in enumerate(zip(kinds, cells, strict=True)):
        colour = first_colour if index == 0 else None
        if colour is None:
            allowed = colours(kind)
            # In the order of COLOURS: a set's order differs between processes.
            choices = [name for name in COLOURS if name in allowed]
            colour = _usual_or_other(KINDS[kind].colour, choices, prior.p_color, rng)
        objects.append(Object(kind, colour, cell))
    # In cell order, so that equal scenes have equal symbols.
    return tuple(sorted(objects, key=lambda obj: obj.cell))


def _usual_or_other(
    usual: str | None, choices: Sequence[str], p_usual: float, rng: np.random.Generator
) -> str:
    if usual is not None and rng.random() < p_usual:
        return usual
    return pick([choice for choice in choices if choice != usual], rng)


def pick(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]
