"""Writers of generated MME and NaturalBench: questions that are scored in pairs or groups."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from steelyard.tasks.world.language import (
    absent_kinds,
    attribute_question,
    colour_question,
    existence_question,
    number_question,
    other_colour,
)
from steelyard.tasks.world.prior import BASE_PARAMETERS
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS, PLACES, Object, Scene
from steelyard.tasks.world.source import (
    JsonRow,
    SceneSource,
    WorldSet,
    evaluation,
    write_lines,
    write_text,
)

# --- mme: a question with the answer yes and one with the answer no ----------------------------

NESTED = frozenset({"scene"})
"""Categories that keep images and questions in separate folders."""
YES_NO_SUFFIX = " Please answer yes or no."


class MmePair(NamedTuple):
    """Scene with two questions about it."""

    scene: Scene
    yes: str
    """Question with the answer yes."""
    no: str
    sign: str = ""
    """Digits on the picture."""


def _write_mme(folder: Path, count: int, source: SceneSource) -> list[JsonRow]:
    truth = []
    for number in range(count // 2):
        category = tuple(CATEGORIES)[number % len(CATEGORIES)]
        pair = CATEGORIES[category](source)
        images = texts = folder / category
        if category in NESTED:
            images, texts = images / "images", texts / "questions_answers_YN"
        name = f"{number + 1:06}"
        source.save(pair.scene, images / f"{name}.jpg", pair.sign)
        texts.mkdir(parents=True, exist_ok=True)
        answered = [(pair.yes, "Yes"), (pair.no, "No")]
        lines = [f"{question}{YES_NO_SUFFIX}\t{answer}\n" for question, answer in answered]
        write_text(texts / f"{name}.txt", "".join(lines))
        for index, (_, answer) in enumerate(answered, start=1):
            fact = {"scene": pair.scene.symbol, "kind": category, "answer": answer.lower()}
            truth.append({"id": f"{category}/{name}/{index}", "sign": pair.sign, **fact})
    return truth


def _ask_existence(source: SceneSource) -> MmePair:
    scene = source.scene()
    present = source.pick(scene.objects).kind
    absent = source.pick(absent_kinds(scene, same_place=False))
    yes, no = (existence_question(scene, kind).text for kind in (present, absent))
    return MmePair(scene, yes, no)


def _ask_count(source: SceneSource) -> MmePair:
    scene = source.scene()
    right = len(scene.objects)
    wrong = source.pick([n for n in range(1, source.max_objects + 2) if n != right])
    return MmePair(scene, number_question(right), number_question(wrong))


def _ask_position(source: SceneSource) -> MmePair:
    scene = source.scene(accept=lambda scene: any(_offset(obj, scene) for obj in scene.objects))
    obj = next(obj for obj in scene.objects if _offset(obj, scene))
    directions = ("left", "right") if _offset(obj, scene) < 0 else ("right", "left")
    yes, no = (f"Is the {obj.kind} on the {name} of the image?" for name in directions)
    return MmePair(scene, yes, no)


def _offset(obj: Object, scene: Scene) -> int:
    """Return a number below 0 for an object on the left, above 0 on the right, 0 in the middle."""
    return 2 * (obj.cell % scene.grid) + 1 - scene.grid


def _ask_colour(source: SceneSource) -> MmePair:
    scene = source.scene()
    obj = source.pick(scene.objects)
    colours = obj.colour, other_colour(obj, source.rng)
    yes, no = (attribute_question(obj, colour).text for colour in colours)
    return MmePair(scene, yes, no)


def _ask_place(source: SceneSource) -> MmePair:
    scene = source.scene()
    wrong = source.pick([place for place in PLACES if place != scene.place])
    return MmePair(scene, f"Is this the {scene.place}?", f"Is this the {wrong}?")


def _ask_writing(source: SceneSource) -> MmePair:
    right, wrong = source.rng.choice(range(10, 100), 2, replace=False).tolist()
    yes, no = (f"Is the number in the image {value}?" for value in (right, wrong))
    return MmePair(source.scene(), yes, no, str(right))


def _ask_sum(source: SceneSource) -> MmePair:
    first, second = source.rng.integers(1, 10, 2).tolist()
    wrong = first + second + int(source.pick((-1, 1)))
    yes, no = (f"Is the answer {value}?" for value in (first + second, wrong))
    return MmePair(source.scene(), yes, no, f"{first}+{second}")


def _ask_common_sense(source: SceneSource) -> MmePair:
    """Ask whether a food has its usual colour, which it has in half of the pictures."""
    kind = source.pick(FOODS)
    usual, is_unusual = KINDS[kind].colour, source.rng.random() < 0.5
    colour = source.pick([name for name in COLOURS if (name != usual) == is_unusual])
    scene = source.scene(kind, colour, reuse=True)
    usually = f"Does the {kind} have the color that it usually has?"
    unusually = f"Does the {kind} have a color that it does not usually have?"
    return MmePair(scene, *((usually, unusually) if colour == usual else (unusually, usually)))


CATEGORIES: Mapping[str, Callable[[SceneSource], MmePair]] = {
    "existence": _ask_existence,
    "count": _ask_count,
    "position": _ask_position,
    "color": _ask_colour,
    "scene": _ask_place,
    "OCR": _ask_writing,
    "commonsense_reasoning": _ask_common_sense,
    "numerical_calculation": _ask_sum,
}
"""Those of MME's fourteen categories that the generated world can fill."""


