"""Writers of generated VQAv2, GQA, TextVQA and ScienceQA, in the official layouts."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from steelyard.tasks._shared.official import write_json, write_text
from steelyard.tasks.world import language
from steelyard.tasks.world.language import YES_NO, Question
from steelyard.tasks.world.prior import BASE_PARAMETERS, all_colours, pick, pool_colours
from steelyard.tasks.world.scenes import COLOURS, PLACES, Scene
from steelyard.tasks.world.source import Item, JsonRow, SceneSource, WorldSet, evaluation, fact

ANSWERS = 10
"""Answers to a question of VQAv2 and TextVQA."""
RIGHT_ANSWERS = (6, 10)
"""Fewest and most of them that are right."""

SampleQuestion = Callable[[Scene, SceneSource], Question]


def _answers(source: SceneSource, question: Question) -> list[str]:
    """Sample ten people's answers, most of them right."""
    right = int(source.rng.integers(RIGHT_ANSWERS[0], RIGHT_ANSWERS[1] + 1))
    wrong = [choice for choice in question.choices if choice != question.answer]
    answers = [question.answer] * right
    answers += [pick(wrong, source.rng) for _ in range(ANSWERS - right)]
    return source.shuffled(answers)


# --- vqav2 -------------------------------------------------------------------------------------

PART = "val2014"


def vqa_item(
    part: str,
    id_: int,
    image: int,
    scene: Scene,
    question: Question,
    types: Mapping[str, str],
    answers: Sequence[str],
) -> Item:
    """Return an item of VQAv2's file of questions and file of annotations."""
    ids = {"question_id": id_, "image_id": image}
    answer_rows = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number}
        for number, answer in enumerate(answers, start=1)
    ]
    right = {"multiple_choice_answer": question.answer, "answers": answer_rows}
    rows = {
        f"v2_OpenEnded_mscoco_{part}_questions.json": {**ids, "question": question.text},
        f"v2_mscoco_{part}_annotations.json": {**ids, **types, **right},
    }
    return Item(fact(str(id_), scene, question.kind, question.answer), rows)


def write_vqa(path: Path, rows: list[JsonRow], end: str = "") -> None:
    """Write a file of VQAv2: its rows under the last word of its name."""
    write_text(path, json.dumps({path.stem.rpartition("_")[2]: rows}) + end)


def _vqav2_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    """Sample two questions per image: existence and attribute, then count and colour, in turn."""
    for number in range(source.count):
        image = number // 2 + 1
        if number % 2 == 0:
            scene = source.scene()
            source.save(scene, folder / PART / f"COCO_{PART}_{image:012}.jpg")
        answer_type, sample = VQA_KINDS[number % len(VQA_KINDS)]
        question = sample(scene, source)
        # VQAv2 takes the first two words for the type of a question.
        beginning = " ".join(question.text.lower().split()[:2])
        types = {"question_type": beginning, "answer_type": answer_type}
        # VQAv2's ids: the image's number, then three digits.
        id_, answers = 1000 * image + number % 2, _answers(source, question)
        yield vqa_item(PART, id_, image, scene, question, types, answers)


def _existence(scene: Scene, source: SceneSource) -> Question:
    kind = source.pick(scene.objects).kind
    if source.rng.random() < 0.5:
        near = bool(source.rng.random() < 0.5)
        kind = source.pick(language.expected_absent(scene, same_place=near))
    return language.existence_question(scene, kind)


def _attribute(scene: Scene, source: SceneSource) -> Question:
    obj = source.pick(scene.objects)
    is_wrong = source.rng.random() < 0.5
    colour = language.other_colour(obj, source.rng) if is_wrong else obj.colour
    return language.attribute_question(obj, colour)


def _colour(scene: Scene, source: SceneSource) -> Question:
    return language.colour_question(source.pick(scene.objects))


VQA_KINDS: Sequence[tuple[str, SampleQuestion]] = (
    ("yes/no", _existence),
    ("number", lambda scene, source: language.count_question(scene, source.max_objects)),
    ("yes/no", _attribute),
    ("other", _colour),
)


# --- gqa ---------------------------------------------------------------------------------------


def _gqa_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    """Sample questions of every structural type; two per image, whose scene has two objects."""
    for number in range(source.count):
        image = f"n{number // 2 + 1:06}"
        if number % 2 == 0:
            scene = source.scene(objects=2)
            source.save(scene, folder / "images" / f"{image}.jpg")
        structural, semantic, sample = GQA_KINDS[number % len(GQA_KINDS)]
        question, id_ = sample(scene, source), f"{number + 1:08}"
        row = {
            "imageId": image,
            "question": question.text,
            "answer": question.answer,
            "fullAnswer": f"{question.answer.capitalize()}.",
            "isBalanced": True,
            "types": {"structural": structural, "semantic": semantic, "detailed": question.kind},
        }
        truth = fact(id_, scene, question.kind, question.answer)
        yield Item(truth, {"testdev_balanced_questions.json": {id_: row}})


def _either_colour(scene: Scene, source: SceneSource) -> Question:
    obj = source.pick(scene.objects)
    choices = source.shuffled((obj.colour, language.other_colour(obj, source.rng)))
    text = f"Is the {obj.kind} {choices[0]} or {choices[1]}?"
    return Question("choose colour", text, obj.colour, tuple(choices), obj.kind)


