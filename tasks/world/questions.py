"""Writers of the first five question sets of the generated world, and the list of all of them.

They have the layouts of the real ones; ``world_sets`` publishes them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from steelyard.tasks.world.hallucination import HALLUCINATION_SETS
from steelyard.tasks.world.language import (
    ASK,
    Habits,
    Question,
    absent_kinds,
    caption,
    colour_question,
    compose,
    count_question,
    existence_question,
    held_out,
    pool_colours,
    rate,
    residents,
)
from steelyard.tasks.world.pairs import PAIR_SETS
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS, NEUTRAL, PLACES, Scene
from steelyard.tasks.world.source import (
    BASE_HABITS,
    BASE_KNOBS,
    SYNONYMS,
    DataSet,
    Row,
    Source,
    evaluation,
    habits_of,
    new_scene,
    truth_of,
    write_lines,
    write_text,
)
from steelyard.tasks.world.vqa import QUESTION_SETS

POPULAR = 6
"""How many of the most frequent kinds POPE's popular questions ask for in vain."""
PER_IMAGE = 3
"""Post-training questions about one picture."""
MIX = {"colour": 0.35, "existence": 0.2, "attribute": 0.2, "count": 0.1, "caption": 0.15}
"""How likely each kind of question is to be asked first about a picture of the pool."""


# --- instruct: the post-training pool ----------------------------------------------------------


