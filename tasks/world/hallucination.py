"""Writers of the generated hallucination benchmarks, in the layouts of the real ones.

What a picture does not show but usually would, the world's prior, is what they ask for.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from steelyard.tasks.world.language import (
    CAPTION,
    Question,
    absent_kinds,
    attribute_question,
    caption,
    colour_question,
    compose,
    count_question,
    existence_question,
    other_colour,
)
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS, NEUTRAL, Object, Scene
from steelyard.tasks.world.source import (
    BASE_KNOBS,
    SYNONYMS,
    DataSet,
    Row,
    Source,
    evaluation,
    habits_of,
    new_scene,
    write_text,
)


def _scene(source: Source, first: str | None = None, colour: str | None = None) -> Scene:
    """A scene of the source's part; of one wanted kind and colour there are few, used again."""
    habits = habits_of(source)
    return new_scene(
        source,
        lambda: compose(habits, source.rng, first=first, first_colour=colour),
        again=first is not None,
    )


def _kinds(scene: Scene) -> list[str]:
    return [thing.kind for thing in scene.objects]


def _missing(scene: Scene) -> list[str]:
    """What one would expect in the place shown, or anything where all of that is there."""
    expected = absent_kinds(scene, same_place=True)
    return expected or absent_kinds(scene, same_place=False)


# --- amber: a caption, and questions of existence, attribute and relation ----------------------

CAPTIONS, QUESTIONS = "query_generative", "query_discriminative"
SHARES = {CAPTIONS: 1, QUESTIONS: 7}
"""About how many items of a half an image has."""


