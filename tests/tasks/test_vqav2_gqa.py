"""VQAv2 and GQA: official layouts, bad input, scores, hub copies."""

import json
from pathlib import Path
from typing import Any

import pytest
from question_files import (
    TEN,
    VQA,
    Change,
    bytes_of,
    docs,
    edit,
    hub,
    picture,
    value,
    write_gqa,
    write_vqa,
)

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.tasks import gqa, vqav2

# --- VQAv2 -----------------------------------------------------------------------------------


def test_vqav2(tmp_path: Path) -> None:
    corpus = vqav2.load(write_vqa(tmp_path))
    first = corpus.splits["test"][0]
    assert (first.id, first.text, first.subset, first.cluster) == (
        "10", "What is 10?", "yes/no", "40",
    )  # fmt: skip
    assert first.image == tmp_path / "val2014" / "COCO_val2014_000000000040.jpg"
    assert corpus.notes == {"part": "val2014"}
    # Three of ten: left out, one of the three leaves 2 matches, one of the seven leaves 3.
    assert value(vqav2, corpus, "Red.") == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert value(vqav2, corpus, "blue") == 1
    assert tasks.target("vqav2", docs(corpus)[0]) == "blue"  # most say so, though red comes first
    expected = "What is 10?\nAnswer the question using a single word or phrase."
    assert tasks.prompt("vqav2", docs(corpus)[0]) == expected


def test_vqav2_parts_are_distinguished(tmp_path: Path) -> None:
    write_vqa(write_vqa(tmp_path), "train2014")
    write_vqa(tmp_path, "test-dev2015", answers=False)
    assert vqav2.load(tmp_path).notes == {"part": "val2014"}
    train = vqav2.load(tmp_path, part="train2014")
    assert "train2014/COCO_train2014" in str(train.splits["test"][0].image)
    with pytest.raises(UserError, match=r"answers of test-dev2015 are not public, .* part=val2014"):
        vqav2.load(tmp_path, part="test-dev2015")
    with pytest.raises(UserError, match=r"No v2_OpenEnded_mscoco_val2015_q.* val2014, test-dev"):
        vqav2.load(tmp_path, part="val2015")


def test_vqav2_images_are_found_by_number(tmp_path: Path) -> None:
    write_vqa(tmp_path)
    (tmp_path / vqav2.image_name("val2014", 40)).unlink()
    path = picture(tmp_path / "images" / "40.png")
    assert vqav2.load(tmp_path).splits["test"][0].image == path


def test_vqav2_does_not_take_the_first_version(tmp_path: Path) -> None:
    write_vqa(tmp_path)
    for name in VQA:
        (tmp_path / name.format("val2014")).rename(tmp_path / name.format("val2014")[3:])
    with pytest.raises(UserError, match=r"No v2_.* \(its files: OpenEnded_mscoco_val2014_quest"):
        vqav2.load(tmp_path)


def test_vqav2_questions_without_annotation_are_listed_up_to_a_fraction(tmp_path: Path) -> None:
    write_vqa(tmp_path)
    path = tmp_path / VQA[1].format("val2014")
    edit(path, lambda content: content["annotations"].pop())
    with pytest.raises(UserError, match=r"1 of 4 rows of test .* 13 \(no annotation in v2_mscoco"):
        vqav2.load(tmp_path)
    assert len(vqav2.load(tmp_path, max_bad=0.25).splits["test"]) == 3
    for number, row in enumerate(json.loads(path.read_text())["annotations"]):
        edit(path, lambda c, n=number, r=row: c["annotations"][n].update(r, question_id=900 + n))
    with pytest.raises(UserError, match=r"answers none of the 4 questions .* different parts or"):
        vqav2.load(tmp_path, max_bad=0.9)


