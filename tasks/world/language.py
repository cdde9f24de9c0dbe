"""Wording of the generated world: questions about scenes, their answers, and captions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from steelyard.tasks._shared.questions import CAPTION, SHORT
from steelyard.tasks.world.prior import MAX_OBJECTS, LanguagePrior, pick, residents
from steelyard.tasks.world.scenes import COLOURS, KINDS, Object, Scene

MASS = frozenset({"bread", "corn", "broccoli"})
PLURAL = frozenset({"grapes"})
YES_NO = ("yes", "no")
SYNONYMS = {
    "grapes": ("grape",),
    "doughnut": ("donut",),
    "shrimp": ("prawn",),
    "bread": ("loaf",),
    "ball": ("sphere",),
    "cup": ("mug",),
}
"""Other words for an object that a caption may use."""


@dataclass(frozen=True, slots=True)
class Question:
    """Question about a scene and its one right answer.

    The cache key of the base model hashes its repr, so names of class and fields are fixed.
    """

    kind: str
    """Key of ``ASK``, or the name of a kind that only one data set has."""
    text: str
    """Without ``SHORT`` at its end."""
    answer: str
    choices: tuple[str, ...]
    """All answers that are possible; empty for a caption."""
    about: str = ""
    """Kind of object that it asks about, if any."""


def phrase(kind: str, colour: str = "") -> str:
    """Return ``an apple``, ``a red apple`` or ``some bread``."""
    words = f"{colour} {kind}".strip()
    article = "an" if words[0] in "aeiou" else "a"
    return f"{'some' if kind in MASS | PLURAL else article} {words}"


def caption(scene: Scene) -> str:
    """Return one sentence that names every object with its colour, in cell order."""
    return " and ".join(phrase(obj.kind, obj.colour) for obj in scene.objects) + "."


def colour_question(obj: Object) -> Question:
    """Ask for the colour of an object."""
    text = f"What color {_be(obj.kind)} the {obj.kind}?"
    return Question("colour", text, obj.colour, tuple(COLOURS), obj.kind)


def count_question(scene: Scene, most: int = MAX_OBJECTS) -> Question:
    """Ask how many objects the scene has, of at most ``most``."""
    answer, choices = str(len(scene.objects)), tuple(str(n) for n in range(1, most + 1))
    return Question("count", "How many objects are there in the image?", answer, choices)


def existence_question(scene: Scene, kind: str) -> Question:
    """Ask whether the scene has an object of this kind, in POPE's words."""
    present = kind in {obj.kind for obj in scene.objects}
    text = f"{_be(kind).capitalize()} there {phrase(kind)} in the image?"
    return Question("existence", text, yes_no(present), YES_NO, kind)


def attribute_question(obj: Object, colour: str) -> Question:
    """Ask whether an object of the scene has this colour."""
    text = f"{_be(obj.kind).capitalize()} the {obj.kind} {colour}?"
    return Question("attribute", text, yes_no(colour == obj.colour), YES_NO, obj.kind)


def number_question(number: int) -> str:
    """Ask whether there are this many objects, as a yes-no question."""
    return f"{'Is' if number == 1 else 'Are'} there {number} object{'s' * (number > 1)}?"


def yes_no(is_true: bool) -> str:
    return "yes" if is_true else "no"


def _be(kind: str) -> str:
    return "are" if kind in PLURAL else "is"


def prompt(question: Question) -> str:
    """Return the user's turn as the tasks write it."""
    return question.text if question.kind == "caption" else question.text + SHORT


# --- sampling what to ask ----------------------------------------------------------------------


def absent_kinds(scene: Scene, *, same_place: bool) -> list[str]:
    """Return kinds that the scene does not have: the usual ones of its place, or all others."""
    present = {obj.kind for obj in scene.objects}
    near = residents(scene.place)
    return [kind for kind in KINDS if kind not in present and (kind in near) == same_place]


def expected_absent(scene: Scene, *, same_place: bool = True) -> list[str]:
    """Return ``absent_kinds``, or those of other places if all usual ones are present."""
    return absent_kinds(scene, same_place=same_place) or absent_kinds(scene, same_place=False)


def other_colour(obj: Object, rng: np.random.Generator) -> str:
    """Return a colour the object does not have: its usual one if possible, else any."""
    usual = KINDS[obj.kind].colour
    if usual is not None and usual != obj.colour:
        return usual
    return pick([colour for colour in COLOURS if colour != obj.colour], rng)


def _ask_existence(scene: Scene, prior: LanguagePrior, rng: np.random.Generator) -> Question:
    if rng.random() < prior.yes:
        return existence_question(scene, pick(scene.objects, rng).kind)
    near = bool(rng.random() < prior.same_place)
    return existence_question(scene, pick(absent_kinds(scene, same_place=near), rng))


def _ask_attribute(scene: Scene, prior: LanguagePrior, rng: np.random.Generator) -> Question:
    obj = pick(scene.objects, rng)
    is_right = rng.random() < prior.yes
    return attribute_question(obj, obj.colour if is_right else other_colour(obj, rng))


ASK: Mapping[str, Callable[[Scene, LanguagePrior, np.random.Generator], Question]] = {
    "colour": lambda scene, prior, rng: colour_question(pick(scene.objects, rng)),
    "count": lambda scene, prior, rng: count_question(scene, prior.objects),
    "existence": _ask_existence,
    "attribute": _ask_attribute,
    "caption": lambda scene, prior, rng: Question("caption", CAPTION, caption(scene), ()),
}
"""Functions that sample a question about a scene, by kind of question."""
