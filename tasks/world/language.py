"""Language about the generated world: which scenes to ask about, questions, answers, captions.

Scenes here hold one or two objects unless their habits say more. A scene's symbol alone decides
whether it may serve the base model (``base``), post-training (``pool``), choosing settings
(``val``) or testing (``test``).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
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

SHORT = "\nAnswer the question using a single word or phrase."
"""Follows every question with a short answer, here and in the tasks."""
CAPTION = "Describe this image in one sentence."
BASE_SHARE = 0.6
"""Share of the world's training scenes that only the base model sees."""
FREQUENCIES = (0.4, 0.3, 0.2, 0.1)
"""How often each kind of a place comes, in the order of ``KINDS``, so that some are popular."""
MASS = frozenset({"bread", "corn", "broccoli"})
PLURAL = frozenset({"grapes"})
YES_NO = ("yes", "no")
MOST = 2
"""Objects of a scene at the most, unless its habits say more."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Habits:
    """How scenes are composed and asked about; all but the last two are probabilities."""

    p_color: float
    """That an object has its usual colour."""
    p_cooc: float
    """That a food is in its usual place."""
    p_neutral: float
    """That an object is of a neutral kind."""
    yes: float
    """That the answer of a yes-no question is yes."""
    same_place: float
    """That an object asked for in vain usually occurs in the place shown."""
    grid: int = GRID
    """Cells along a side of a scene."""
    objects: int = MOST
    """Most objects of a scene."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene and its one right answer."""

    kind: str
    """A key of ``ASK``."""
    text: str
    """Without the short-answer suffix."""
    answer: str
    choices: tuple[str, ...]
    """All answers it allows; empty for a caption."""
    about: str = ""
    """Kind of object asked about, if any."""


def part_of(scene: Scene) -> str:
    """``base``, ``pool``, ``val`` or ``test``: the only one that may hold this scene."""
    split = split_of(scene)
    if split != "train":
        return split
    return "base" if seed_for("part", scene.symbol) / 2**63 < BASE_SHARE else "pool"


def held_out(kind: str) -> frozenset[str]:
    """Unusual colours that this food never has in post-training: three or four of the seven."""
    others = [colour for colour in COLOURS if colour != KINDS[kind].colour]
    ranked = sorted(others, key=lambda colour: seed_for("held out", kind, colour))
    return frozenset(ranked[: 3 + FOODS.index(kind) % 2])


def pool_colours(kind: str) -> frozenset[str]:
    """Colours that an object may have in post-training."""
    return frozenset(COLOURS) - (frozenset() if kind in NEUTRAL else held_out(kind))


def all_colours(kind: str) -> frozenset[str]:
    """Colours that an object may have elsewhere: every one."""
    return frozenset(COLOURS)


def residents(place: str) -> tuple[str, ...]:
    """Foods whose usual place this is, the most frequent first."""
    return tuple(kind for kind in FOODS if KINDS[kind].place == place)


def rate(kind: str, habits: Habits) -> float:
    """Share of all objects that are of this kind, places being equally likely."""
    place = KINDS[kind].place
    if place is None:
        return habits.p_neutral / len(NEUTRAL)
    return (1 - habits.p_neutral) / len(PLACES) * FREQUENCIES[residents(place).index(kind)]


def compose(
    habits: Habits,
    rng: np.random.Generator,
    colours: Callable[[str], Collection[str]] = all_colours,
    first: str | None = None,
    first_colour: str | None = None,
    objects: int | None = None,
) -> Scene:
    """A random scene of one to ``habits.objects`` objects of different kinds.

    ``colours`` limits what colours a kind may have; ``first`` and ``first_colour`` fix one object,
    ``objects`` how many there are.
    """
    place = _place(first, habits, rng)
    kinds = [first or _kind(place, habits, rng)]
    count = objects or rng.integers(1, habits.objects + 1)
    while len(kinds) < count:
        kinds.append(_kind(place, habits, rng, without=kinds))
    cells = rng.permutation(habits.grid**2)[:count].tolist()
    wanted = [first_colour, *(None for _ in kinds[1:])]
    things = [
        Object(kind, colour or _colour(kind, habits, colours(kind), rng), cell)
        for kind, colour, cell in zip(kinds, wanted, cells, strict=True)
    ]
    return Scene(place, tuple(sorted(things, key=lambda thing: thing.cell)), habits.grid)


def _place(first: str | None, habits: Habits, rng: np.random.Generator) -> str:
    usual = KINDS[first].place if first else None
    if usual is not None and rng.random() < habits.p_cooc:
        return usual
    return pick([place for place in PLACES if place != usual], rng)


