"""Writers of generated VQAv2, GQA, TextVQA and ScienceQA, in the official layouts.

Numbers on pictures are drawn with dots, so the bytes depend on no font.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from PIL import Image

from steelyard.tasks.world.language import (
    YES_NO,
    Habits,
    Question,
    absent_kinds,
    all_colours,
    attribute_question,
    caption,
    colour_question,
    compose,
    count_question,
    existence_question,
    other_colour,
    phrase,
    pick,
    pool_colours,
)
from steelyard.tasks.world.scenes import COLOURS, PLACES, Scene
from steelyard.tasks.world.source import (
    BASE_KNOBS,
    DataSet,
    Row,
    Source,
    evaluation,
    habits_of,
    new_scene,
    truth_of,
    write_text,
)

PEOPLE = 10
"""Answers to a question of VQAv2 and TextVQA."""
AGREE = (6, 10)
"""Fewest and most of them that give the right one."""
DOTS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717",
    "6": "74757", "7": "71111", "8": "75757", "9": "75717", "+": "02720",
}  # fmt: skip
"""Five rows of three dots a character, top first; a row is the bits of a digit, left first."""

Asker = Callable[[Scene, Source], Question]


def save(source: Source, scene: Scene, path: Path, label: str = "") -> None:
    """Draw a scene, with ``label`` on a white sign in a corner, as a JPEG hardly worse than it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = source.picture(scene)
    if label:
        sign = _sign(label, max(1, source.size // 24))
        picture.paste(sign, (int(source.rng.integers(2)) * (picture.width - sign.width), 0))
    picture.save(path, quality=95, subsampling=0)


def _sign(text: str, scale: int) -> Image.Image:
    """Black dots of ``scale`` pixels on white."""
    glyphs = [[[int(row) >> bit & 1 for bit in (2, 1, 0, 3)] for row in DOTS[c]] for c in text]
    dots = np.pad(np.concatenate(glyphs, axis=1), ((1, 1), (1, 0)))
    pixels = np.kron(1 - dots, np.ones((scale, scale))) * 255
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")


def people(source: Source, question: Question) -> list[Row]:
    """Ten answers, most of them right, in the form of the official files."""
    right = int(source.rng.integers(AGREE[0], AGREE[1] + 1))
    wrong = [choice for choice in question.choices if choice != question.answer]
    said = [question.answer] * right
    said += [pick(wrong, source.rng) for _ in range(PEOPLE - right)]
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number}
        for number, answer in enumerate(source.shuffled(said), start=1)
    ]


# --- vqav2 -------------------------------------------------------------------------------------

PART = "val2014"


def _vqav2(folder: Path, count: int, source: Source) -> list[Row]:
    """Two questions an image, of existence and attribute or of count and colour in turn."""
    truth, questions, annotations = [], [], []
    for number in range(count):
        image = number // 2 + 1
        if number % 2 == 0:
            scene = new_scene(source, lambda: compose(habits_of(source), source.rng))
            save(source, scene, folder / PART / f"COCO_{PART}_{image:012}.jpg")
        answer_type, ask = VQA_KINDS[number % len(VQA_KINDS)]
        question = ask(scene, source)
        ids = {"question_id": 1000 * image + number % 2, "image_id": image}
        questions.append({**ids, "question": question.text})
        types = {"question_type": _beginning(question.text), "answer_type": answer_type}
        given = {"multiple_choice_answer": question.answer, "answers": people(source, question)}
        annotations.append({**ids, **types, **given})
        truth.append({"id": str(ids["question_id"]), **truth_of(scene, question)})
    official = {
        f"v2_OpenEnded_mscoco_{PART}_questions.json": {"questions": questions},
        f"v2_mscoco_{PART}_annotations.json": {"annotations": annotations},
    }
    for name, content in official.items():
        write_text(folder / name, json.dumps(content))
    return truth


def _beginning(text: str) -> str:
    """The first two words, which VQAv2 takes for a question's type."""
    return " ".join(text.lower().split()[:2])