@pytest.mark.parametrize("listed", [True, False])
def test_vqav2_hub_copy(tmp_path: Path, listed: bool) -> None:
    tree = vqav2.load(write_vqa(tmp_path / "tree"))
    answers = [{"answer": a, "answer_confidence": "yes", "answer_id": 1} for a in TEN]
    sequence = {key: [answer[key] for answer in answers] for key in answers[0]}
    rows = [
        {
            "question_id": int(example.id),
            "image_id": int(example.cluster),
            "image": bytes_of(example.image),
            "question": example.text,
            "question_type": "what is",
            "answer_type": example.subset,
            "multiple_choice_answer": "blue",
            "answers": answers if listed else sequence,
        }
        for example in tree.splits["test"]
    ]
    hidden = [{**row, "answers": None} for row in rows]
    built = tmp_path / "made"
    vqav2.write_official(iter([*hub(rows, "validation"), *hub(hidden, "testdev")]), built)
    assert vqav2.load(built).revision == tree.revision
    assert (built / VQA[0].format("test-dev2015")).is_file()
    assert not (built / VQA[1].format("test-dev2015")).exists()


# --- GQA -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "questions1.2/"])
def test_gqa(tmp_path: Path, folder: str) -> None:
    corpus = gqa.load(write_gqa(tmp_path, f"{folder}testdev_balanced_questions.json"))
    first, second, _ = corpus.splits["test"]
    assert (first.id, first.subset, first.cluster) == ("0", "verify", "n0")
    assert second.image == tmp_path / "images" / "n0.jpg"
    assert corpus.notes == {"part": "testdev_balanced"}
    assert value(gqa, corpus, "Red.") == pytest.approx(1 / 3)
    assert value(gqa, corpus, "Red.", "attribute_accuracy") == 1
    assert value(gqa, corpus, "Red.", "object_accuracy") == 0
    result: Any = gqa.process_results(docs(corpus)[0], ["it is"])
    assert "attribute_accuracy" not in result and result["object_accuracy"] == (0.0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["1"].pop("answer"), "question 1 has no 'answer': those of test are not"),
        (lambda rows: rows["1"].update(imageId=None), "question 1: 'imageId' must be a string"),
        (
            lambda rows: rows["1"]["types"].update(semantic="smell"),
            "semantic type 'smell'",
        ),
        (lambda rows: rows["1"].update(types=["query"]), "'types' must be an object"),
        (lambda rows: rows.update({"2": "x"}), "expected an object of questions by their ids"),
    ],
)
def test_gqa_malformed(tmp_path: Path, change: Change, message: str) -> None:
    write_gqa(tmp_path)
    edit(tmp_path / "testdev_balanced_questions.json", change)
    with pytest.raises(UserError, match=message):
        gqa.load(tmp_path)


def test_gqa_questions_without_types_have_no_subset(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    path = tmp_path / "testdev_balanced_questions.json"
    edit(path, lambda rows: [row.pop("types") for row in rows.values()])
    corpus = gqa.load(tmp_path)
    assert {example.subset for example in corpus.splits["test"]} == {""}
    assert set(gqa.process_results(docs(corpus)[0], ["yes"])) == {"accuracy", "item"}


def test_gqa_another_part(tmp_path: Path) -> None:
    write_gqa(tmp_path, "val_balanced_questions.json")
    assert len(gqa.load(tmp_path, part="val_balanced").splits["test"]) == 3
    with pytest.raises(UserError, match=r"No testdev_balanced_questions\.json .* val_balanced"):
        gqa.load(tmp_path)


def test_gqa_hub_copy(tmp_path: Path) -> None:
    tree = gqa.load(write_gqa(tmp_path / "tree"))
    question = json.loads((tmp_path / "tree/testdev_balanced_questions.json").read_text())
    questions = [{"id": id, **row} for id, row in question.items()]
    images = {example.cluster: example.image for example in tree.splits["test"]}
    pictures = [{"id": id, "image": bytes_of(path)} for id, path in images.items()]
    rows = [
        *hub(pictures, "testdev", "testdev_balanced_images"),
        *hub(questions, "testdev", "testdev_balanced_instructions"),
    ]
    gqa.write_official(iter(rows), tmp_path / "made")
    assert gqa.load(tmp_path / "made").revision == tree.revision
    with pytest.raises(UserError, match=r"configuration 'default': expected testdev_balanced_im"):
        gqa.write_official(iter(hub(questions)), tmp_path / "other")
