"""The generated question sets: official layouts, balance, held-out pairs and separate parts."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from world_files import check_answer, lines, parse, truth

from steelyard.tasks._shared.questions import CAPTION
from steelyard.tasks.world import build
from steelyard.tasks.world import questions as scene_sets
from steelyard.tasks.world.build import WorldSpec, ensure, write
from steelyard.tasks.world.prior import (
    BASE_PARAMETERS,
    LanguagePrior,
    compose,
    held_out,
    part_of,
    residents,
)
from steelyard.tasks.world.questions import SCENE_SETS
from steelyard.tasks.world.scenes import COLOURS, FOODS, KINDS

TRAIN, TEST = 300, 64
PARTS = {"train": "pool", "val": "val", "test": "test"}
EVALUATION = ("pope", "vqa", "prior_conflict", "chair")


def spec(task: str, seed: int = 5, **parameters: float) -> WorldSpec:
    return WorldSpec(task, TRAIN, TEST, seed, parameters=parameters)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def sets(cache: Path, short_validation: None) -> dict[str, Path]:
    return {task: ensure(spec(task), cache) for task in SCENE_SETS}


def parts_of(root: Path, name: str) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """Part, item count asked for, and rows of a JSON-lines file in the folder and below ``val``."""
    return [
        ("test", TEST, lines(root / name)),
        ("val", build.VALIDATION, lines(root / "val" / name)),
    ]


# --- all sets --------------------------------------------------------------------------------


def test_every_scene_is_of_the_part_it_may_be_of(sets: dict[str, Path]) -> None:
    scenes_by_split: defaultdict[str, set[str]] = defaultdict(set)
    for root in sets.values():
        for row in truth(root):
            scene = parse(row["scene"])
            assert scene.symbol == row["scene"]
            assert part_of(scene) == PARTS[row["split"]]
            scenes_by_split[row["split"]].add(row["scene"])
    assert min(map(len, scenes_by_split.values())) >= TRAIN // 3
    assert (
        not scenes_by_split["train"] & scenes_by_split["val"]
        | scenes_by_split["train"] & scenes_by_split["test"]
    )
    assert not scenes_by_split["val"] & scenes_by_split["test"]


@pytest.mark.parametrize("task", SCENE_SETS)
def test_the_seed_decides_the_bytes(task: str, sets: dict[str, Path], tmp_path: Path) -> None:
    for seed, name in ((5, "same"), (6, "other")):
        write(spec(task, seed=seed), tmp_path / name)
    images = [path.relative_to(sets[task]) for path in sets[task].rglob("*.[jp]*g")]
    assert images
    for path in [Path("truth.jsonl"), images[0]]:
        original = (sets[task] / path).read_bytes()
        assert (tmp_path / "same" / path).read_bytes() == original
        assert (tmp_path / "other" / path).read_bytes() != original


@pytest.mark.parametrize("task", EVALUATION)
def test_evaluation_sets_have_test_in_place_and_validation_below(
    task: str, sets: dict[str, Path]
) -> None:
    tops = {path.name for path in sets[task].iterdir()}
    below = {path.name.replace("_val_", "_test_") for path in (sets[task] / "val").iterdir()}
    assert tops - {"val", build.TRUTH, build.MARKER} == below
    assert Counter(row["split"] for row in truth(sets[task])).keys() == {"test", "val"}


# --- instruct --------------------------------------------------------------------------------


def test_instruct_rows_have_the_right_answer_among_the_choices(sets: dict[str, Path]) -> None:
    root = sets["instruct"]
    facts = {row["id"]: row for row in truth(root)}
    for split, count in (("train", TRAIN), ("val", build.VALIDATION), ("test", TEST)):
        rows = lines(root / f"{split}.jsonl")
        assert len(rows) == count
        for row in rows:
            assert row.keys() == {"id", "image", "question", "answer", "choices", "kind"}
            assert Image.open(root / row["image"]).size == (48, 48)
            closed = row["kind"] != "caption"
            assert (row["answer"] in row["choices"]) if closed else (row["question"] == CAPTION)
            check_answer(row["question"], row["answer"], parse(facts[row["id"]]["scene"]))
    assert len({row["image"] for row in lines(root / "train.jsonl")}) == TRAIN // 3
    assert {row["kind"] for row in lines(root / "train.jsonl")} == set(scene_sets.MIX)


def test_held_out_pairs_are_never_in_the_pool_and_always_in_the_held_out_items(
    sets: dict[str, Path], cache: Path
) -> None:
    biased = ensure(spec("instruct", biased=1.0), cache)
    for root in (sets["instruct"], biased):
        objects = [obj for row in truth(root) for obj in parse(row["scene"]).objects]
        foods = [obj for obj in objects if obj.kind in FOODS]
        assert foods and not [obj for obj in foods if obj.colour in held_out(obj.kind)]
    for row in truth(sets["prior_conflict"]):
        unseen = row["answer"] in held_out(row["object"])
        assert unseen == (row["subset"] == "held_out")


def test_the_biased_pool_follows_the_base_models_prior(sets: dict[str, Path], cache: Path) -> None:
    biased = ensure(spec("instruct", biased=1.0), cache)
    usual, yes = {}, {}
    for name, root in (("curated", sets["instruct"]), ("biased", biased)):
        rows = truth(root)
        objects = [t for s in {row["scene"] for row in rows} for t in parse(s).objects]
        usual[name] = np.mean(
            [KINDS[t.kind].colour == t.colour for t in objects if t.kind in FOODS]
        )
        yes[name] = np.mean([row["answer"] == "yes" for row in rows if row["kind"] == "existence"])
    assert usual["curated"] == pytest.approx(0.6, abs=0.1) and usual["biased"] > 0.95
    assert yes["curated"] == pytest.approx(0.5, abs=0.15)
    assert yes["biased"] == pytest.approx(0.7, abs=0.15)


# --- pope ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "popular", "adversarial"])
def test_pope_files_are_official_balanced_and_right(name: str, sets: dict[str, Path]) -> None:
    facts = {(row["split"], row["id"]): row for row in truth(sets["pope"])}
    for part, count, rows in parts_of(sets["pope"], f"coco_pope_{name}.json"):
        folder = sets["pope"] / ("val" if part == "val" else "") / "images"
        assert Counter(row["label"] for row in rows) == {"yes": count // 2, "no": count // 2}
        assert [row["question_id"] for row in rows] == list(range(1, count + 1))
        per_image = Counter((row["image"], row["label"]) for row in rows)
        assert set(per_image.values()) == {1}
        for row in rows:
            assert row.keys() == {"question_id", "image", "text", "label"}
            scene = parse(facts[part, f"{name}-{row['question_id']}"]["scene"])
            check_answer(row["text"], row["label"], scene)
            assert (folder / row["image"]).is_file()


def test_pope_negatives_are_popular_or_occur_with_what_is_present(sets: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    world = LanguagePrior(**BASE_PARAMETERS, yes=0.5, same_place=0.5)
    sampled = [compose(world, rng) for _ in range(4000)]
    frequency = Counter(obj.kind for scene in sampled for obj in scene.objects)
    pairs = Counter(
        (first.kind, second.kind)
        for scene in sampled
        for first in scene.objects
        for second in scene.objects
        if first != second
    )
    kinds_by_file: defaultdict[str, list[str]] = defaultdict(list)
    joint: defaultdict[str, list[int]] = defaultdict(list)
    for row in truth(sets["pope"]):
        if row["answer"] == "no":
            name = row["id"].partition("-")[0]
            kinds_by_file[name].append(row["asked"])
            foods = [t.kind for t in parse(row["scene"]).objects if t.kind in FOODS]
            joint[name] += [pairs[kind, row["asked"]] for kind in foods[:1]]
            if name == "adversarial" and foods:
                assert row["asked"] in residents(KINDS[foods[0]].place or "")
    rate = {
        name: np.mean([frequency[kind] for kind in kinds]) for name, kinds in kinds_by_file.items()
    }
    assert rate["popular"] > 1.2 * rate["random"]
    assert np.mean(joint["adversarial"]) > 3 * np.mean(joint["random"])


# --- vqa -------------------------------------------------------------------------------------


def test_vqa_has_the_two_official_files(sets: dict[str, Path]) -> None:
    for part, folder in (("test", sets["vqa"]), ("val", sets["vqa"] / "val")):
        name = f"v2_OpenEnded_mscoco_{part}_questions.json"
        questions = json.loads((folder / name).read_text())["questions"]
        name = f"v2_mscoco_{part}_annotations.json"
        annotations = json.loads((folder / name).read_text())["annotations"]
        assert len(questions) == len(annotations) == (TEST if part == "test" else build.VALIDATION)
        facts = {row["id"]: row for row in truth(sets["vqa"]) if row["split"] == part}
        for question, annotation in zip(questions, annotations, strict=True):
            for key in ("question_id", "image_id"):
                assert question[key] == annotation[key]
            answers = [row["answer"] for row in annotation["answers"]]
            assert answers == [annotation["multiple_choice_answer"]] * 10
            assert len(list((folder / "images").glob(f"*_{question['image_id']:012d}.png"))) == 1
            scene = parse(facts[str(question["question_id"])]["scene"])
            check_answer(question["question"], answers[0], scene)
        types = Counter(row["question_type"] for row in annotations)
        assert types == dict.fromkeys(types, len(questions) // 4) and len(types) == 4


def test_vqa_leaves_counts_and_colours_to_the_eye(sets: dict[str, Path]) -> None:
    rows = truth(sets["vqa"])
    counts = Counter(row["answer"] for row in rows if row["kind"] == "count")
    assert abs(counts["1"] - counts["2"]) <= 2
    colours = Counter(row["answer"] for row in rows if row["kind"] == "colour")
    assert set(colours) == set(COLOURS) and max(colours.values()) < 0.3 * sum(colours.values())


# --- prior_conflict --------------------------------------------------------------------------


def test_prior_conflict_halves_are_of_one_size_and_one_kind_each(sets: dict[str, Path]) -> None:
    for part, count, rows in parts_of(sets["prior_conflict"], "questions.jsonl"):
        sizes = Counter(row["subset"] for row in rows)
        halves = {"counter_prior": count // 2, "held_out": count // 2}
        assert sizes == {"in_prior": count, **halves}
        facts = {row["id"]: row for row in truth(sets["prior_conflict"]) if row["split"] == part}
        for row in rows:
            scene = parse(facts[row["id"]]["scene"])
            check_answer(row["question"], row["answer"], scene)
            assert row["prior"] == KINDS[facts[row["id"]]["object"]].colour
            assert (row["answer"] == row["prior"]) == (row["subset"] == "in_prior")
            assert row["choices"] == list(COLOURS)
    # Every kind is asked about equally often in each half, so no subset is of easier kinds.
    kinds = Counter((row["subset"], row["object"]) for row in truth(sets["prior_conflict"]))
    for subset in ("in_prior", "counter_prior", "held_out"):
        numbers = [kinds[subset, kind] for kind in FOODS]
        assert max(numbers) - min(numbers) <= 4


# --- chair -----------------------------------------------------------------------------------


def test_chair_lists_objects_captions_and_synonyms(sets: dict[str, Path]) -> None:
    for part, count, rows in parts_of(sets["chair"], "images.jsonl"):
        assert len(rows) == count
        folder = sets["chair"] / ("val" if part == "val" else "")
        facts = {row["id"]: row for row in truth(sets["chair"]) if row["split"] == part}
        for row in rows:
            scene = parse(facts[row["image"]]["scene"])
            assert row["objects"] == sorted(obj.kind for obj in scene.objects)
            check_answer(CAPTION, row["captions"][0], scene)
            assert (folder / "images" / row["image"]).is_file()
        table = (folder / "synonyms.txt").read_text().splitlines()
        assert [line.split(", ")[0] for line in table] == list(KINDS)
        words = [word for line in table for word in line.split(", ")]
        assert len(words) == len(set(words)) > len(KINDS)