def _existence(scene: Scene, source: Source) -> Question:
    kind = source.pick(scene.objects).kind
    if source.rng.random() < 0.5:
        near = bool(source.rng.random() < 0.5)
        absent = absent_kinds(scene, same_place=near) or absent_kinds(scene, same_place=False)
        kind = source.pick(absent)
    return existence_question(scene, kind)


def _attribute(scene: Scene, source: Source) -> Question:
    thing = source.pick(scene.objects)
    wrong = source.rng.random() < 0.5
    return attribute_question(thing, other_colour(thing, source.rng) if wrong else thing.colour)


def _colour(scene: Scene, source: Source) -> Question:
    return colour_question(source.pick(scene.objects))


VQA_KINDS: Sequence[tuple[str, Asker]] = (
    ("yes/no", _existence),
    ("number", lambda scene, source: count_question(scene, source.most)),
    ("yes/no", _attribute),
    ("other", _colour),
)


# --- gqa ---------------------------------------------------------------------------------------


def _gqa(folder: Path, count: int, source: Source) -> list[Row]:
    """Questions of every structural type; two an image, whose scene has two objects."""
    truth: list[Row] = []
    asked: dict[str, Row] = {}
    for number in range(count):
        image = f"n{number // 2 + 1:06}"
        if number % 2 == 0:
            scene = new_scene(source, lambda: compose(habits_of(source), source.rng, objects=2))
            save(source, scene, folder / "images" / f"{image}.jpg")
        structural, semantic, ask = GQA_KINDS[number % len(GQA_KINDS)]
        question, id_ = ask(scene, source), f"{number + 1:08}"
        asked[id_] = {
            "imageId": image,
            "question": question.text,
            "answer": question.answer,
            "fullAnswer": f"{question.answer.capitalize()}.",
            "isBalanced": True,
            "types": {"structural": structural, "semantic": semantic, "detailed": question.kind},
        }
        truth.append({"id": id_, **truth_of(scene, question)})
    write_text(folder / "testdev_balanced_questions.json", json.dumps(asked))
    return truth


def _either_colour(scene: Scene, source: Source) -> Question:
    thing = source.pick(scene.objects)
    choices = source.shuffled((thing.colour, other_colour(thing, source.rng)))
    text = f"Is the {thing.kind} {choices[0]} or {choices[1]}?"
    return Question("choose colour", text, thing.colour, tuple(choices), thing.kind)


def _both(scene: Scene, source: Source) -> Question:
    one, other = (thing.kind for thing in scene.objects[:2])
    if source.rng.random() < 0.5:
        other = source.pick(absent_kinds(scene, same_place=False))
    present = {thing.kind for thing in scene.objects} >= {one, other}
    text = f"Is there {phrase(one)} and {phrase(other)} in the image?"
    return Question("both", text, YES_NO[not present], YES_NO)


def _same_colour(scene: Scene, source: Source) -> Question:
    one, other = scene.objects[:2]
    text = f"Is the {one.kind} the same color as the {other.kind}?"
    return Question("same colour", text, YES_NO[one.colour != other.colour], YES_NO)


def _beside(scene: Scene, source: Source) -> Question:
    one, other = source.shuffled(scene.objects[:2])
    text = f"What is there beside the {one.kind}?"
    return Question("beside", text, other.kind, (other.kind,), one.kind)


def _place(scene: Scene, source: Source) -> Question:
    return Question("place", "What place is in the image?", scene.place, tuple(PLACES))


GQA_KINDS: Sequence[tuple[str, str, Asker]] = (
    ("verify", "obj", _existence),
    ("query", "attr", _colour),
    ("verify", "attr", _attribute),
    ("choose", "attr", _either_colour),
    ("logical", "obj", _both),
    ("compare", "attr", _same_colour),
    ("query", "rel", _beside),
    ("query", "global", _place),
)


# --- textvqa -----------------------------------------------------------------------------------