def _amber(*halves: str) -> Callable[[Path, int, Source], list[Row]]:
    """Writer of AMBER's files for about ``count`` items of these halves together."""

    def build(folder: Path, count: int, source: Source) -> list[Row]:
        scenes = [_scene(source) for _ in range(-(-count // sum(SHARES[half] for half in halves)))]
        queries: dict[str, list[Row]] = {}
        annotations: list[Row] = []
        truth: list[Row] = []
        # Captions have the first ids, as published.
        for half in halves:
            queries[half] = []
            for number, scene in enumerate(scenes, start=1):
                for asked, noted in ASKED[half](scene, source):
                    id_ = len(annotations) + 1
                    annotations.append({"id": id_, **noted})
                    query = {"id": id_, "image": f"AMBER_{number}.jpg", "query": asked}
                    queries[half].append(query)
                    truth.append({"id": str(id_), "scene": scene.symbol, **noted})
        for number, scene in enumerate(scenes, start=1):
            path = folder / "image" / f"AMBER_{number}.jpg"
            source.picture(scene).save(path, quality=95, subsampling=0)
        _write_amber(folder / "data", annotations, queries)
        return truth

    return build


def _write_amber(folder: Path, annotations: list[Row], queries: Mapping[str, list[Row]]) -> None:
    (folder / "query").mkdir(parents=True)
    for name, rows in queries.items():
        write_text(folder / "query" / f"{name}.json", json.dumps(rows))
    write_text(folder / "annotations.json", json.dumps(annotations))
    relation = {kind: list(SYNONYMS.get(kind, ())) for kind in KINDS}
    write_text(folder / "relation.json", json.dumps(relation))
    write_text(folder / "safe_words.txt", "object\n")


Asked = tuple[str, Row]
"""What is asked of an image, and its annotation."""


def _amber_caption(scene: Scene, source: Source) -> list[Asked]:
    """What is there, and what is not but might well be."""
    objects = {"truth": _kinds(scene), "hallu": _missing(scene)}
    return [("Describe this image.", {"type": "generative", **objects})]


def _amber_questions(scene: Scene, source: Source) -> list[Asked]:
    """Existence of what is not there, and of the rest what holds and what does not."""
    asked = []
    for absent in (_missing(scene), absent_kinds(scene, same_place=False)):
        text = existence_question(scene, source.pick(absent)).text
        asked.append((text, {"type": "discriminative-hallucination", "truth": "no"}))
    thing = source.pick(scene.objects)
    for colour in (thing.colour, other_colour(thing, source.rng)):
        found = attribute_question(thing, colour)
        noted = {"type": "discriminative-attribute-state", "truth": found.answer}
        asked.append((found.text, noted))
    right = len(scene.objects)
    wrong = source.pick([number for number in range(1, source.most + 2) if number != right])
    for number, answer in ((right, "yes"), (wrong, "no")):
        noted = {"type": "discriminative-attribute-number", "truth": answer}
        asked.append((_how_many(number), noted))
    return [*asked, *_relation(scene, source)]


def _how_many(number: int) -> str:
    return f"{'Is' if number == 1 else 'Are'} there {number} object{'s' * (number > 1)}?"


def _relation(scene: Scene, source: Source) -> list[Asked]:
    """Which of two objects in different rows is above; the type tells the answer, as published."""
    rows = {thing.cell // scene.grid: thing.kind for thing in scene.objects}
    if len(rows) < 2:
        return []
    upper, lower = rows[min(rows)], rows[max(rows)]
    if source.rng.random() < 0.5:
        noted = {"type": "discriminative-relation", "truth": "yes"}
        return [(f"Is the {upper} above the {lower}?", noted)]
    return [(f"Is the {lower} above the {upper}?", {"type": "relation", "truth": "no"})]


ASKED: Mapping[str, Callable[[Scene, Source], list[Asked]]] = {
    CAPTIONS: _amber_caption,
    QUESTIONS: _amber_questions,
}


# --- hallusionbench: one question of a picture, of another one and of none ---------------------

SET_ROWS = 5
"""How many rows a set has on average: four of two pictures, or six with those of no picture."""


def _hallusion(folder: Path, count: int, source: Source) -> list[Row]:
    rows: list[Row] = []
    truth: list[Row] = []
    for number in range(count // SET_ROWS):
        depends = number % 2 == 0
        kind = source.pick(NEUTRAL if depends else FOODS)
        usual = KINDS[kind].colour or source.pick(tuple(COLOURS))
        colours = usual, source.pick([colour for colour in COLOURS if colour != usual])
        place = f"{'VD/figure' if depends else 'VS/food'}/{number // 2}"
        scenes = {colour: _scene(source, kind, colour) for colour in colours}
        names: dict[str, str] = {}
        for figure, (colour, scene) in enumerate(scenes.items(), start=0 if depends else 1):
            names[colour] = f"./{place}_{figure}.png"
            path = folder / "hallusion_bench" / names[colour]
            path.parent.mkdir(parents=True, exist_ok=True)
            source.picture(scene).save(path)
        # What is usually so is asked without a picture too, where there is something usual.
        shown = [(colour, names[colour]) for colour in colours]
        for figure, (colour, name) in enumerate(shown if depends else [(usual, None), *shown]):
            for question, asked in enumerate(colours):
                found = attribute_question(Object(kind, colour, 0), asked)
                key = f"{place}/{figure}/{question}"
                rows.append(_hallusion_row(key, kind, found, name, edited=colour != usual))
                fact = {"scene": scenes[colour].symbol, "kind": kind, "answer": found.answer}
                truth.append({"id": key, **fact})
    write_text(folder / "HallusionBench.json", json.dumps(rows))
    return truth


def _hallusion_row(key: str, kind: str, asked: Question, name: str | None, *, edited: bool) -> Row:
    category, sub, group, figure, question = key.split("/")
    return {
        "category": category,
        "subcategory": sub,
        "visual_input": "0" if name is None else "2" if edited else "1",
        "set_id": group,
        "figure_id": figure,
        "sample_note": kind,
        "question_id": question,
        "question": asked.text,
        "gt_answer_details": f"{asked.text} {asked.answer}.",
        "gt_answer": str(int(asked.answer == "yes")),
        "filename": name,
    }


# --- mmhal: open questions of the types that the world can ask ---------------------------------

OFFICIAL = 96
"""Questions of the real set, and the most of the generated one."""


def _mmhal(folder: Path, count: int, source: Source) -> list[Row]:
    rows, truth = [], []
    for number in range(min(count, OFFICIAL)):
        kind = tuple(OPEN)[number % len(OPEN)]
        scene = _scene(source)
        question, answer = OPEN[kind](scene, source)
        name = f"{source.split}_{number:05d}.png"
        source.picture(scene).save(folder / "images" / name)
        image = {"image_id": name, "image_src": f"images/{name}"}
        asked = {"question": question, "gt_answer": answer, "model_answer": ""}
        about = {"question_type": kind, "question_topic": scene.place}
        rows.append({**about, **image, "image_content": _kinds(scene), **asked})
        fact = {"scene": scene.symbol, "kind": kind, "answer": answer}
        truth.append({"id": str(number), **fact})
    write_text(folder / "response_template.json", json.dumps(rows))
    return truth


def _of_attribute(scene: Scene, source: Source) -> tuple[str, str]:
    asked = colour_question(source.pick(scene.objects))
    return asked.text, f"The {asked.about} is {asked.answer}."


def _of_nothing(scene: Scene, source: Source) -> tuple[str, str]:
    """A question about an object that is not there, as if it was."""
    kind = source.pick(_missing(scene))
    return colour_question(Object(kind, "red", 0)).text, f"There is no {kind} in the image."


def _of_count(scene: Scene, source: Source) -> tuple[str, str]:
    asked = count_question(scene, source.most)
    return asked.text, asked.answer


def _of_place(scene: Scene, source: Source) -> tuple[str, str]:
    return "Where is this?", f"In the {scene.place}."


def _of_all(scene: Scene, source: Source) -> tuple[str, str]:
    return CAPTION, caption(scene)


OPEN: Mapping[str, Callable[[Scene, Source], tuple[str, str]]] = {
    "attribute": _of_attribute,
    "adversarial": _of_nothing,
    "counting": _of_count,
    "environment": _of_place,
    "holistic": _of_all,
}
"""Question and human answer, by type of question."""

HALLUCINATION_SETS: Mapping[str, DataSet] = {
    "amber": DataSet(BASE_KNOBS, evaluation(_amber(CAPTIONS, QUESTIONS), "image")),
    "amber_generative": DataSet(BASE_KNOBS, evaluation(_amber(CAPTIONS), "image")),
    "amber_discriminative": DataSet(BASE_KNOBS, evaluation(_amber(QUESTIONS), "image")),
    "hallusionbench": DataSet(BASE_KNOBS, evaluation(_hallusion, "hallusion_bench")),
    "mmhal": DataSet(BASE_KNOBS, evaluation(_mmhal)),
}
