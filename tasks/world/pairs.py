"""Writers of generated MME and NaturalBench: questions that only count together."""

from collections.abc import Callable, Mapping
from pathlib import Path

from steelyard.tasks.world.language import (
    absent_kinds,
    attribute_question,
    colour_question,
    compose,
    existence_question,
    other_colour,
)
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS, PLACES, Object, Scene
from steelyard.tasks.world.source import (
    BASE_KNOBS,
    DataSet,
    Row,
    Source,
    evaluation,
    habits_of,
    new_scene,
    write_lines,
    write_text,
)
from steelyard.tasks.world.vqa import save

NESTED = frozenset({"scene"})
"""Categories whose images and questions have folders of their own."""
ASKED = " Please answer yes or no."

Sides = tuple[str, str]
"""A question whose answer is yes, and one whose answer is no."""
Maker = Callable[[Source], tuple[Scene, str, Sides]]
"""Makes a scene, what is written on its picture, and the two questions about it."""


# --- mme: a question to be answered yes and one to be answered no ------------------------------


def _mme(folder: Path, count: int, source: Source) -> list[Row]:
    truth = []
    for number in range(count // 2):
        category = tuple(CATEGORIES)[number % len(CATEGORIES)]
        scene, label, sides = CATEGORIES[category](source)
        own, name = folder / category, f"{number + 1:06}"
        nested = category in NESTED
        images, texts = (own / "images", own / "questions_answers_YN") if nested else (own, own)
        save(source, scene, images / f"{name}.jpg", label)
        texts.mkdir(parents=True, exist_ok=True)
        pair = list(zip(sides, ("Yes", "No"), strict=True))
        text = "".join(f"{question}{ASKED}\t{answer}\n" for question, answer in pair)
        write_text(texts / f"{name}.txt", text)
        for place, (_, answer) in enumerate(pair, start=1):
            fact = {"scene": scene.symbol, "kind": category, "answer": answer.lower()}
            truth.append({"id": f"{category}/{name}/{place}", "sign": label, **fact})
    return truth


def _any(source: Source) -> Scene:
    return new_scene(source, lambda: compose(habits_of(source), source.rng))


def _of_existence(source: Source) -> tuple[Scene, str, Sides]:
    scene = _any(source)
    kinds = source.pick(scene.objects).kind, source.pick(absent_kinds(scene, same_place=False))
    yes, no = (existence_question(scene, kind).text for kind in kinds)
    return scene, "", (yes, no)


def _of_count(source: Source) -> tuple[Scene, str, Sides]:
    scene = _any(source)
    right = len(scene.objects)
    wrong = source.pick([number for number in range(1, source.most + 2) if number != right])
    return scene, "", (_how_many(right), _how_many(wrong))


def _how_many(number: int) -> str:
    return f"{'Is' if number == 1 else 'Are'} there {number} object{'s' * (number > 1)}?"


def _of_position(source: Source) -> tuple[Scene, str, Sides]:
    scene = new_scene(source, lambda: _off_centre(source))
    thing = next(thing for thing in scene.objects if _side(thing, scene))
    sides = ("left", "right") if _side(thing, scene) < 0 else ("right", "left")
    yes, no = (f"Is the {thing.kind} on the {side} of the image?" for side in sides)
    return scene, "", (yes, no)


def _off_centre(source: Source) -> Scene:
    """A scene of which an object is not in the middle column, where a grid has one."""
    while True:
        scene = compose(habits_of(source), source.rng)
        if any(_side(thing, scene) for thing in scene.objects):
            return scene


def _side(thing: Object, scene: Scene) -> int:
    """Below 0 on the left, above 0 on the right."""
    return 2 * (thing.cell % scene.grid) + 1 - scene.grid


def _of_colour(source: Source) -> tuple[Scene, str, Sides]:
    scene = _any(source)
    thing = source.pick(scene.objects)
    colours = thing.colour, other_colour(thing, source.rng)
    yes, no = (attribute_question(thing, colour).text for colour in colours)
    return scene, "", (yes, no)


def _of_place(source: Source) -> tuple[Scene, str, Sides]:
    scene = _any(source)
    other = source.pick([place for place in PLACES if place != scene.place])
    yes, no = (f"Is this the {place}?" for place in (scene.place, other))
    return scene, "", (yes, no)


def _of_writing(source: Source) -> tuple[Scene, str, Sides]:
    right, wrong = source.rng.choice(range(10, 100), 2, replace=False).tolist()
    yes, no = (f"Is the number in the image {value}?" for value in (right, wrong))
    return _any(source), str(right), (yes, no)


def _of_sum(source: Source) -> tuple[Scene, str, Sides]:
    one, other = source.rng.integers(1, 10, 2).tolist()
    wrong = one + other + int(source.pick((-1, 1)))
    yes, no = (f"Is the answer {value}?" for value in (one + other, wrong))
    return _any(source), f"{one}+{other}", (yes, no)


def _of_sense(source: Source) -> tuple[Scene, str, Sides]:
    """Whether a food has its usual colour, which it has in half of the pictures."""
    kind = source.pick(FOODS)
    usual, seldom = KINDS[kind].colour, source.rng.random() < 0.5
    colour = source.pick([name for name in COLOURS if (name != usual) == seldom])
    scene = new_scene(
        source,
        lambda: compose(habits_of(source), source.rng, first=kind, first_colour=colour),
        again=True,
    )
    asked = f"Does the {kind} have the color that it usually has?"
    denied = f"Does the {kind} have a color that it does not usually have?"
    return scene, "", (asked, denied) if colour == usual else (denied, asked)


CATEGORIES: Mapping[str, Maker] = {
    "existence": _of_existence,
    "count": _of_count,
    "position": _of_position,
    "color": _of_colour,
    "scene": _of_place,
    "OCR": _of_writing,
    "commonsense_reasoning": _of_sense,
    "numerical_calculation": _of_sum,
}
"""Those of MME's fourteen categories that the world has something to ask for."""


# --- naturalbench: two questions, two images, opposite answers ---------------------------------


def _naturalbench(folder: Path, count: int, source: Source) -> list[Row]:
    truth, rows = [], []
    for number in range(count // 4):
        scenes, kind, questions, (first, second) = (_yes_no, _options)[number % 2](source)
        row: Row = {"Index": number, "Question_Type": kind}
        for place, scene in enumerate(scenes):
            row[f"Image_{place}"] = f"{number}_{place}.jpg"
            save(source, scene, folder / "images" / row[f"Image_{place}"])
        for asked, question in enumerate(questions):
            row[f"Question_{asked}"] = question
            for place, scene in enumerate(scenes):
                answer = first if asked == place else second
                row[f"Image_{place}_Question_{asked}"] = answer
                fact = {"scene": scene.symbol, "kind": kind, "answer": answer}
                truth.append({"id": f"{number}/q{asked}_i{place}", **fact})
        rows.append(row)
    write_lines(folder / "naturalbench.jsonl", rows)
    return truth


Group = tuple[tuple[Scene, Scene], str, Sides, tuple[str, str]]
"""Two scenes, the type of question, the questions, and the answers to each where it fits or not."""


def _yes_no(source: Source) -> Group:
    """Each picture has an object that the other has not."""
    while True:
        one, other = _any(source), _any(source)
        only_one, only_other = (
            sorted({t.kind for t in a.objects} - {t.kind for t in b.objects})
            for a, b in ((one, other), (other, one))
        )
        if only_one and only_other:
            kinds = source.pick(only_one), source.pick(only_other)
            texts = tuple(existence_question(one, kind).text for kind in kinds)
            return (one, other), "yes_no", (texts[0], texts[1]), ("Yes", "No")


def _options(source: Source) -> Group:
    """The same sort of object in two colours."""
    kind = source.pick(tuple(KINDS))
    colours = source.shuffled(tuple(COLOURS))[:2]
    one, other = (_coloured(source, kind, colour) for colour in colours)
    thing = next(thing for thing in one.objects if thing.kind == kind)
    asked = colour_question(thing).text
    orders = colours, colours[::-1]
    first, second = (f"{asked}\nA. {a}\nB. {b}" for a, b in orders)
    return (one, other), "multiple_choice", (first, second), ("A", "B")


def _coloured(source: Source, kind: str, colour: str) -> Scene:
    return new_scene(
        source,
        lambda: compose(habits_of(source), source.rng, first=kind, first_colour=colour),
        again=True,
    )


PAIR_SETS: Mapping[str, DataSet] = {
    "mme": DataSet(BASE_KNOBS, evaluation(_mme, ".")),
    "naturalbench": DataSet(BASE_KNOBS, evaluation(_naturalbench)),
}