def _kind(
    place: str, habits: Habits, rng: np.random.Generator, without: Collection[str] = ()
) -> str:
    kind = ""
    while not kind or kind in without:
        if rng.random() < habits.p_neutral:
            kind = pick(NEUTRAL, rng)
        else:
            away = [other for other in PLACES if other != place]
            home = place if rng.random() < habits.p_cooc else pick(away, rng)
            kind = residents(home)[int(rng.choice(len(FREQUENCIES), p=FREQUENCIES))]
    return kind


def _colour(kind: str, habits: Habits, allowed: Collection[str], rng: np.random.Generator) -> str:
    usual = KINDS[kind].colour
    if usual is not None and rng.random() < habits.p_color:
        return usual
    return pick([colour for colour in COLOURS if colour in allowed and colour != usual], rng)


def pick(choices: Sequence[T], rng: np.random.Generator) -> T:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]


# --- wording -----------------------------------------------------------------------------------


def phrase(kind: str, colour: str = "") -> str:
    """``an apple``, ``a red apple``, ``some bread``."""
    words = f"{colour} {kind}".strip()
    if kind in MASS or kind in PLURAL:
        return f"some {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _be(kind: str) -> str:
    return "are" if kind in PLURAL else "is"


def caption(scene: Scene) -> str:
    """One sentence that names every object with its colour, in cell order."""
    return " and ".join(phrase(thing.kind, thing.colour) for thing in scene.objects) + "."


def colour_question(thing: Object) -> Question:
    """What colour an object of the scene has."""
    text = f"What color {_be(thing.kind)} the {thing.kind}?"
    return Question("colour", text, thing.colour, tuple(COLOURS), thing.kind)


def count_question(scene: Scene, most: int = MOST) -> Question:
    """How many objects the scene has, of at most ``most``."""
    answer, choices = str(len(scene.objects)), tuple(str(n) for n in range(1, most + 1))
    return Question("count", "How many objects are there in the image?", answer, choices)


def existence_question(scene: Scene, kind: str) -> Question:
    """Whether the scene has an object of this kind, in POPE's words."""
    present = kind in {thing.kind for thing in scene.objects}
    text = f"{_be(kind).capitalize()} there {phrase(kind)} in the image?"
    return Question("existence", text, YES_NO[not present], YES_NO, kind)


def attribute_question(thing: Object, colour: str) -> Question:
    """Whether an object of the scene has this colour."""
    text = f"{_be(thing.kind).capitalize()} the {thing.kind} {colour}?"
    return Question("attribute", text, YES_NO[colour != thing.colour], YES_NO, thing.kind)


# --- choosing what to ask ----------------------------------------------------------------------


def absent_kinds(scene: Scene, *, same_place: bool) -> list[str]:
    """Kinds the scene does not have, the usual ones of its place or all others."""
    shown = {thing.kind for thing in scene.objects}
    near = residents(scene.place)
    return [kind for kind in KINDS if kind not in shown and (kind in near) == same_place]


def _ask_colour(scene: Scene, habits: Habits, rng: np.random.Generator) -> Question:
    return colour_question(pick(scene.objects, rng))


def _ask_count(scene: Scene, habits: Habits, rng: np.random.Generator) -> Question:
    return count_question(scene, habits.objects)


def _ask_existence(scene: Scene, habits: Habits, rng: np.random.Generator) -> Question:
    if rng.random() < habits.yes:
        return existence_question(scene, pick(scene.objects, rng).kind)
    near = bool(rng.random() < habits.same_place)
    return existence_question(scene, pick(absent_kinds(scene, same_place=near), rng))


def _ask_attribute(scene: Scene, habits: Habits, rng: np.random.Generator) -> Question:
    thing = pick(scene.objects, rng)
    if rng.random() < habits.yes:
        return attribute_question(thing, thing.colour)
    return attribute_question(thing, other_colour(thing, rng))


def other_colour(thing: Object, rng: np.random.Generator) -> str:
    """A colour the object does not have: its usual one if that is possible, else any."""
    usual = KINDS[thing.kind].colour
    if usual is not None and usual != thing.colour:
        return usual
    return pick([colour for colour in COLOURS if colour != thing.colour], rng)


def _ask_caption(scene: Scene, habits: Habits, rng: np.random.Generator) -> Question:
    return Question("caption", CAPTION, caption(scene), ())


Asker = Callable[[Scene, Habits, np.random.Generator], Question]
ASK: Mapping[str, Asker] = {
    "colour": _ask_colour,
    "count": _ask_count,
    "existence": _ask_existence,
    "attribute": _ask_attribute,
    "caption": _ask_caption,
}
"""Draws a question of each kind."""


def prompt(question: Question) -> str:
    """The whole user turn, as the tasks write it."""
    return question.text if question.kind == "caption" else question.text + SHORT