# --- naturalbench: two questions, two images, opposite answers ---------------------------------


class NaturalBenchGroup(NamedTuple):
    """Two scenes and two questions; question i fits scene i and not the other one."""

    scenes: tuple[Scene, Scene]
    kind: str
    questions: tuple[str, str]
    fitting: str
    """Answer to a question about the scene that it fits."""
    opposite: str


def _write_naturalbench(folder: Path, count: int, source: SceneSource) -> list[JsonRow]:
    truth, rows = [], []
    for number in range(count // 4):
        group = (_yes_no_group, _option_group)[number % 2](source)
        row: JsonRow = {"Index": number, "Question_Type": group.kind}
        for image, scene in enumerate(group.scenes):
            row[f"Image_{image}"] = f"{number}_{image}.jpg"
            source.save(scene, folder / "images" / row[f"Image_{image}"])
        for index, question in enumerate(group.questions):
            row[f"Question_{index}"] = question
            for image, scene in enumerate(group.scenes):
                answer = group.fitting if index == image else group.opposite
                row[f"Image_{image}_Question_{index}"] = answer
                fact = {"scene": scene.symbol, "kind": group.kind, "answer": answer}
                truth.append({"id": f"{number}/q{index}_i{image}", **fact})
        rows.append(row)
    write_lines(folder / "naturalbench.jsonl", rows)
    return truth


def _yes_no_group(source: SceneSource) -> NaturalBenchGroup:
    """Ask for an object that only one of the pictures has, and for one that only the other has."""
    while True:
        first, second = source.scene(), source.scene()
        kinds_first, kinds_second = ({obj.kind for obj in s.objects} for s in (first, second))
        only_first, only_second = (
            sorted(kinds_first - kinds_second),
            sorted(kinds_second - kinds_first),
        )
        if only_first and only_second:
            questions = (
                existence_question(first, source.pick(only_first)).text,
                existence_question(first, source.pick(only_second)).text,
            )
            return NaturalBenchGroup((first, second), "yes_no", questions, "Yes", "No")


def _option_group(source: SceneSource) -> NaturalBenchGroup:
    """Ask for the colour of an object that the pictures show in two colours."""
    kind = source.pick(tuple(KINDS))
    a, b = source.shuffled(tuple(COLOURS))[:2]
    first, second = (source.scene(kind, colour, reuse=True) for colour in (a, b))
    text = colour_question(next(obj for obj in first.objects if obj.kind == kind)).text
    questions = (f"{text}\nA. {a}\nB. {b}", f"{text}\nA. {b}\nB. {a}")
    return NaturalBenchGroup((first, second), "multiple_choice", questions, "A", "B")


PAIR_SETS: Mapping[str, WorldSet] = {
    "mme": WorldSet(BASE_PARAMETERS, evaluation(_write_mme)),
    "naturalbench": WorldSet(BASE_PARAMETERS, evaluation(_write_naturalbench)),
}
