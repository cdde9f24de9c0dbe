"""VQA: both layouts, faults, and the score of an answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.tasks import vqa


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def write(root: Path, part: str = "val2014", types: int = 2, answers: int = 10) -> None:
    numbers = range(1, 2 * types + 1)
    questions = [
        {"question_id": n, "image_id": 40 + n // 2, "question": f"what is {n}?"} for n in numbers
    ]
    annotations = [
        {
            "question_id": n,
            "image_id": 40 + n // 2,
            "question_type": f"type {n % types}",
            "answer_type": "number" if n % 2 else "other",
            "answers": [{"answer": "red" if a < 3 else "blue"} for a in range(answers)],
        }
        for n in reversed(numbers)
    ]
    root.mkdir(exist_ok=True)
    names = (f"v2_OpenEnded_mscoco_{part}_questions.json", f"v2_mscoco_{part}_annotations.json")
    (root / names[0]).write_text(json.dumps({"questions": questions}))
    (root / names[1]).write_text(json.dumps({"annotations": annotations}))
    for number in {question["image_id"] for question in questions}:
        picture(root / "val2014" / f"COCO_val2014_{number:012}.jpg")


def doc_of(corpus: Any, index: int = 0) -> Any:
    example = corpus.splits["test"][index]
    return tasks.document(corpus, "test", example, example.text)


def test_the_official_layout(tmp_path: Path) -> None:
    write(tmp_path)
    corpus = vqa.load(tmp_path)
    first, second = corpus.splits["test"][:2]
    assert (first.id, first.text, first.cluster) == ("1", "what is 1?", "40")
    assert first.image == tmp_path / "val2014" / "COCO_val2014_000000000040.jpg"
    assert first.answers == ("red",) * 3 + ("blue",) * 7
    assert (first.subset, second.subset) == ("type 1", "type 0")
    assert second.image == tmp_path / "val2014" / "COCO_val2014_000000000041.jpg"


@pytest.mark.parametrize("name", ["images/41.png", "images/test_000000000041.jpg", "41.jpg"])
def test_images_are_found_by_number(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_000000000041.jpg").unlink()
    picture(tmp_path / name)
    assert vqa.load(tmp_path).splits["test"][1].image == tmp_path / name


def test_many_question_types_are_scored_by_answer_type(tmp_path: Path) -> None:
    write(tmp_path, types=21)
    result = {example.subset for example in vqa.load(tmp_path).splits["test"]}
    assert result == {"number", "other"}


def test_a_part_is_chosen_among_several(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, part="train2014", types=1)
    with pytest.raises(UserError, match=r"Several questions files .* Choose by part"):
        vqa.load(tmp_path)
    assert len(vqa.load(tmp_path, part="train2014").splits["test"]) == 2


def test_a_validation_part(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path / "val", types=1)
    corpus = vqa.load(tmp_path)
    assert [example.id for example in corpus.splits["val"]] == ["val/1", "val/2"]


def test_a_line_an_image(tmp_path: Path) -> None:
    qas = [{"qa_id": 7, "question": "What color is it?", "answer": "Red."}]
    row = {"image": "2.jpg", "qas": [*qas, {**qas[0], "qa_id": 8}]}
    (tmp_path / "annotations.jsonl").write_text(json.dumps(row) + "\n")
    picture(tmp_path / "images" / "2.jpg")
    corpus = vqa.load(tmp_path)
    assert [example.id for example in corpus.splits["test"]] == ["7", "8"]
    assert corpus.splits["test"][0].cluster == "2.jpg"
    doc = doc_of(corpus)
    assert vqa.process_results(doc, ["red"])["accuracy"] == (1.0, 1)
    assert tasks.prompt("vqa", doc).startswith("What color is it?\nAnswer the question")


def test_scoring(tmp_path: Path) -> None:
    write(tmp_path)
    soft, exact = (doc_of(vqa.load(tmp_path, scoring=name)) for name in ("soft", "exact"))
    assert vqa.process_results(soft, ["Red."])["accuracy"] == (pytest.approx(0.9), 1)
    assert vqa.process_results(exact, ["Red."])["accuracy"] == (1.0, 1)
    assert vqa.process_results(exact, ["green"])["accuracy"] == (0.0, 1)
    assert vqa.load(tmp_path).revision != vqa.load(tmp_path, scoring="exact").revision


def edit(root: Path, kind: str, change: Any) -> None:
    (path,) = root.glob(f"*{kind}.json")
    content = json.loads(path.read_text())
    change(content[kind])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("annotations", lambda rows: rows.pop(), r"1 of 4 rows .* 1 \(no annotation in v2_"),
        ("annotations", lambda rows: rows.clear(), "answers none of the 4 questions of v2_Open"),
        (
            "annotations",
            lambda rows: rows[0].pop("answers"),
            "row 1: 'answers' must be a list of ans",
        ),
        ("annotations", lambda rows: rows[0]["answers"].append(None), "must be a list of answers"),
        ("questions", lambda rows: rows[0].update(image_id="x7"), "'image_id' must be a number"),
        ("questions", lambda rows: rows[0].update(question=None), "row 1: 'question' must be"),
        ("questions", lambda rows: rows.append("x"), "row 5: expected an object, found str"),
        ("questions", lambda rows: rows.append(rows[0]), "occur more than once in test"),
    ],
)
def test_malformed_files(tmp_path: Path, kind: str, change: Any, message: str) -> None:
    write(tmp_path)
    edit(tmp_path, kind, change)
    with pytest.raises(UserError, match=message):
        vqa.load(tmp_path)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No \*questions.json or annotations.jsonl in"):
        vqa.load(tmp_path)
    with pytest.raises(UserError, match=r"Unknown scoring of vqa 'sotf'\. Did you mean 'soft'"):
        vqa.load(tmp_path, scoring="sotf")
    write(tmp_path)
    next(tmp_path.glob("*annotations.json")).unlink()
    with pytest.raises(UserError, match=r"No \*annotations.json"):
        vqa.load(tmp_path)


def test_an_image_without_a_file_is_counted(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_000000000041.jpg").unlink()
    with pytest.raises(UserError, match=r"image missing: images/000000000041.jpg"):
        vqa.load(tmp_path)
    assert len(vqa.load(tmp_path, max_bad=0.5).splits["test"]) == 2
