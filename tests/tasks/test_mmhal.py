"""MMHal-Bench: no score without a judge, ratings by hand, the official layout, and mistakes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.tasks import metrics, mmhal


def rows(count: int = 96) -> list[dict[str, Any]]:
    return [
        {
            "question_topic": "food",
            "image_id": f"id{number}",
            "image_src": f"https://example.org/files/{number % 40}_o.jpg?size=large",
            "image_content": ["Cup"],
            "question": f"What is {number}?",
            "gt_answer": f"It is {number}.",
            "model_answer": "",
        }
        for number in range(count)
    ]


def write(root: Path, content: Any) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "response_template.json").write_text(json.dumps(content))
    for number in range(40):
        Image.new("RGB", (8, 8), "red").save(root / "images" / f"{number}_o.jpg")
    return root


def results(corpus: Corpus, replies: list[str]) -> list[metrics.AnswerScores]:
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    return [mmhal.process_results(doc, [answer]) for doc, answer in zip(docs, replies, strict=True)]


def test_without_a_judge_nothing_says_whether_an_answer_is_right(tmp_path: Path) -> None:
    corpus = mmhal.load(write(tmp_path, rows(2)))
    assert corpus.notes == {"judge": "none, so no score"}
    scores = results(corpus, ["A cup of tea.", " "])
    assert [set(result) for result in scores] == [{"answered", "length", "item"}] * 2
    assert [(result["answered"], result["length"]) for result in scores] == [
        ((True, 1), (4, 1)),
        ((False, 1), (0, 1)),
    ]


def test_it_is_declared_as_not_ranking() -> None:
    about = tasks.info("mmhal")
    assert about.columns == () and about.metrics[about.main] is None
    assert "too few to rank" in about.judge


def test_ratings_by_hand(tmp_path: Path) -> None:
    root, path = write(tmp_path / "data", rows(3)), tmp_path / "rated.jsonl"
    rated = [(0, "a", 6), (1, "b", 3), (2, "c", 2), (2, "d", 0)]
    lines = [{"id": str(id), "answer": answer, "rating": rating} for id, answer, rating in rated]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = mmhal.load(root, ratings=str(path))
    assert corpus.notes == {"judge": "ratings"}
    result: list[Any] = results(corpus, ["a", "b", "c"])
    assert metrics.ratio([row["score"] for row in result]) == pytest.approx(11 / 3)
    assert metrics.ratio([row["hallucination"] for row in result]) == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="none on this answer to 1: 'c'"):
        results(corpus, ["a", "c", "c"])
    path.write_text(json.dumps({**lines[0], "rating": 7}))
    with pytest.raises(UserError, match=r"rated\.jsonl:1: rating 7, allowed are 0, 1, 2, 3"):
        mmhal.load(root, ratings=str(path))


def test_the_official_layout(tmp_path: Path) -> None:
    root = write(tmp_path, rows())
    test = mmhal.load(root).splits["test"]
    assert len(test) == 96 and Counter(e.subset for e in test) == dict.fromkeys(mmhal.TYPES, 12)
    example = test[41]
    assert (example.id, example.subset, example.cluster) == ("41", "adversarial", "1_o.jpg")
    assert (example.text, example.answers) == ("What is 41?", ("It is 41.",))
    assert example.image == root / "images" / "1_o.jpg"
    names = [{**row, "question_type": "holistic", "image_path": "/x/3_o.jpg"} for row in rows(2)]
    first = mmhal.load(write(tmp_path, names)).splits["test"][0]
    assert (first.subset, first.cluster) == ("holistic", "3_o.jpg")
    doc: Any = tasks.document(mmhal.load(root), "test", example, example.text)
    assert tasks.prompt("mmhal", doc) == "What is 41?"
    assert tasks.target("mmhal", doc) == "It is 41."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"question": "a", "gt_answer": "b"}], r"row 1: 'image_src' must be a string"),
        ([{**rows(1)[0], "gt_answer": None}], r"row 1: 'gt_answer' must be a string"),
        ({"rows": []}, r"response_template\.json:1: 'image_src' must be"),
    ],
)
def test_malformed_files(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mmhal.load(write(tmp_path, content))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No response_template\.json in"):
        mmhal.load(tmp_path)
    root = write(tmp_path / "data", rows(3))
    (root / "images" / "1_o.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 3 rows of test cannot be used: 1 \(image missing"):
        mmhal.load(root)


def test_a_hub_copy_becomes_the_official_tree(tmp_path: Path) -> None:
    source = write(tmp_path / "data", rows(4))
    copy = [
        {**row, "image": {"bytes": (source / "images" / f"{number}_o.jpg").read_bytes()}}
        for number, row in enumerate(rows(4))
    ]
    mmhal.write_official(iter(copy), tmp_path / "made")
    assert mmhal.load(tmp_path / "made").revision == mmhal.load(source).revision
