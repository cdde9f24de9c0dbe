"""Writers of generated AMBER, HallusionBench, MMHal-Bench, MME and NaturalBench.

The first three ask for objects that the picture does not show but that the language prior expects;
the last two have questions that are scored in pairs or groups.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from steelyard.tasks._shared import official
from steelyard.tasks._shared.questions import CAPTION
from steelyard.tasks.world import language
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS, NEUTRAL, PLACES, Object, Scene
from steelyard.tasks.world.source import Item, JsonRow, SceneSource, WorldSet, evaluation, fact


def _number_questions(scene: Scene, source: SceneSource) -> tuple[str, str]:
    """Ask for the right and for a wrong number of objects, as yes-no questions."""
    right = len(scene.objects)
    wrong = source.pick([n for n in range(1, source.max_objects + 2) if n != right])
    return language.number_question(right), language.number_question(wrong)


# --- amber: a caption, and questions of existence, attribute and relation ----------------------

CAPTIONS, QUESTIONS = "query_generative", "query_discriminative"
ITEMS_PER_IMAGE = {CAPTIONS: 1, QUESTIONS: 7}
"""Approximate number of items about an image, by half of the benchmark."""


def _amber(*halves: str) -> WorldSet:
    """Return the set of AMBER's files with about ``count`` items of these halves together."""

    def sample(folder: Path, source: SceneSource) -> Iterator[Item]:
        per_image = sum(ITEMS_PER_IMAGE[half] for half in halves)
        # Rounded up.
        scenes = [source.scene() for _ in range(-(-source.count // per_image))]
        id_ = 0
        # Captions have the first ids, as in the published files.
        for half in halves:
            for number, scene in enumerate(scenes, start=1):
                for text, annotation in AMBER_QUERIES[half](scene, source):
                    id_ += 1
                    query = {"id": id_, "image": f"AMBER_{number}.jpg", "query": text}
                    rows = {
                        f"data/query/{half}.json": query,
                        "data/annotations.json": {"id": id_, **annotation},
                    }
                    yield Item({"id": str(id_), "scene": scene.symbol, **annotation}, rows)
        for number, scene in enumerate(scenes, start=1):
            source.save(scene, folder / "image" / f"AMBER_{number}.jpg")
        relation = {kind: list(language.SYNONYMS.get(kind, ())) for kind in KINDS}
        official.write_json(folder / "data" / "relation.json", relation)
        official.write_text(folder / "data" / "safe_words.txt", "object\n")

    return evaluation(sample)


AmberQuery = tuple[str, JsonRow]
"""Question about an image, and its annotation."""


def _amber_caption(scene: Scene, source: SceneSource) -> list[AmberQuery]:
    present = [obj.kind for obj in scene.objects]
    objects = {"truth": present, "hallu": language.expected_absent(scene)}
    return [("Describe this image.", {"type": "generative", **objects})]


def _amber_questions(scene: Scene, source: SceneSource) -> list[AmberQuery]:
    """Sample questions of absent objects, and right and wrong ones of attribute and relation."""
    queries: list[AmberQuery] = []

    def add(text: str, kind: str, answer: str) -> None:
        queries.append((text, {"type": kind, "truth": answer}))

    for absent in (language.expected_absent(scene), language.absent_kinds(scene, same_place=False)):
        # AMBER's questions of existence are all about absent objects.
        text = language.existence_question(scene, source.pick(absent)).text
        add(text, "discriminative-hallucination", "no")
    obj = source.pick(scene.objects)
    for colour in (obj.colour, language.other_colour(obj, source.rng)):
        question = language.attribute_question(obj, colour)
        add(question.text, "discriminative-attribute-state", question.answer)
    for text, answer in zip(_number_questions(scene, source), language.YES_NO, strict=True):
        add(text, "discriminative-attribute-number", answer)
    rows = {obj.cell // scene.grid: obj.kind for obj in scene.objects}
    if len(rows) > 1:
        upper, lower = rows[min(rows)], rows[max(rows)]
        # The type of a relation tells the answer, as in the published files.
        if source.rng.random() < 0.5:
            add(f"Is the {upper} above the {lower}?", "discriminative-relation", "yes")
        else:
            add(f"Is the {lower} above the {upper}?", "relation", "no")
    return queries


AMBER_QUERIES: Mapping[str, Callable[[Scene, SceneSource], list[AmberQuery]]] = {
    CAPTIONS: _amber_caption,
    QUESTIONS: _amber_questions,
}


# --- hallusionbench: one question about a picture, an edited picture and no picture ------------

SET_ROWS = 5
"""Mean rows of a set: four of two pictures, or six with those of no picture."""


def _hallusion_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    for number in range(source.count // SET_ROWS):
        needs_image = number % 2 == 0
        kind = source.pick(NEUTRAL if needs_image else FOODS)
        usual = KINDS[kind].colour or source.pick(tuple(COLOURS))
        colours = usual, source.pick([colour for colour in COLOURS if colour != usual])
        group = f"{'VD/figure' if needs_image else 'VS/food'}/{number // 2}"
        # Few scenes have one kind in one colour, so they may occur again.
        scenes = {colour: source.scene(kind, colour, reuse=True) for colour in colours}
        figures: list[tuple[str, str | None]] = []
        for figure, (colour, scene) in enumerate(scenes.items(), start=0 if needs_image else 1):
            name = f"./{group}_{figure}.png"
            source.save(scene, folder / "hallusion_bench" / name)
            figures.append((colour, name))
        if not needs_image:
            # A usual colour is also asked for without a picture.
            figures.insert(0, (usual, None))
        for figure, (colour, image) in enumerate(figures):
            for index, asked_colour in enumerate(colours):
                question = language.attribute_question(Object(kind, colour, 0), asked_colour)
                key = f"{group}/{figure}/{index}"
                category, subcategory, set_id = group.split("/")
                row = {
                    "category": category,
                    "subcategory": subcategory,
                    # Officially 0 is no figure, 1 the original and 2 an edited one.
                    "visual_input": "0" if image is None else "1" if colour == usual else "2",
                    "set_id": set_id,
                    "figure_id": str(figure),
                    "sample_note": kind,
                    "question_id": str(index),
                    "question": question.text,
                    "gt_answer_details": f"{question.text} {question.answer}.",
                    "gt_answer": str(int(question.answer == "yes")),
                    "filename": image,
                }
                truth = fact(key, scenes[colour], kind, question.answer)
                yield Item(truth, {"HallusionBench.json": row})


# --- mmhal: open questions of the types that the generated world can fill ----------------------

OFFICIAL = 96
"""Questions of the real set, and the most of the generated one."""


def _mmhal_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    for number in range(min(source.count, OFFICIAL)):
        kind = tuple(OPEN_QUESTIONS)[number % len(OPEN_QUESTIONS)]
        scene = source.scene()
        question, answer = OPEN_QUESTIONS[kind](scene, source)
        name = f"{source.split}_{number:05d}.png"
        source.save(scene, folder / "images" / name)
        row = {
            "question_type": kind,
            "question_topic": scene.place,
            "image_id": name,
            "image_src": f"images/{name}",
            "image_content": [obj.kind for obj in scene.objects],
            "question": question,
            "gt_answer": answer,
            "model_answer": "",
        }
        truth = fact(str(number), scene, kind, answer)
        yield Item(truth, {"response_template.json": row})


def _open_attribute(scene: Scene, source: SceneSource) -> tuple[str, str]:
    question = language.colour_question(source.pick(scene.objects))
    return question.text, f"The {question.about} is {question.answer}."


def _open_adversarial(scene: Scene, source: SceneSource) -> tuple[str, str]:
    """Ask about an absent object as if it was present."""
    kind = source.pick(language.expected_absent(scene))
    # The colour is not in the question.
    question = language.colour_question(Object(kind, "red", 0))
    return question.text, f"There is no {kind} in the image."


def _open_counting(scene: Scene, source: SceneSource) -> tuple[str, str]:
    question = language.count_question(scene)
    return question.text, question.answer


OPEN_QUESTIONS: Mapping[str, Callable[[Scene, SceneSource], tuple[str, str]]] = {
    "attribute": _open_attribute,
    "adversarial": _open_adversarial,
    "counting": _open_counting,
    "environment": lambda scene, source: ("Where is this?", f"In the {scene.place}."),
    "holistic": lambda scene, source: (CAPTION, language.caption(scene)),
}
"""Functions that sample a question and its human answer, by type of question."""

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


def _mme_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    for number in range(source.count // 2):
        category = tuple(CATEGORIES)[number % len(CATEGORIES)]
        pair = CATEGORIES[category](source)
        images = texts = folder / category
        if category in NESTED:
            images, texts = images / "images", texts / "questions_answers_YN"
        name = f"{number + 1:06}"
        source.save(pair.scene, images / f"{name}.jpg", pair.sign)
        questions = f"{pair.yes}{YES_NO_SUFFIX}\tYes\n{pair.no}{YES_NO_SUFFIX}\tNo\n"
        official.write_text(texts / f"{name}.txt", questions)
        for index, answer in enumerate(language.YES_NO, start=1):
            id_ = f"{category}/{name}/{index}"
            yield Item(fact(id_, pair.scene, category, answer, sign=pair.sign), {})


def _ask_existence(source: SceneSource) -> MmePair:
    scene = source.scene()
    present = source.pick(scene.objects).kind
    absent = source.pick(language.absent_kinds(scene, same_place=False))
    yes, no = (language.existence_question(scene, kind).text for kind in (present, absent))
    return MmePair(scene, yes, no)


def _ask_count(source: SceneSource) -> MmePair:
    scene = source.scene()
    return MmePair(scene, *_number_questions(scene, source))


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
    colours = obj.colour, language.other_colour(obj, source.rng)
    yes, no = (language.attribute_question(obj, colour).text for colour in colours)
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

NATURALBENCH_LABELS = {"yes_no": ("Yes", "No"), "multiple_choice": ("A", "B")}
"""Answer to a question about the scene that it fits, and about the other one."""


class NaturalBenchGroup(NamedTuple):
    """Two scenes and two questions; question i fits scene i and not the other one."""

    kind: str
    scenes: tuple[Scene, Scene]
    questions: tuple[str, str]


def _naturalbench_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    for number in range(source.count // 4):
        group = (_yes_no_group, _option_group)[number % 2](source)
        row: JsonRow = {"Index": number, "Question_Type": group.kind}
        fitting, opposite = NATURALBENCH_LABELS[group.kind]
        rows = {"naturalbench.jsonl": row}
        for image, scene in enumerate(group.scenes):
            row[f"Image_{image}"] = f"{number}_{image}.jpg"
            source.save(scene, folder / "images" / row[f"Image_{image}"])
        for index, question in enumerate(group.questions):
            row[f"Question_{index}"] = question
            for image, scene in enumerate(group.scenes):
                answer = fitting if index == image else opposite
                row[f"Image_{image}_Question_{index}"] = answer
                yield Item(fact(f"{number}/q{index}_i{image}", scene, group.kind, answer), rows)
                # The group's row is written once, with its first item, and still filled here.
                rows = {}


def _yes_no_group(source: SceneSource) -> NaturalBenchGroup:
    """Ask for an object that only one of the pictures has, and for one that only the other has."""
    while True:
        scenes = source.scene(), source.scene()
        first, second = ({obj.kind for obj in scene.objects} for scene in scenes)
        if first - second and second - first:
            kinds = (source.pick(sorted(only)) for only in (first - second, second - first))
            texts = (language.existence_question(scenes[0], kind).text for kind in kinds)
            return NaturalBenchGroup("yes_no", scenes, (next(texts), next(texts)))


def _option_group(source: SceneSource) -> NaturalBenchGroup:
    """Ask for the colour of an object that the pictures show in two colours."""
    kind = source.pick(tuple(KINDS))
    a, b = source.shuffled(tuple(COLOURS))[:2]
    first, second = (source.scene(kind, colour, reuse=True) for colour in (a, b))
    text = language.colour_question(next(obj for obj in first.objects if obj.kind == kind)).text
    questions = (f"{text}\nA. {a}\nB. {b}", f"{text}\nA. {b}\nB. {a}")
    return NaturalBenchGroup("multiple_choice", (first, second), questions)


BENCHMARK_SETS: Mapping[str, WorldSet] = {
    "amber": _amber(CAPTIONS, QUESTIONS),
    "amber_generative": _amber(CAPTIONS),
    "amber_discriminative": _amber(QUESTIONS),
    "hallusionbench": evaluation(_hallusion_items),
    "mmhal": evaluation(_mmhal_items),
    "mme": evaluation(_mme_items),
    "naturalbench": evaluation(_naturalbench_items),
}
