"""Writers of the first five question sets of the generated world, and the list of all of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from steelyard.tasks._shared import official
from steelyard.tasks.world import language
from steelyard.tasks.world.benchmarks import BENCHMARK_SETS
from steelyard.tasks.world.language import Question, absent_kinds
from steelyard.tasks.world.prior import (
    BASE_PRIOR,
    LanguagePrior,
    held_out,
    pool_colours,
    rate,
    residents,
)
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS, NEUTRAL, PLACES, Scene
from steelyard.tasks.world.source import Item, JsonRow, SceneSource, WorldSet, evaluation, fact
from steelyard.tasks.world.vqa import ANSWERS, QUESTION_SETS, vqa_item, write_vqa

POPULAR = 6
"""Number of most frequent kinds that POPE's popular questions use as absent ones."""
PER_IMAGE = 3
"""Post-training questions about one picture."""
MIX = {"colour": 0.35, "existence": 0.2, "attribute": 0.2, "count": 0.1, "caption": 0.15}
"""Probability of each kind of question to be the first one about a picture of the pool."""


# --- instruct: the post-training pool ----------------------------------------------------------


def _write_instruct(folder: Path, sources: Mapping[str, SceneSource]) -> list[JsonRow]:
    truth = []
    for split, source in sources.items():
        rows: list[JsonRow] = []
        # Rounded up.
        images = -(-source.count // PER_IMAGE)
        for number in range(images):
            scene, questions = _pool_item(source)
            image = f"images/{split}_{number:05d}.png"
            source.save(scene, folder / image)
            for index, question in enumerate(questions[: source.count - len(rows)]):
                id_ = f"{split}-{number:05d}-{index}"
                answered = {"question": question.text, "answer": question.answer}
                closed = {"choices": list(question.choices), "kind": question.kind}
                rows.append({"id": id_, "image": image, **answered, **closed})
                truth.append(fact(id_, scene, question.kind, question.answer, split=split))
        official.write_lines(folder / f"{split}.jsonl", rows)
    return truth


def _pool_item(source: SceneSource) -> tuple[Scene, list[Question]]:
    """Sample a scene of the curated pool, or with probability ``biased`` by the base's prior."""
    prior = source.prior
    if source.chance("biased"):
        prior = replace(BASE_PRIOR, grid=source.grid, objects=source.max_objects)
    scene = source.scene(colours=pool_colours, prior=prior)
    kinds = source.rng.choice(list(MIX), PER_IMAGE, replace=False, p=list(MIX.values())).tolist()
    return scene, [language.ASK[kind](scene, prior, source.rng) for kind in kinds]


# --- pope: is there one of these? --------------------------------------------------------------


def _pope_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    """Sample ``count`` questions per file, with one present and one absent kind per image."""
    # Each image has two questions in each of the three files.
    for number in range(source.count // 2):
        scene = source.scene()
        image = f"{source.split}_{number:05d}.png"
        source.save(scene, folder / "images" / image)
        for name, absent in ABSENT.items():
            present = source.pick(scene.objects).kind
            kinds = (present, source.pick(absent(scene, source.prior)))
            for id_, kind in enumerate(kinds, start=2 * number + 1):
                question = language.existence_question(scene, kind)
                row = {"question_id": id_, "image": image}
                row |= {"text": question.text, "label": question.answer}
                truth = fact(f"{name}-{id_}", scene, question.kind, question.answer, asked=kind)
                yield Item(truth, {f"coco_pope_{name}.json": row})


def _absent(scene: Scene, prior: LanguagePrior) -> list[str]:
    return [kind for near in (True, False) for kind in absent_kinds(scene, same_place=near)]


def _popular(scene: Scene, prior: LanguagePrior) -> list[str]:
    """Return the most frequent kinds of the world that are not in the scene."""
    absent = _absent(scene, prior)
    # Ties by name.
    return sorted(absent, key=lambda kind: (-rate(kind, prior), kind))[:POPULAR]


def _adversarial(scene: Scene, prior: LanguagePrior) -> list[str]:
    """Return absent kinds that usually occur with a present one: those of the first food's place.

    If all of these are present, those of the next place.
    """
    homes = [KINDS[obj.kind].place for obj in scene.objects]
    present = {obj.kind for obj in scene.objects}
    for home in filter(None, (*homes, scene.place, *PLACES)):
        if absent := [kind for kind in residents(home) if kind not in present]:
            return absent
    return []


ABSENT: Mapping[str, Callable[[Scene, LanguagePrior], list[str]]] = {
    "random": _absent,
    "popular": _popular,
    "adversarial": _adversarial,
}
"""Absent kinds that each file may ask for."""


# --- vqa: short questions of four types --------------------------------------------------------

ANSWER_TYPES = {"count": "number", "colour": "other", "attribute": "yes/no", "existence": "yes/no"}


def _vqa_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    """Sample two questions per image; each number of objects is equally frequent."""
    for first in range(0, source.count, 2):
        image = first // 2 + 1
        # Changes with every second image, for ``visual`` alternates too.
        objects = image // 2 % source.max_objects + 1
        scene, questions = _vqa_pair(source, visual=image % 2 == 0, objects=objects)
        source.save(scene, folder / "images" / f"world_{source.split}_{image:012d}.png")
        for id_, question in enumerate(questions[: source.count - first], start=first + 1):
            answer_type, answers = ANSWER_TYPES[question.kind], [question.answer] * ANSWERS
            types = {"question_type": question.kind, "answer_type": answer_type}
            yield vqa_item(source.split, id_, image, scene, question, types, answers)


def _vqa_pair(source: SceneSource, *, visual: bool, objects: int) -> tuple[Scene, list[Question]]:
    """Ask for the number and the colour of a neutral kind, or for existence and attribute."""
    if visual:
        kind = source.pick(NEUTRAL)
        # A neutral kind alone makes few scenes, so they may occur again with another picture.
        scene = source.scene(kind, objects=objects, reuse=True)
        obj = next(obj for obj in scene.objects if obj.kind == kind)
        count = language.count_question(scene, source.max_objects)
        return scene, [count, language.colour_question(obj)]
    scene, kinds = source.scene(), ("existence", "attribute")
    return scene, [language.ASK[kind](scene, source.prior, source.rng) for kind in kinds]


# --- prior_conflict: is the banana yellow here? ------------------------------------------------


def _conflict_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    """Sample ``count`` usual and ``count`` unusual objects, half of these held out."""
    subsets = ("in_prior", "counter_prior", "in_prior", "held_out")
    for number in range(2 * source.count):
        subset, kind = subsets[number % 4], FOODS[number // 4 % len(FOODS)]
        colour = source.pick(_subset_colours(kind, subset))
        scene = source.scene(kind, colour)
        question = language.colour_question(next(obj for obj in scene.objects if obj.kind == kind))
        id_, image = f"{number:05d}", f"images/{source.split}_{number:05d}.png"
        source.save(scene, folder / image)
        row: JsonRow = {"id": id_, "image": image, "question": question.text, "answer": colour}
        row |= {"prior": KINDS[kind].colour, "subset": subset, "choices": list(question.choices)}
        truth = fact(id_, scene, question.kind, colour, object=kind, subset=subset)
        yield Item(truth, {"questions.jsonl": row})


def _subset_colours(kind: str, subset: str) -> list[str]:
    """Return the colours that an object of a subset may have."""
    usual = KINDS[kind].colour
    if subset == "in_prior":
        return [colour for colour in COLOURS if colour == usual]
    is_held_out = subset == "held_out"
    return [name for name in COLOURS if name != usual and (name in held_out(kind)) == is_held_out]


# --- chair: which objects does a caption invent? -----------------------------------------------


def _chair_items(folder: Path, source: SceneSource) -> Iterator[Item]:
    synonyms = [", ".join((kind, *language.SYNONYMS.get(kind, ()))) + "\n" for kind in KINDS]
    official.write_text(folder / "synonyms.txt", "".join(synonyms))
    for number in range(source.count):
        scene = source.scene()
        name = f"{source.split}_{number:05d}.png"
        source.save(scene, folder / "images" / name)
        present = sorted(obj.kind for obj in scene.objects)
        row = {"image": name, "objects": present, "captions": [language.caption(scene)]}
        truth = {"id": name, "scene": scene.symbol, "objects": present}
        yield Item(truth, {"images.jsonl": row})


SCENE_SETS: Mapping[str, WorldSet] = {
    "instruct": WorldSet(
        {"p_color": 0.6, "p_cooc": 0.9, "p_neutral": 0.25}
        | {"yes": 0.5, "same_place": 0.5, "biased": 0.0},
        _write_instruct,
    ),
    "pope": evaluation(_pope_items, official.write_lines),
    "vqa": evaluation(_vqa_items, partial(write_vqa, end="\n")),
    "prior_conflict": evaluation(_conflict_items),
    "chair": evaluation(_chair_items),
    **QUESTION_SETS,
    **BENCHMARK_SETS,
}
