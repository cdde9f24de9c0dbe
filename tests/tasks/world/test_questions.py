"""Generated VQAv2, GQA, TextVQA, ScienceQA, MME and NaturalBench: official and right."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from world_files import check_answer, lines, parse, truth

from steelyard import tasks
from steelyard.harness.core.examples import Example
from steelyard.tasks.world import build
from steelyard.tasks.world.benchmarks import CATEGORIES
from steelyard.tasks.world.build import WorldSpec, ensure
from steelyard.tasks.world.prior import held_out
from steelyard.tasks.world.scenes import DOTS, FOODS, KINDS, PLACES, Scene
from steelyard.tasks.world.vqa import GQA_KINDS

TASKS = ("vqav2", "gqa", "textvqa", "scienceqa", "mme", "naturalbench")
TEST = 64


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, short_validation: None) -> dict[str, Path]:
    cache = tmp_path_factory.mktemp("questions")
    return {task: ensure(WorldSpec(task, train=64, test=TEST, seed=5), cache) for task in TASKS}


def facts(root: Path, split: str = "test") -> dict[str, Any]:
    return {row["id"]: row for row in truth(root) if row["split"] == split}


def items(root: Path, task: str) -> list[tuple[Example, dict[str, Any], Scene]]:
    """Test items with what is true of them and the scene they show."""
    facts_by_id = facts(root)
    rows = tasks.load(task, root).splits["test"]
    return [(row, facts_by_id[row.id], parse(facts_by_id[row.id]["scene"])) for row in rows]


@pytest.mark.parametrize("task", TASKS)
def test_the_loader_reads_all_that_was_asked_for(task: str, sets: dict[str, Path]) -> None:
    corpus = tasks.load(task, sets[task])
    sizes = {split: len(rows) for split, rows in corpus.splits.items()}
    expected = {"val": build.VALIDATION, "test": TEST} | (
        {"train": 64} if task == "scienceqa" else {}
    )
    assert sizes == expected and corpus.skipped == ()
    facts_by_id = {split: facts(sets[task], split) for split in sizes}
    for split, rows in corpus.splits.items():
        ids = {row.id.removeprefix("val/") for row in rows}
        assert ids == set(facts_by_id[split])


def sign(path: Path) -> str:
    """What is written on a picture's sign, read dot by dot."""
    pixels = np.asarray(Image.open(path).convert("L"), int)[::2, ::2] < 128
    letters = {tuple(row): letter for letter, row in DOTS.items()}
    read = []
    for first in (1, 24 - 8, 24 - 12):  # on the left, and two or three letters on the right
        text_read = ""
        for left in range(first, 24, 4):
            dots = pixels[1:6, left : left + 3] @ np.array([4, 2, 1])
            letter = letters.get(tuple(str(value) for value in dots))
            if letter is None:
                break
            text_read += letter
        read.append(text_read)
    return max(read, key=len)


def test_textvqa_writes_the_number_that_it_asks_for(sets: dict[str, Path]) -> None:
    rows = items(sets["textvqa"], "textvqa")
    assert all(sign(row.image or Path()) == fact["answer"] for row, fact, _ in rows)
    corpus = tasks.load("textvqa", sets["textvqa"], ocr="tokens")
    texts = [row.text or "" for row in corpus.splits["test"]]
    both = zip(rows, texts, strict=True)
    assert all(f"token: {fact['answer']}" in text for (_, fact, _), text in both)


