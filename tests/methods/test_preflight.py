"""Checks before step 1: a mistake is reported with its row and what to do."""

from dataclasses import replace

import preference_toy as toy
import pytest
import torch

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs, Turn
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import preflight
from steelyard.methods._preference.trl_data import AnswerPair, Prompt, prompt_of


@pytest.fixture(scope="module")
def backbone() -> Vlm:
    return toy.load(toy.random_base(), max_answer_tokens=5)


@pytest.fixture(scope="module")
def data(backbone: Vlm) -> TrainData:
    return toy.data(backbone, 6, 0)


def render(backbone: Vlm, inputs: Inputs) -> Prompt:
    return prompt_of(backbone, backbone.collate([inputs]))


def check(backbone: Vlm, data: TrainData, pairs: list[AnswerPair] | None = None) -> None:
    """Check prompts rendered from the questions themselves."""
    preflight.check(backbone, data, lambda at: render(backbone, data.turn(at).inputs), pairs)


def _with(data: TrainData, position: int, **changes: object) -> TrainData:
    def turn(at: int) -> Turn:
        original = data.turn(at)
        if at != position:
            return original
        if "prompt" in changes:
            return replace(
                original, inputs=replace(original.inputs, image=None, prompt=changes["prompt"])
            )
        if "extra" in changes:
            return replace(original, inputs=replace(original.inputs, prompt=changes["extra"]))
        return replace(original, **changes)

    return replace(data, turn=turn)


def test_sound_data_pass(backbone: Vlm, data: TrainData) -> None:
    check(backbone, data)
    check(backbone, data, [AnswerPair(0, "red", "a red cup")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": ""}, "Row 0-3 has an empty answer"),
        ({"answer": " <end> "}, "Row 0-3 has an empty answer"),
        ({"answer": "zebra"}, "Row 0-3: its answer 'zebra' becomes"),
        ({"answer": "a red cup and a blue cup"}, "max_answer_tokens=8"),
    ],
)
def test_each_mistake_names_its_row(
    backbone: Vlm, data: TrainData, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(backbone, _with(data, 3, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "red <end> blue"},
        {"prompt": "what is <image>?"},
        {"extra": "what is <image>?"},
    ],
)
def test_special_tokens_in_the_data_are_no_mistake(
    backbone: Vlm, data: TrainData, changes: dict[str, object]
) -> None:
    check(backbone, _with(data, 3, **changes))


def test_an_end_token_that_is_a_word_is_refused_within_an_answer(
    backbone: Vlm, data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "eos_ids", backbone.prompts.answer_ids("red"))
    with pytest.raises(UserError, match=r"Row 0-3: its answer .* has an end token in the middle"):
        check(backbone, _with(data, 3, answer="red cup"))


def test_the_wrong_answer_of_a_pair_is_checked_too(backbone: Vlm, data: TrainData) -> None:
    with pytest.raises(UserError, match="Row 0-2 has an empty answer"):
        check(backbone, data, [AnswerPair(1, "red", "blue"), AnswerPair(2, "red", "")])


def test_an_image_without_its_tokens_is_refused(backbone: Vlm, data: TrainData) -> None:
    inputs = data.turn(0).inputs
    bare = render(backbone, replace(inputs, image=None))
    with pytest.raises(UserError, match="Row q has an image but its prompt has 0 image tokens"):
        preflight.check_image(backbone, bare, inputs, "q")
    prompt = render(backbone, inputs)
    preflight.check_image(backbone, prompt, inputs, "q")
    assert int((prompt.tokens == backbone.prompts.image_token).sum()) == 16  # 32 / 8 squared


def test_a_prompt_over_the_limit_is_refused(data: TrainData) -> None:
    short = toy.load(toy.random_base(), max_prompt_tokens=20)
    with pytest.raises(UserError, match=r"^Row 0-0: A prompt has .* max_prompt_tokens="):
        check(short, data)


def test_right_padding_is_refused(data: TrainData) -> None:
    model = toy.load(toy.random_base())
    model.processor.tokenizer.padding_side = "right"
    with pytest.raises(UserError, match="pads on the right"):
        check(model, data)


def test_no_data_is_refused(backbone: Vlm, data: TrainData) -> None:
    with pytest.raises(UserError, match="no training example"):
        check(backbone, replace(data, examples=()))


def test_many_rows_are_sampled_evenly() -> None:
    assert preflight.spaced(5, 8) == [0, 1, 2, 3, 4]
    assert preflight.spaced(10, 4) == [0, 2, 5, 7]
    assert len(set(preflight.spaced(5000, 512))) == 512


def test_an_answer_is_what_generation_would_have_said(backbone: Vlm, data: TrainData) -> None:
    batch = data.gather([0])
    spoken = [token for token in batch.targets[0].tolist() if token != -100]
    assert spoken == backbone.prompts.answer_ids(data.turn(0).answer)
    assert spoken[-1] == backbone.prompts.eos_id
    row = render(backbone, data.turn(0).inputs).tokens
    assert torch.equal(row, batch.tokens[0][batch.mask[0].bool()])
