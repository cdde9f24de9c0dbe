"""Writers of the generated hallucination benchmarks, in the layouts of the real ones.

They ask for objects that the picture does not show but that the language prior expects.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from steelyard.tasks.world.language import (
    CAPTION,
    absent_kinds,
    attribute_question,
    caption,
    colour_question,
    count_question,
    existence_question,
    number_question,
    other_colour,
)
from steelyard.tasks.world.prior import BASE_PARAMETERS
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS, NEUTRAL, Object, Scene
from steelyard.tasks.world.source import (
    SYNONYMS,
    JsonRow,
    SceneSource,
    WorldSet,
    evaluation,
    write_text,
)


def _expected_absent(scene: Scene) -> list[str]:
    """Return absent kinds that are usual in the place, or any if all usual ones are present."""
    expected = absent_kinds(scene, same_place=True)
    return expected or absent_kinds(scene, same_place=False)


# --- amber: a caption, and questions of existence, attribute and relation ----------------------

CAPTIONS, QUESTIONS = "query_generative", "query_discriminative"
ITEMS_PER_IMAGE = {CAPTIONS: 1, QUESTIONS: 7}
"""Approximate number of items about an image, by half of the benchmark."""


def _amber(*halves: str) -> Callable[[Path, int, SceneSource], list[JsonRow]]:
    """Make a writer of AMBER's files for about ``count`` items of these halves together."""

    def write(folder: Path, count: int, source: SceneSource) -> list[JsonRow]:
        per_image = sum(ITEMS_PER_IMAGE[half] for half in halves)
        scenes = [source.scene() for _ in range(-(-count // per_image))]
        queries: dict[str, list[JsonRow]] = {}
        annotations: list[JsonRow] = []
        truth: list[JsonRow] = []
        # Captions have the first ids, as in the published files.
        for half in halves:
            queries[half] = []
            for number, scene in enumerate(scenes, start=1):
                for text, annotation in AMBER_QUERIES[half](scene, source):
                    id_ = len(annotations) + 1
                    annotations.append({"id": id_, **annotation})
                    query = {"id": id_, "image": f"AMBER_{number}.jpg", "query": text}
                    queries[half].append(query)
                    truth.append({"id": str(id_), "scene": scene.symbol, **annotation})
        for number, scene in enumerate(scenes, start=1):
            source.save(scene, folder / "image" / f"AMBER_{number}.jpg")
        data = folder / "data"
        (data / "query").mkdir(parents=True)
        for name, rows in queries.items():
            write_text(data / "query" / f"{name}.json", json.dumps(rows))
        write_text(data / "annotations.json", json.dumps(annotations))
        relation = {kind: list(SYNONYMS.get(kind, ())) for kind in KINDS}
        write_text(data / "relation.json", json.dumps(relation))
        write_text(data / "safe_words.txt", "object\n")
        return truth

    return write


AmberQuery = tuple[str, JsonRow]
"""Question about an image, and its annotation."""


def _amber_caption(scene: Scene, source: SceneSource) -> list[AmberQuery]:
    present = [obj.kind for obj in scene.objects]
    objects = {"truth": present, "hallu": _expected_absent(scene)}
    return [("Describe this image.", {"type": "generative", **objects})]


def _amber_questions(scene: Scene, source: SceneSource) -> list[AmberQuery]:
    """Sample questions of absent objects, and right and wrong ones of attribute and relation."""
    queries: list[AmberQuery] = []

    def add(text: str, kind: str, answer: str) -> None:
        queries.append((text, {"type": kind, "truth": answer}))

    for absent in (_expected_absent(scene), absent_kinds(scene, same_place=False)):
        text = existence_question(scene, source.pick(absent)).text
        add(text, "discriminative-hallucination", "no")
    obj = source.pick(scene.objects)
    for colour in (obj.colour, other_colour(obj, source.rng)):
        question = attribute_question(obj, colour)
        add(question.text, "discriminative-attribute-state", question.answer)
    right = len(scene.objects)
    wrong = source.pick([n for n in range(1, source.max_objects + 2) if n != right])
    add(number_question(right), "discriminative-attribute-number", "yes")
    add(number_question(wrong), "discriminative-attribute-number", "no")
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


def _write_hallusion(folder: Path, count: int, source: SceneSource) -> list[JsonRow]:
    rows: list[JsonRow] = []
    truth: list[JsonRow] = []
    for number in range(count // SET_ROWS):
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
                question = attribute_question(Object(kind, colour, 0), asked_colour)
                key = f"{group}/{figure}/{index}"
                category, subcategory, set_id = group.split("/")
                row = {
                    "category": category,
                    "subcategory": subcategory,
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
                rows.append(row)
                fact = {"scene": scenes[colour].symbol, "kind": kind, "answer": question.answer}
                truth.append({"id": key, **fact})
    write_text(folder / "HallusionBench.json", json.dumps(rows))
    return truth


# --- mmhal: open questions of the types that the generated world can fill ----------------------

OFFICIAL = 96
"""Questions of the real set, and the most of the generated one."""


def _write_mmhal(folder: Path, count: int, source: SceneSource) -> list[JsonRow]:
    rows, truth = [], []
    for number in range(min(count, OFFICIAL)):
        kind = tuple(OPEN_QUESTIONS)[number % len(OPEN_QUESTIONS)]
        scene = source.scene()
        question, answer = OPEN_QUESTIONS[kind](scene, source)
        name = f"{source.split}_{number:05d}.png"
        source.save(scene, folder / "images" / name)
        types = {"question_type": kind, "question_topic": scene.place}
        kinds = [obj.kind for obj in scene.objects]
        image = {"image_id": name, "image_src": f"images/{name}", "image_content": kinds}
        answered = {"question": question, "gt_answer": answer, "model_answer": ""}
        rows.append({**types, **image, **answered})
        fact = {"scene": scene.symbol, "kind": kind, "answer": answer}
        truth.append({"id": str(number), **fact})
    write_text(folder / "response_template.json", json.dumps(rows))
    return truth


def _open_attribute(scene: Scene, source: SceneSource) -> tuple[str, str]:
    question = colour_question(source.pick(scene.objects))
    return question.text, f"The {question.about} is {question.answer}."


def _open_adversarial(scene: Scene, source: SceneSource) -> tuple[str, str]:
    """Ask about an absent object as if it was present."""
    kind = source.pick(_expected_absent(scene))
    return colour_question(Object(kind, "red", 0)).text, f"There is no {kind} in the image."


def _open_count(scene: Scene, source: SceneSource) -> tuple[str, str]:
    question = count_question(scene, source.max_objects)
    return question.text, question.answer


OPEN_QUESTIONS: Mapping[str, Callable[[Scene, SceneSource], tuple[str, str]]] = {
    "attribute": _open_attribute,
    "adversarial": _open_adversarial,
    "counting": _open_count,
    "environment": lambda scene, source: ("Where is this?", f"In the {scene.place}."),
    "holistic": lambda scene, source: (CAPTION, caption(scene)),
}
"""Functions that sample a question and its human answer, by type of question."""

HALLUCINATION_SETS: Mapping[str, WorldSet] = {
    "amber": WorldSet(BASE_PARAMETERS, evaluation(_amber(CAPTIONS, QUESTIONS))),
    "amber_generative": WorldSet(BASE_PARAMETERS, evaluation(_amber(CAPTIONS))),
    "amber_discriminative": WorldSet(BASE_PARAMETERS, evaluation(_amber(QUESTIONS))),
    "hallusionbench": WorldSet(BASE_PARAMETERS, evaluation(_write_hallusion)),
    "mmhal": WorldSet(BASE_PARAMETERS, evaluation(_write_mmhal)),
}