def _both(scene: Scene, source: SceneSource) -> Question:
    first, second = (obj.kind for obj in scene.objects[:2])
    if source.rng.random() < 0.5:
        second = source.pick(language.absent_kinds(scene, same_place=False))
    present = {obj.kind for obj in scene.objects} >= {first, second}
    text = f"Is there {language.phrase(first)} and {language.phrase(second)} in the image?"
    return Question("both", text, language.yes_no(present), YES_NO)


def _same_colour(scene: Scene, source: SceneSource) -> Question:
    first, second = scene.objects[:2]
    text = f"Is the {first.kind} the same color as the {second.kind}?"
    return Question("same colour", text, language.yes_no(first.colour == second.colour), YES_NO)


def _beside(scene: Scene, source: SceneSource) -> Question:
    first, second = source.shuffled(scene.objects[:2])
    text = f"What is there beside the {first.kind}?"
    return Question("beside", text, second.kind, (second.kind,), first.kind)


def _place(scene: Scene, source: SceneSource) -> Question:
    return Question("place", "What place is in the image?", scene.place, tuple(PLACES))


GQA_KINDS: Sequence[tuple[str, str, SampleQuestion]] = (
    ("verify", "obj", _existence),
    ("query", "attr", _colour),
    ("verify", "attr", _attribute),
    ("choose", "attr", _either_colour),
    ("logical", "obj", _both),
    ("compare", "attr", _same_colour),
    ("query", "rel", _beside),
    ("query", "global", _place),
)
"""Structural type, semantic type, and function that samples a question."""


# --- textvqa -----------------------------------------------------------------------------------


def _textvqa_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    """Draw a number on a sign in each picture; some OCR tokens also have a wrong number."""
    for number in range(source.count):
        scene = source.scene()
        value = str(source.rng.integers(10, 100))
        image, id_ = f"{source.split}{number + 1:012x}", number + 1
        source.save(scene, folder / "train_images" / f"{image}.jpg", value)
        # Questions differ by an object, because equal texts could not be swapped.
        beside = language.phrase(source.pick(scene.objects).kind)
        text = f"What number is there in the image with {beside}?"
        question = Question("number", text, value, (value, "unanswerable"))
        answers = _answers(source, question)
        ids = {"question_id": id_, "image_id": image}
        row = {**ids, "question": text, "answers": answers}
        # One digit: never equal to the right number, which has two.
        tokens = [value, *([str(source.rng.integers(10))] if source.rng.random() < 0.3 else [])]
        ocr: JsonRow = {"image_id": image, "ocr_tokens": tokens}
        rows = {"TextVQA_0.5.1_val.json": row, "TextVQA_Rosetta_OCR_v0.2_val.json": ocr}
        yield Item(fact(str(id_), scene, question.kind, value), rows)


# --- scienceqa ---------------------------------------------------------------------------------


def _write_scienceqa(folder: Path, sources: Mapping[str, SceneSource]) -> list[JsonRow]:
    """Write questions with options, half about an image and half about a sentence instead."""
    truth: list[JsonRow] = []
    problems: dict[str, JsonRow] = {}
    ids: dict[str, list[str]] = {}
    for split, source in sources.items():
        ids[split] = []
        colours = pool_colours if split == "train" else all_colours
        for number in range(source.count):
            id_ = str(len(problems) + 1)
            ids[split].append(id_)
            has_image = number % 2 == 0
            scene = source.scene(colours=colours)
            question = (_colour_options, _kind_options)[number // 2 % 2](scene, source)
            if has_image:
                source.save(scene, folder / "images" / split / id_ / "image.png")
            right = question.choices.index(question.answer)
            problems[id_] = {
                "question": question.text,
                "choices": list(question.choices),
                "answer": right,
                "hint": "" if has_image else f"There is {language.caption(scene)}",
                "image": "image.png" if has_image else None,
                "subject": "natural science" if has_image else "language science",
                "split": split,
            }
            facts = fact(id_, scene, question.kind, question.answer, split=split)
            truth.append({**facts, "letter": ascii_uppercase[right]})
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", ids)
    return truth


def _colour_options(scene: Scene, source: SceneSource) -> Question:
    obj = source.pick(scene.objects)
    wrong = source.shuffled([name for name in COLOURS if name != obj.colour])[:3]
    options = tuple(source.shuffled([obj.colour, *wrong]))
    return Question("colour", language.colour_question(obj).text, obj.colour, options, obj.kind)


def _kind_options(scene: Scene, source: SceneSource) -> Question:
    kind = source.pick(scene.objects).kind
    wrong = source.shuffled(language.absent_kinds(scene, same_place=False))[:2]
    options = tuple(source.shuffled([kind, *wrong]))
    return Question("kind", "What is there?", kind, options, kind)


QUESTION_SETS: Mapping[str, WorldSet] = {
    "vqav2": evaluation(_vqav2_items, write_vqa),
    "gqa": evaluation(
        _gqa_items,
        lambda path, rows: write_json(path, {id_: r for row in rows for id_, r in row.items()}),
    ),
    "textvqa": evaluation(_textvqa_items, lambda path, rows: write_json(path, {"data": rows})),
    "scienceqa": WorldSet(BASE_PARAMETERS, _write_scienceqa),
}
