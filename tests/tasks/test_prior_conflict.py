"""Language prior against image: every metric by hand, and what the loader refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.tasks import metrics, prior_conflict

COLOURS = ["yellow", "red", "blue"]


def rows() -> list[dict[str, Any]]:
    answers = {"in_prior": "yellow", "counter_prior": "red", "held_out": "blue"}
    return [
        {
            "id": f"{subset}-{number}",
            "image": "images/x.png",
            "question": "what color is the banana?",
            "answer": answer,
            "prior": "yellow",
            "subset": subset,
            "choices": COLOURS,
        }
        for subset, answer in answers.items()
        for number in range(2)
    ]


def write(root: Path, content: list[dict[str, Any]]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(root / "images" / "x.png")
    text = "".join(json.dumps(row) + "\n" for row in content)
    (root / "questions.jsonl").write_text(text)
    return root


def scores(root: Path, replies: list[str]) -> dict[str, float]:
    corpus = prior_conflict.load(root)
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    results = [
        prior_conflict.process_results(doc, [answer])
        for doc, answer in zip(docs, replies, strict=True)
    ]
    declared = tasks.info("prior_conflict").metrics
    assert all(set(result) == {*declared, "item"} for result in results)
    return {metric: metrics.ratio([row[metric] for row in results]) for metric in declared}


def test_metrics_by_hand(tmp_path: Path) -> None:
    replies = ["Yellow.", "red", "It is red", "yellow", "blue", "teal"]
    assert scores(write(tmp_path, rows()), replies) == {
        "in_prior": 0.5,
        "counter_prior": 0.5,  # red and blue of four, held-out ones too
        "held_out": 0.5,
        "prior_following": 0.25,
        "accuracy": 0.5,
        "invalid": pytest.approx(1 / 6),
    }


def test_the_language_prior_alone_is_right_where_it_agrees_and_nowhere_else(tmp_path: Path) -> None:
    result = scores(write(tmp_path, rows()), ["yellow"] * 6)
    assert result == {
        "in_prior": 1.0,
        "counter_prior": 0.0,
        "held_out": 0.0,
        "prior_following": 1.0,
        "accuracy": pytest.approx(1 / 3),
        "invalid": 0.0,
    }


def test_reading(tmp_path: Path) -> None:
    write(tmp_path, rows())
    write(tmp_path / "val", rows()[:1])
    corpus = prior_conflict.load(tmp_path)
    assert [example.id for example in corpus.splits["val"]] == ["val/in_prior-0"]
    example = corpus.splits["test"][2]
    assert (example.answers, example.facts) == (("red",), {"prior": ("yellow",)})
    turn = tasks.training_turn("prior_conflict", corpus, example, None)
    assert (turn.answer, turn.choices) == ("red", tuple(COLOURS))
    assert turn.inputs.text == "what color is the banana?"
    assert turn.inputs.prompt == (
        "what color is the banana?\nAnswer the question using a single word or phrase."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "green"}, "jsonl:1: answer 'green' is not one of the choices"),
        ({"prior": "green"}, "prior 'green' is not one of the choices"),
        ({"subset": "other"}, "subset 'other', allowed are in_prior, counter_prior, held_out"),
        ({"subset": "held_out"}, "answer and prior do not match subset 'held_out'"),
        ({"choices": "red"}, "'choices' must be a list of strings"),
        ({"question": ""}, "'question' must be a string"),
    ],
)
def test_malformed_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, [{**rows()[0], **change}])
    with pytest.raises(UserError, match=message):
        prior_conflict.load(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No questions\.jsonl in"):
        prior_conflict.load(tmp_path)
