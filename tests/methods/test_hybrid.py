"""Hybrid trainer: stored answers are trained on unchanged; streams keep their rewards."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import preference_toy as toy
import pytest
import torch

from steelyard.harness.models.vlm import Vlm
from steelyard.methods._mbpo.vlm import HybridTrainer, as_sampled, stored
from steelyard.methods._preference import online
from steelyard.methods._preference.online import Sampling, Stream, StreamRow

GROUP, BATCH = 4, 8
COUNT = 12


@pytest.fixture(scope="module")
def model() -> Vlm:
    return toy.load(toy.trained_base(), batch_size=BATCH)


def rows_of(model: Vlm, stream: Stream) -> list[StreamRow]:
    """Rows of items with their answer and another colour as the wrong one."""
    colours = list(toy.COLOURS)
    rows = []
    for position, item in enumerate(toy.examples(COUNT, seed=4)):
        right = item.answers[0]
        wrong = colours[(colours.index(right) + 1) % len(colours)]
        good, bad = (tuple(model.prompts.answer_ids(answer)) for answer in (right, wrong))
        rows.append(StreamRow(position, True, stream, good, bad))
    return rows


@contextmanager
def trainer_of(model: Vlm, rows: list[StreamRow], **options: float) -> Iterator[Any]:
    from trl import GRPOConfig

    with online.online_trainer(
        partial(HybridTrainer, **options),
        GRPOConfig,
        model,
        toy.data(model, COUNT, seed=4),
        toy.metered(model, 1e12),
        Sampling(GROUP, 1.0, 4, beta=0.0),
        seed=0,
        rows=rows,
        mix=0.5,
        rewards=[stored],
        loss_type="grpo",
    ) as trainer:
        trainer.current_gradient_accumulation_steps = 1  # set by train()
        yield trainer


def batch_of(trainer: Any) -> list[dict[str, Any]]:
    """First batch of the sampler."""
    order = iter(trainer._get_train_sampler())
    return [trainer.train_dataset[next(order)] for _ in range(BATCH)]


def test_stored_answers_are_scored_as_a_group_of_two(model: Vlm) -> None:
    rows = rows_of(model, "offline")
    with trainer_of(model, rows, weight=0.5) as trainer:
        inputs = batch_of(trainer)
        output = trainer._generate_and_score_completions(inputs)
        assert trainer.num_generations == GROUP
    # std of {2, 0} with Bessel's correction is sqrt 2: +-1 / sqrt 2, times the weight
    expected = torch.tensor([0.35353, -0.35353]).repeat(BATCH // 2)
    torch.testing.assert_close(output["advantages"], expected, rtol=0, atol=1e-4)
    assert output["chosen"].tolist() == [True, False] * (BATCH // 2)
    triples = zip(inputs, output["completion_ids"], output["completion_mask"], strict=True)
    for position, (row, ids, mask) in enumerate(triples):
        answer = row["good"] if position % 2 == 0 else row["bad"]
        assert ids[mask.bool()].tolist() == list(answer) and answer[-1] == model.eos_id
    assert "rewards/correctness/mean" in trainer._metrics["train"]
    assert trainer._metrics["train"]["rewards/stored/mean"] == [1.0]


def test_each_stream_has_its_own_rewards(model: Vlm) -> None:
    rows = rows_of(model, "online")
    with trainer_of(model, rows) as trainer:
        torch.manual_seed(0)
        output = trainer._generate_and_score_completions(batch_of(trainer))
    metrics = trainer._metrics["train"]
    assert "chosen" not in output and output["advantages"].shape == (BATCH,)
    assert 0 < metrics["rewards/correctness/mean"][0] <= 1
    assert metrics["rewards/stored/mean"][0] != metrics["rewards/stored/mean"][0]  # NaN: not judged
    assert torch.allclose(
        output["advantages"].view(-1, GROUP).sum(1), torch.zeros(BATCH // GROUP), atol=1e-4
    )


def test_offline_loss_by_hand(model: Vlm) -> None:
    """At ratio one the loss is -mean A, its gradient that of -mean A log pi, and the anchor adds
    the negative log-likelihood of the right answers."""
    rows = rows_of(model, "offline")
    anchor = 0.3
    with trainer_of(model, rows, anchor=anchor) as trainer:
        model.eval()
        trainer.model.train()
        output = trainer._generate_and_score_completions(batch_of(trainer))
        order = torch.tensor([5, 0, 3, 2, 7, 4, 1, 6])  # TRL shuffles rows; pairs are torn apart
        mixed = {
            name: value[order] if isinstance(value, torch.Tensor) and value.dim() else value
            for name, value in output.items()
        }
        mixed["num_images"] = [output["num_images"][row] for row in order.tolist()]
        loss = trainer._compute_loss(trainer.model, mixed)
        (gradient,) = torch.autograd.grad(loss, [model.base.lm_head.weight])
        log_probs = trainer._log_probs  # [B, A]
        mask = mixed["completion_mask"]
        mean = (log_probs * mask).sum(1) / mask.sum(1)
        right = mean[mixed["chosen"]].mean()
        by_hand = -(mixed["advantages"] * mean).mean() - anchor * right
    torch.testing.assert_close(loss, -anchor * right, rtol=1e-4, atol=1e-5)  # mean A is zero
    metrics = trainer._metrics["train"]
    assert metrics["logps/chosen"] == [pytest.approx(right.item())]
    assert metrics["margin"][0] == pytest.approx(
        metrics["logps/chosen"][0] - metrics["logps/rejected"][0]
    )
    with trainer_of(model, rows, anchor=anchor) as trainer:
        again = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([mixed["prompt_ids"], mixed["completion_ids"]], 1),
            torch.cat([mixed["prompt_mask"], mixed["completion_mask"]], 1),
            mixed["completion_ids"].shape[1],
            pixel_values=mixed["pixel_values"],
            num_images=mixed["num_images"],
        )[0]
        torch.testing.assert_close(again, log_probs)
        mean = (again * mask).sum(1) / mask.sum(1)
        target = -(mixed["advantages"] * mean).mean() - anchor * mean[mixed["chosen"]].mean()
        (expected,) = torch.autograd.grad(target, [model.base.lm_head.weight])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(by_hand, target)


def test_as_sampled_keeps_the_row() -> None:
    row = {"row": 3, "good": (1, 2), "bad": (4, 2), "solution": None}
    assert as_sampled(row, True) == {**row, "answer": (1, 2), "stored_reward": 2.0}
    assert as_sampled(row, False) == {**row, "answer": (4, 2), "stored_reward": 0.0}
    assert stored(stored_reward=[2.0, None], solution=["x", "y"]) == [2.0, None]


def test_no_column_is_taken_for_a_conversation(model: Vlm) -> None:
    """TRL judges by one of these names, picked by hash order."""
    rows = rows_of(model, "offline")
    columns = online.dataset(model, toy.data(model, COUNT, seed=4), rows)[0]
    assert {"prompt", "chosen", "rejected", "completion", "messages"} & set(columns) == {"prompt"}
    assert columns["row"] == 0 and columns["solution"] is None