def _textvqa(folder: Path, count: int, source: Source) -> list[Row]:
    """A number on a sign in each picture; the OCR tokens have it, and sometimes one that is not."""
    truth, rows, tokens = [], [], []
    for number in range(count):
        scene = new_scene(source, lambda: compose(habits_of(source), source.rng))
        value = str(source.rng.integers(10, 100))
        image = f"{source.split}{number + 1:012x}"
        save(source, scene, folder / "train_images" / f"{image}.jpg", value)
        # Not the same words in all of them, or no text could be swapped.
        seen = phrase(source.pick(scene.objects).kind)
        text = f"What number is there in the image with {seen}?"
        question = Question("number", text, value, (value, "unanswerable"))
        said = [answer["answer"] for answer in people(source, question)]
        id_ = number + 1
        rows.append({"question_id": id_, "image_id": image, "question": text, "answers": said})
        found = [value, *([str(source.rng.integers(10))] if source.rng.random() < 0.3 else [])]
        tokens.append({"image_id": image, "ocr_tokens": found})
        truth.append({"id": str(id_), **truth_of(scene, question)})
    write_text(folder / "TextVQA_0.5.1_val.json", json.dumps({"data": rows}))
    write_text(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", json.dumps({"data": tokens}))
    return truth


# --- scienceqa ---------------------------------------------------------------------------------


def _scienceqa(folder: Path, counts: Mapping[str, int], sources: Mapping[str, Source]) -> list[Row]:
    """Questions with options about an image, and as many about a sentence in place of one."""
    truth: list[Row] = []
    problems: dict[str, Row] = {}
    ids: dict[str, list[str]] = {}
    for split, count in counts.items():
        ids[split] = [str(len(problems) + number) for number in range(1, count + 1)]
        for id_, (shown, scene, question) in zip(
            ids[split], _lessons(sources[split], count), strict=True
        ):
            if shown:
                save(sources[split], scene, folder / "images" / split / id_ / "image.png")
            problems[id_] = {
                "question": question.text,
                "choices": list(question.choices),
                "answer": question.choices.index(question.answer),
                "hint": "" if shown else f"There is {caption(scene)}",
                "image": "image.png" if shown else None,
                "subject": "natural science" if shown else "language science",
                "split": split,
            }
            fact = {**truth_of(scene, question), "letter": _letter(question)}
            truth.append({"id": id_, "split": split, **fact})
    write_text(folder / "problems.json", json.dumps(problems))
    write_text(folder / "pid_splits.json", json.dumps(ids))
    return truth


def _letter(question: Question) -> str:
    return ascii_uppercase[question.choices.index(question.answer)]


def _lessons(source: Source, count: int) -> Iterator[tuple[bool, Scene, Question]]:
    """Whether the question is about an image, its scene, and the question with few options."""
    colours = pool_colours if source.split == "train" else all_colours
    habits: Habits = habits_of(source)
    for number in range(count):
        scene = new_scene(source, lambda: compose(habits, source.rng, colours))
        ask = (_of_colours, _of_kinds)[number // 2 % 2]
        yield number % 2 == 0, scene, ask(scene, source)


def _of_colours(scene: Scene, source: Source) -> Question:
    thing = source.pick(scene.objects)
    wrong = source.shuffled([name for name in COLOURS if name != thing.colour])[:3]
    options = tuple(source.shuffled([thing.colour, *wrong]))
    text = colour_question(thing).text
    return Question("colour", text, thing.colour, options, thing.kind)


def _of_kinds(scene: Scene, source: Source) -> Question:
    kind = source.pick(scene.objects).kind
    wrong = source.shuffled(absent_kinds(scene, same_place=False))[:2]
    options = tuple(source.shuffled([kind, *wrong]))
    return Question("kind", "What is there?", kind, options, kind)


QUESTION_SETS: Mapping[str, DataSet] = {
    "vqav2": DataSet(BASE_KNOBS, evaluation(_vqav2, PART)),
    "gqa": DataSet(BASE_KNOBS, evaluation(_gqa)),
    "textvqa": DataSet(BASE_KNOBS, evaluation(_textvqa, "train_images")),
    "scienceqa": DataSet(BASE_KNOBS, _scienceqa),
}
