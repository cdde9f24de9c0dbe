"""Rewards of sampled answers: right or wrong, well formed or not, and none for other streams."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scripted_vlm
import torch
import vlm_toys

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.examples import Example
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.records.budget import Budget
from steelyard.methods._preference.negatives import PairOptions, mined_answers
from steelyard.methods._preference.online import (
    BlockSampler,
    correctness,
    formatting,
    verifiable,
    watch,
    well_formed,
)

END = 2


def completions_of(*answers: str) -> list[Any]:
    """Completions in TRL's format."""
    return [[{"role": "assistant", "content": answer}] for answer in answers]


def test_correctness_ignores_case_articles_and_stops() -> None:
    rewards = correctness(
        completions=completions_of("Red.", "blue", "red blue", "", "a banana"),
        solution=["red", "red", "red", "red", "banana"],
        trainer_state=None,
    )
    assert rewards == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_rewards_leave_other_streams_alone() -> None:
    assert correctness(completions=completions_of("red", "red"), solution=[None, "red"]) == [
        None,
        1.0,
    ]
    form = formatting([END])
    rewards = form(
        completions=completions_of("red", "red"),
        completion_ids=[[7, END], [7, END]],
        solution=[None, "red"],
        choices=[(), ()],
    )
    assert rewards == [None, 1.0]


def test_form_needs_the_end_token() -> None:
    form = formatting([END, 9])
    rewards = form(
        completions=completions_of("red", "red", "red", ""),
        completion_ids=[[7, END], [7, 9], [7], []],
        solution=["red"] * 4,
        choices=[("red",)] * 4,
    )
    assert rewards == [1.0, 1.0, 0.0, 0.0]


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
    assert well_formed(answer, choices, finished=True) is good


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
    assert mined_answers(model, data, [0, 1], options) == ["blue", "blue"]
    (ids,) = model.continuations(model.collate([data.turn(0).inputs]), 8)
    trainer = SimpleNamespace(
        num_generations=1,
        _metrics={"train": defaultdict(list)},
        _generate_single_turn=None,
        _calculate_rewards=lambda inputs, prompts, completions, ids: (
            torch.tensor(
                [correctness(completions, ["blue"]), form(completions, [ids[0]], ["blue"], [()])]
            ).T
        ),
    )
    form = formatting([model.eos_id])
    watch(
        trainer, model, Meter(Budget("test", 1.0), "cpu"), BlockSampler([], 1, 0), skip_flat=False
    )
    rewards = trainer._calculate_rewards([{"stream": "online"}], [""], completions_of("red"), [ids])
    assert rewards.tolist() == [[1.0, 1.0]]
