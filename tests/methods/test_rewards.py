"""Rewards of sampled answers: right or wrong, well formed or not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scripted_vlm
import vlm_toys

from steelyard.harness.core.examples import Example
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.methods._preference.negatives import PairOptions, mined_answers
from steelyard.methods._preference.online import (
    Sampling,
    StreamRow,
    correctness,
    form,
    verifiable,
)
from steelyard.methods._preference.row_trainer import RowTrainer


def test_correctness_ignores_case_articles_and_stops() -> None:
    answers = ("Red.", "blue", "red blue", "")
    assert [correctness(answer, "red") for answer in answers] == [1.0, 0.0, 0.0, 0.0]
    assert correctness("a banana", "banana") == 1.0


@pytest.mark.parametrize(
    ("answer", "choices", "good"),
    [
        ("red", ("red", "blue"), True),
        ("Blue ", ("red", "blue"), True),
        ("red.", ("red", "blue"), False),
        ("red blue", ("red", "blue"), False),
        ("green", ("red", "blue"), False),
        ("hot dog", ("hot dog",), True),
        ("three red balls", (), True),
        ("there are three balls", (), False),
        ("three\nballs", (), False),
        ("  ", (), False),
    ],
)
def test_form_of_an_answer(answer: str, choices: tuple[str, ...], good: bool) -> None:
    assert form(answer, choices, finished=True) == good
    assert form(answer, choices, finished=False) == 0


def test_what_can_be_verified() -> None:
    def example(**fields: Any) -> Example:
        return Example("0", None, "?", fields.pop("labels", ()), **fields)

    assert verifiable(example(answers=("a very long closed answer",), choices=("yes", "no")))
    assert verifiable(example(labels=(3,)))
    assert verifiable(example(answers=("two red balls",)))
    assert not verifiable(example(answers=("there are two red balls",)))
    assert not verifiable(example())


def test_answers_are_rewarded_and_mined_as_they_are_scored(tmp_path: Path) -> None:
    """Without the model's reasoning, whose tags are special tokens here."""
    script = ["<think>", "red", "</think>", "blue"]
    tags = ("<think>", "</think>")
    folder = scripted_vlm.scripted(tmp_path, script, special=tags)
    model = vlm_build.build(
        "x", vlm_config.configure(str(folder), {"tune": "full"}), seed=0, device="cpu"
    )
    data = vlm_toys.train_data(model, 2)
    options = PairOptions("blank_image")
    assert mined_answers(model, data, vlm_toys.watched(model, 1e12), [0, 1], options) == [
        "blue",
        "blue",
    ]
    (ids,) = model.continuations(model.collate([data.turn(0).inputs]), 8)
    trainer = RowTrainer()
    trainer.source = SimpleNamespace(  # type: ignore[assignment]
        backbone=model,
        config=Sampling(),
        rows=[StreamRow(0)],
        turn_at=lambda position: ("blue", ("red", "blue")),
    )
    assert trainer.rewards(0, ids) == {"correctness": 1.0, "form": 1.0}
    assert trainer.rewards(0, ids[:-1]) == {"correctness": 1.0, "form": 0.0}  # has not ended
    trainer.source.config = Sampling(format_reward=False)  # type: ignore[misc]
    assert trainer.rewards(0, ids) == {"correctness": 1.0}