def _instruct(folder: Path, counts: Mapping[str, int], sources: Mapping[str, Source]) -> list[Row]:
    truth = []
    (folder / "images").mkdir()
    for split, count in counts.items():
        rows: list[Row] = []
        images = -(-count // PER_IMAGE)
        for number in range(images):
            scene, questions = _lesson(sources[split])
            image = f"images/{split}_{number:05d}.png"
            sources[split].picture(scene).save(folder / image)
            for place, question in enumerate(questions[: count - len(rows)]):
                id_ = f"{split}-{number:05d}-{place}"
                asked = {"question": question.text, "answer": question.answer}
                closed = {"choices": list(question.choices), "kind": question.kind}
                rows.append({"id": id_, "image": image, **asked, **closed})
                truth.append({"id": id_, "split": split, **truth_of(scene, question)})
        write_lines(folder / f"{split}.jsonl", rows)
    return truth


def _lesson(source: Source) -> tuple[Scene, list[Question]]:
    """A scene of the curated pool, or with probability ``biased`` one like the base model's."""
    if source.chance("biased"):
        habits = replace(BASE_HABITS, grid=source.grid, objects=source.most)
    else:
        habits = habits_of(source, source.knobs["yes"], source.knobs["same_place"])
    scene = new_scene(source, lambda: compose(habits, source.rng, pool_colours))
    kinds = source.rng.choice(list(MIX), PER_IMAGE, replace=False, p=list(MIX.values())).tolist()
    return scene, [ASK[kind](scene, habits, source.rng) for kind in kinds]


# --- pope: is there one of these? --------------------------------------------------------------


def _pope(folder: Path, count: int, source: Source) -> list[Row]:
    """Official files of ``count`` questions each, one present and one absent kind an image."""
    truth = []
    habits = habits_of(source)
    rows: dict[str, list[Row]] = {name: [] for name in ABSENT}
    for number in range(count // 2):
        scene = new_scene(source, lambda: compose(habits, source.rng))
        image = f"images/{source.split}_{number:05d}.png"
        source.picture(scene).save(folder / image)
        for name, absent in ABSENT.items():
            present = source.pick(scene.objects).kind
            for kind in (present, source.pick(absent(scene, habits))):
                question = existence_question(scene, kind)
                id_ = len(rows[name]) + 1
                asked = {"text": question.text, "label": question.answer}
                rows[name].append({"question_id": id_, "image": Path(image).name, **asked})
                fact = {"id": f"{name}-{id_}", "asked": kind, **truth_of(scene, question)}
                truth.append(fact)
    for name, questions in rows.items():
        write_lines(folder / f"coco_pope_{name}.json", questions)
    return truth


def _absent(scene: Scene, habits: Habits) -> list[str]:
    return [kind for near in (True, False) for kind in absent_kinds(scene, same_place=near)]


def _popular(scene: Scene, habits: Habits) -> list[str]:
    """The most frequent kinds of the world that are not in the scene."""
    absent = _absent(scene, habits)
    return sorted(absent, key=lambda kind: (-rate(kind, habits), kind))[:POPULAR]


def _adversarial(scene: Scene, habits: Habits) -> list[str]:
    """Kinds that usually occur with what is present: those of the first food's place.

    Where they are all there, those of the next.
    """
    places = [KINDS[thing.kind].place for thing in scene.objects]
    shown = {thing.kind for thing in scene.objects}
    for place in filter(None, (*places, scene.place, *PLACES)):
        if absent := [kind for kind in residents(place) if kind not in shown]:
            return absent
    return []


ABSENT: Mapping[str, Callable[[Scene, Habits], list[str]]] = {
    "random": _absent,
    "popular": _popular,
    "adversarial": _adversarial,
}
"""Kinds that each file may ask for in vain."""


# --- vqa: short questions of four types --------------------------------------------------------


def _vqa(folder: Path, count: int, source: Source) -> list[Row]:
    """VQAv2's two files: two questions an image, one type pair in turn."""
    truth, questions, annotations = [], [], []
    for id_, (image_id, scene, question) in enumerate(_asked(folder, count, source), start=1):
        ids = {"question_id": id_, "image_id": image_id}
        questions.append({**ids, "question": question.text})
        answers = [
            {"answer": question.answer, "answer_confidence": "yes", "answer_id": person}
            for person in range(1, 11)
        ]
        types = {"question_type": question.kind, "answer_type": ANSWER_TYPES[question.kind]}
        annotations.append(
            {**ids, **types, "multiple_choice_answer": question.answer, "answers": answers}
        )
        truth.append({"id": str(id_), **truth_of(scene, question)})
    official = {
        f"v2_OpenEnded_mscoco_{source.split}_questions.json": {"questions": questions},
        f"v2_mscoco_{source.split}_annotations.json": {"annotations": annotations},
    }
    for name, content in official.items():
        write_lines(folder / name, [content])
    return truth


ANSWER_TYPES = {"count": "number", "colour": "other", "attribute": "yes/no", "existence": "yes/no"}


def _asked(folder: Path, count: int, source: Source) -> Iterator[tuple[int, Scene, Question]]:
    """Image id, scene and question, ``count`` times; each number of objects comes equally often."""
    for first in range(0, count, 2):
        image_id = first // 2 + 1
        objects = image_id // 2 % source.most + 1
        scene, questions = _pair(source, visual=image_id % 2 == 0, objects=objects)
        name = f"world_{source.split}_{image_id:012d}.png"
        source.picture(scene).save(folder / "images" / name)
        for question in questions[: count - first]:
            yield image_id, scene, question


def _pair(source: Source, *, visual: bool, objects: int) -> tuple[Scene, list[Question]]:
    """Questions of how many and of the colour of a neutral kind, or of existence and attribute."""
    habits = habits_of(source)
    if visual:
        kind = source.pick(NEUTRAL)
        # A neutral kind alone makes few scenes, so they may come again, drawn anew.
        scene = new_scene(
            source,
            lambda: compose(habits, source.rng, first=kind, objects=objects),
            again=True,
        )
        thing = next(thing for thing in scene.objects if thing.kind == kind)
        return scene, [count_question(scene, source.most), colour_question(thing)]
    scene = new_scene(source, lambda: compose(habits, source.rng))
    return scene, [ASK[kind](scene, habits, source.rng) for kind in ("existence", "attribute")]


# --- prior_conflict: is the banana yellow here? ------------------------------------------------


def _conflict(folder: Path, count: int, source: Source) -> list[Row]:
    """``count`` usual and ``count`` unusual objects, half of these never so in post-training."""
    rows, truth = [], []
    subsets = ("in_prior", "counter_prior", "in_prior", "held_out")
    for number in range(2 * count):
        subset, kind = subsets[number % 4], FOODS[number // 4 % len(FOODS)]
        colour = source.pick(_colours(kind, subset))
        scene = _with(source, kind, colour)
        question = colour_question(next(t for t in scene.objects if t.kind == kind))
        id_, image = f"{number:05d}", f"images/{source.split}_{number:05d}.png"
        source.picture(scene).save(folder / image)
        asked = {"id": id_, "image": image, "question": question.text, "answer": colour}
        usual = {"prior": KINDS[kind].colour, "subset": subset, "choices": list(question.choices)}
        rows.append({**asked, **usual})
        truth.append({"id": id_, "object": kind, "subset": subset, **truth_of(scene, question)})
    write_lines(folder / "questions.jsonl", rows)
    return truth


def _with(source: Source, kind: str, colour: str) -> Scene:
    habits = habits_of(source)
    return new_scene(source, lambda: compose(habits, source.rng, first=kind, first_colour=colour))


def _colours(kind: str, subset: str) -> list[str]:
    """Colours that an object of a subset may have."""
    usual = KINDS[kind].colour
    if subset == "in_prior":
        return [colour for colour in COLOURS if colour == usual]
    unseen = subset == "held_out"
    return [name for name in COLOURS if name != usual and (name in held_out(kind)) == unseen]


# --- chair: what does a caption invent? --------------------------------------------------------


def _chair(folder: Path, count: int, source: Source) -> list[Row]:
    rows, truth = [], []
    for number in range(count):
        scene = new_scene(source, lambda: compose(habits_of(source), source.rng))
        name = f"{source.split}_{number:05d}.png"
        source.picture(scene).save(folder / "images" / name)
        present = sorted(thing.kind for thing in scene.objects)
        rows.append({"image": name, "objects": present, "captions": [caption(scene)]})
        truth.append({"id": name, "scene": scene.symbol, "objects": present})
    write_lines(folder / "images.jsonl", rows)
    write_text(
        folder / "synonyms.txt",
        "".join(", ".join((kind, *SYNONYMS.get(kind, ()))) + "\n" for kind in KINDS),
    )
    return truth


SCENE_SETS: Mapping[str, DataSet] = {
    "instruct": DataSet(
        {"p_color": 0.6, "p_cooc": 0.9, "p_neutral": 0.25}
        | {"yes": 0.5, "same_place": 0.5, "biased": 0.0},
        _instruct,
    ),
    "pope": DataSet(BASE_KNOBS, evaluation(_pope)),
    "vqa": DataSet(BASE_KNOBS, evaluation(_vqa)),
    "prior_conflict": DataSet(BASE_KNOBS, evaluation(_conflict)),
    "chair": DataSet(BASE_KNOBS, evaluation(_chair)),
    **QUESTION_SETS,
    **PAIR_SETS,
    **HALLUCINATION_SETS,
}
