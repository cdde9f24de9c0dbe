"""Wrong answers: random ones, mined ones, dropped ones, and their cost."""

from dataclasses import replace
from typing import Any

import numpy as np
import preference_toy as toy
import pytest
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import negatives
from steelyard.methods._preference.negatives import PairOptions


@pytest.fixture(scope="module")
def backbone() -> Vlm:
    return toy.load(toy.trained_base(), max_answer_tokens=4)


@pytest.fixture(scope="module")
def data(backbone: Vlm) -> TrainData:
    return toy.data(backbone, 32, 3)


def test_random_answers_are_other_choices_and_cover_them(data: TrainData) -> None:
    answers = negatives.random_answers(data, range(32), seed=0)
    for position, answer in enumerate(answers):
        turn = data.turn(position)
        assert answer in turn.choices and answer != turn.answer
    assert len(set(answers)) == 4
    assert answers == negatives.random_answers(data, range(32), seed=0)
    assert answers != negatives.random_answers(data, range(32), seed=1)
    # Not a matter of which others are drawn.
    assert negatives.random_answers(data, [7, 3], seed=0) == [answers[7], answers[3]]


def test_open_questions_take_answers_of_their_subset(data: TrainData) -> None:
    texts = [("a", "x"), ("b", "x"), ("A.", "x"), ("c", "y")]
    examples = tuple(
        Example(str(i), None, "q", (), (answer,), subset=part)
        for i, (answer, part) in enumerate(texts)
    )
    turns = [replace(data.turn(0), answer=answer, choices=()) for answer, _ in texts]
    opened = replace(data, examples=examples, turn=lambda position: turns[position])
    # "A." is the same answer as "a"; "c" is the only answer of subset y.
    assert negatives.random_answers(opened, range(4), 0) in (
        ["b", "a", "b", None],
        ["b", "A.", "b", None],
    )


def with_pairs(data: TrainData, count: int) -> TrainData:
    """Return the data with another choice as the rejected answer of the first ``count`` rows."""
    answers = negatives.random_answers(data, range(len(data)), seed=5)
    pairs = zip(data.examples, answers, strict=True)
    examples = [replace(e, rejected=a if i < count else "") for i, (e, a) in enumerate(pairs)]
    return replace(data, examples=tuple(examples))


def test_pairs_of_the_data_are_used_as_they_are(backbone: Vlm, data: TrainData) -> None:
    own = with_pairs(data, 32)
    meter = toy.metered(backbone, 1e12)
    with meter:
        # The limit is for pairs that are made.
        pairs = negatives.make_pairs(backbone, own, meter, PairOptions("data", max_pairs=4), 0)
    assert sorted(pair.position for pair in pairs) == list(range(32))
    assert all(pair.rejected == own.examples[pair.position].rejected for pair in pairs)
    assert all(pair.chosen == own.turn(pair.position).answer for pair in pairs)
    assert meter.ledger("finished").total_flops == 0


def test_rows_without_a_pair_are_left_out(backbone: Vlm, data: TrainData) -> None:
    with toy.metered(backbone, 1e12) as meter:
        pairs = negatives.make_pairs(
            backbone, with_pairs(data, 12), meter, PairOptions("data"), seed=0
        )
    assert sorted(pair.position for pair in pairs) == list(range(12))


def test_pairs_are_asked_for_and_there(data: TrainData, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="negatives=data: none of 32 training rows has a 'rej"):
        PairOptions("data").check_data(data.examples)
    PairOptions("random_answer").check_data(data.examples)
    PairOptions("data").check_data(with_pairs(data, 5).examples)
    assert capsys.readouterr().out == ""
    PairOptions("no_image").check_data(with_pairs(data, 5).examples)
    printed = " ".join(capsys.readouterr().out.split())
    assert "5 of 32 training rows" in printed and "--set negatives=data" in printed


def test_corrupted_inputs(data: TrainData) -> None:
    inputs = data.turn(0).inputs
    assert inputs.image is not None
    assert negatives.corrupted_inputs(inputs, PairOptions("no_image"), "k").image is None
    blank = negatives.corrupted_inputs(inputs, PairOptions("blank_image"), "k").image
    assert isinstance(blank, Image.Image)
    assert blank.size == inputs.image.size and blank.getcolors() == [(32 * 32, (127, 127, 127))]

    def noise(severity: int, key: str = "k") -> Any:
        image = negatives.corrupted_inputs(inputs, PairOptions("noise_image", severity), key).image
        assert image is not None and inputs.image is not None
        return np.asarray(image, float) - np.asarray(inputs.image, float)

    assert noise(1).std() < noise(5).std()
    assert not np.array_equal(noise(3), noise(3, "other"))
    assert negatives.corrupted_inputs(inputs, PairOptions("no_image"), "k").prompt == inputs.prompt


def test_mined_answers_are_those_of_the_start_model_without_the_image(
    backbone: Vlm, data: TrainData
) -> None:
    meter = toy.metered(backbone, 1e12)
    with meter:
        pairs = negatives.make_pairs(
            backbone, data, meter, PairOptions("no_image", refill=False), seed=0
        )
    for pair in pairs:
        turn = data.turn(pair.position)
        assert pair.chosen == turn.answer != pair.rejected
        blind = replace(turn.inputs, image=None)
        assert backbone.generate([blind], 4) == [pair.rejected]
    counts = meter.diagnostics
    assert counts["pairs"] == len(pairs) > 0
    assert counts["dropped_equal"] > 0
    assert counts["pairs"] + counts["dropped_equal"] + counts["dropped_none"] == 32
    assert list(meter.ledger("finished").flops) == ["mine"]


def test_refilling_keeps_every_example(backbone: Vlm, data: TrainData) -> None:
    meter = toy.metered(backbone, 1e12)
    source = PairOptions("no_image")
    with meter:
        pairs = negatives.make_pairs(backbone, data, meter, source, seed=0)
    assert sorted(pair.position for pair in pairs) == list(range(32))
    assert all(pair.chosen != pair.rejected for pair in pairs)


def test_an_answer_that_did_not_end_is_no_negative(backbone: Vlm, data: TrainData) -> None:
    short = toy.load(toy.trained_base(), max_answer_tokens=1)  # no room for the end token
    meter = toy.metered(short, 1e12)
    with meter, pytest.raises(UserError, match="gave no wrong answer to 32 example"):
        options = PairOptions("blank_image", refill=False)
        negatives.make_pairs(short, data, meter, options, seed=0)
    assert meter.diagnostics["dropped_none"] == 32


def test_the_limit_takes_a_random_part_that_depends_on_the_seed(
    backbone: Vlm, data: TrainData
) -> None:
    def positions(seed: int) -> list[int]:
        meter = toy.metered(backbone, 1e12)
        source = PairOptions("random_answer", max_pairs=5)
        with meter:
            pairs = negatives.make_pairs(backbone, data, meter, source, seed)
        assert meter.spent == 0
        return [pair.position for pair in pairs]

    assert len(positions(0)) == 5
    assert positions(0) == positions(0) != positions(1)


@pytest.mark.parametrize("bad", [{"severity": 0}, {"severity": 6}, {"max_pairs": 0}])
def test_impossible_settings_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(UserError, match="give"):
        PairOptions("noise_image", **bad)  # type: ignore[arg-type]