def test_vqav2_people_mostly_give_the_right_answer(sets: dict[str, Path]) -> None:
    agreed = []
    for row, fact, scene in items(sets["vqav2"], "vqav2"):
        check_answer(row.text or "", fact["answer"], scene)
        assert Counter(row.answers).most_common(1)[0][0] == fact["answer"]
        assert len(row.answers) == 10
        agreed.append(row.answers.count(fact["answer"]))
    assert min(agreed) >= 6 and len(set(agreed)) > 2
    kinds = Counter(row.subset for row, _, _ in items(sets["vqav2"], "vqav2"))
    assert kinds == {"yes/no": TEST // 2, "number": TEST // 4, "other": TEST // 4}


def test_gqa_has_every_structure_and_right_answers(sets: dict[str, Path]) -> None:
    structures = Counter()
    for row, fact, scene in items(sets["gqa"], "gqa"):
        structures[row.subset, row.facts["semantic"][0]] += 1
        colours = {obj.kind: obj.colour for obj in scene.objects}
        words = re.findall(r"\w+", str(row.text).lower())
        kinds = [word for word in words if word in KINDS]
        answer = row.answers[0]
        if fact["kind"] == "choose colour":
            assert colours[kinds[0]] == answer and answer in words
        elif fact["kind"] == "both":
            assert answer == ("yes" if set(kinds) <= set(colours) else "no")
        elif fact["kind"] == "same colour":
            assert answer == ("yes" if len({colours[kind] for kind in kinds}) == 1 else "no")
        elif fact["kind"] == "beside":
            assert {kinds[0], answer} == set(colours)
        elif fact["kind"] == "place":
            assert answer == scene.place and answer in PLACES
        else:
            check_answer(str(row.text), answer, scene)
    assert structures == {(one, other): TEST // len(GQA_KINDS) for one, other, _ in GQA_KINDS}


def test_scienceqa_tells_in_words_what_it_does_not_show(sets: dict[str, Path]) -> None:
    for row, fact, scene in items(sets["scienceqa"], "scienceqa"):
        options = row.facts["options"]
        answer = options["ABCD".index(row.answers[0])]
        present = {obj.kind: obj.colour for obj in scene.objects}
        right = present.keys() if fact["kind"] == "kind" else set(present.values())
        assert answer in right and len(set(options)) == len(options)
        if fact["kind"] == "kind":
            assert [option for option in options if option in present] == [answer]
        assert (row.image is None) == (row.subset == "text_only")
        assert row.image or re.search(rf"\b{answer}\b", str(row.text).partition("\n")[0])
    assert Counter(row.subset for row, _, _ in items(sets["scienceqa"], "scienceqa")) == {
        "image": TEST // 2,
        "text_only": TEST // 2,
    }


def test_scienceqa_trains_on_no_held_out_pair(sets: dict[str, Path]) -> None:
    scenes = [parse(row["scene"]) for row in facts(sets["scienceqa"], "train").values()]
    foods = [obj for scene in scenes for obj in scene.objects if obj.kind in FOODS]
    assert foods and not [obj for obj in foods if obj.colour in held_out(obj.kind)]


def test_mme_pairs_have_one_yes_and_one_no_that_the_scene_gives(sets: dict[str, Path]) -> None:
    pairs: defaultdict[str, list[str]] = defaultdict(list)
    usual = []
    for row, fact, scene in items(sets["mme"], "mme"):
        pairs[row.cluster].append(row.answers[0])
        words, is_yes = re.findall(r"\w+", str(row.text).lower()), row.answers[0] == "yes"
        objects = {obj.kind: obj for obj in scene.objects}
        kinds = [word for word in words if word in KINDS]
        if row.subset == "count":
            assert is_yes == (int(re.findall(r"\d", str(row.text))[0]) == len(objects))
        elif row.subset == "position":
            left = objects[kinds[0]].cell % 2 == 0
            assert is_yes == (("left" in words) == left)
        elif row.subset == "scene":
            assert is_yes == (scene.place in words)
        elif row.subset == "OCR":
            assert sign(row.image or Path()) == fact["sign"]
            assert is_yes == (fact["sign"] in words)
        elif row.subset == "numerical_calculation":
            assert sign(row.image or Path()) == fact["sign"]
            one, other = map(int, fact["sign"].split("+"))
            assert is_yes == (str(one + other) in words)
        elif row.subset == "commonsense_reasoning":
            is_usual = objects[kinds[0]].colour == KINDS[kinds[0]].colour
            assert is_yes == (is_usual != ("not" in words))
            usual.append(is_usual)
        else:
            check_answer(str(row.text), row.answers[0], scene)
    assert {tuple(pair) for pair in pairs.values()} == {("yes", "no")}
    text_read = Counter(row.subset for row, _, _ in items(sets["mme"], "mme"))
    assert text_read == dict.fromkeys(CATEGORIES, TEST // len(CATEGORIES))
    assert 0 < sum(usual) < len(usual)


def test_naturalbench_answers_are_opposite_and_seen(sets: dict[str, Path]) -> None:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for row, _, scene in items(sets["naturalbench"], "naturalbench"):
        answer = row.answers[0]
        groups[row.cluster].append(answer)
        if row.subset == "yes_no":
            check_answer(str(row.text), answer.lower(), scene)
        else:
            option = re.search(rf"{answer}\. (\w+)", row.facts["options"][0])
            assert option
            check_answer(str(row.text), option[1], scene)
    patterns = Counter(tuple(answers) for answers in groups.values())
    assert patterns == {("Yes", "No", "No", "Yes"): TEST // 8, ("A", "B", "B", "A"): TEST // 8}


def test_official_names(sets: dict[str, Path]) -> None:
    assert (sets["mme"] / "scene" / "questions_answers_YN").is_dir()
    assert (sets["mme"] / "count").is_dir() and not (sets["mme"] / "images").exists()
    (kinds,) = sets["gqa"].glob("testdev_balanced_questions.json")
    one = next(iter(json.loads(kinds.read_text()).values()))
    assert {"imageId", "question", "answer", "fullAnswer", "types"} <= one.keys()
    assert len(lines(sets["naturalbench"] / "naturalbench.jsonl")) == TEST // 4
    assert list((sets["vqav2"] / "val2014").glob("COCO_val2014_*.jpg"))
