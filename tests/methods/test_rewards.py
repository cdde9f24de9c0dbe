"""Rewards of sampled answers: right or wrong, well formed or not, and none for other streams."""

from typing import Any

import pytest

from steelyard.harness.core.examples import Example
from steelyard.methods._preference.online import correctness, formatting, verifiable, well_formed

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
