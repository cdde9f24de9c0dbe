"""Advantages and losses of the online trainers against their equations, by hand."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import preference_toy as toy
import pytest
import torch
from torch import Tensor

from steelyard.harness.models.vlm import Vlm
from steelyard.methods import grpo, rloo
from steelyard.methods._preference.row_trainer import Answer, RowTrainer, online_trainer
from steelyard.methods._preference.trl import score_answers

# Two questions with four answers each: rewards, and lengths in tokens.
REWARDS = torch.tensor([[2.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
LENGTHS = (1, 2, 3, 2, 4, 1, 2, 1)
MOST = 5  # max_tokens
BETA, GAP = 0.5, 0.3


@pytest.fixture(scope="module")
def model() -> Vlm:
    backbone = toy.load(toy.trained_base(), batch_size=8)
    backbone.eval()
    return backbone


@contextmanager
def scripted(
    model: Vlm, base: Any, config_class: Any, config: Any, **settings: Any
) -> Iterator[Any]:
    """Open a trainer whose sampled answers and rewards are those above."""

    class Scripted(RowTrainer, base):  # type: ignore[misc]
        def answers_to(self, rows: Sequence[int]) -> list[Answer]:
            columns = zip(rows, LENGTHS, REWARDS.flatten().tolist(), strict=True)
            return [
                Answer(row, tuple(range(10, 10 + length)), {"correctness": reward})
                for row, length, reward in columns
            ]

    data, meter = toy.data(model, 8, seed=4), toy.metered(model, 1e12)
    parts = (Scripted, config_class, model, data, meter, config, 0)
    with online_trainer(*parts, **settings) as trainer:
        trainer.current_gradient_accumulation_steps = 1  # set by train()
        score_answers(model.base)
        score_answers(trainer.ref_model)
        trainer.model.train()
        yield trainer


def scored(trainer: Any) -> dict[str, Any]:
    """Answers of the first batch with their advantages."""
    order = iter(trainer._get_train_sampler())
    output: dict[str, Any] = trainer._generate_and_score_completions(
        [trainer.train_dataset[next(order)] for _ in range(8)]
    )
    return output


def log_probs(trainer: Any, model: Any, output: dict[str, Any]) -> Tensor:
    """Log-probability of each token of an answer: [N, A]."""
    result: Tensor = trainer._get_per_token_logps_and_entropies(
        model,
        torch.cat([output["prompt_ids"], output["completion_ids"]], 1),
        torch.cat([output["prompt_mask"], output["completion_mask"]], 1),
        output["completion_ids"].shape[1],
    )[0]
    return result


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_grpo(model: Vlm, loss_type: Literal["grpo", "dr_grpo", "dapo"]) -> None:
    """A = (r - mean) / (std + 1e-4); each token's loss is -A + beta k3, averaged by the type."""
    from trl import GRPOConfig, GRPOTrainer

    config = grpo.Config(group=4, max_tokens=MOST, beta=BETA)
    with scripted(
        model,
        GRPOTrainer,
        GRPOConfig,
        config,
        loss_type=loss_type,
    ) as trainer:
        output = scored(trainer)
        values = log_probs(trainer, trainer.model, output)
        # The reference is the start, so its divergence is zero; pretend that it differs.
        output["ref_per_token_logps"] = values.detach() + GAP
        loss = trainer._compute_loss(trainer.model, output)
        (gradient,) = torch.autograd.grad(loss, [model.base.lm_head.weight], retain_graph=True)
        # Rewards 2 1 1 0: mean 1, variance 2/3. Rewards 1 0 0 0: mean 1/4, variance 1/4.
        first = 1 / (math.sqrt(2 / 3) + 1e-4)
        second = 0.25 / (0.5 + 1e-4)
        by_hand = torch.tensor([first, 0, 0, -first, 3 * second, -second, -second, -second])
        torch.testing.assert_close(output["advantages"], by_hand, rtol=1e-4, atol=1e-6)
        mask, lengths = output["completion_mask"], torch.tensor(LENGTHS)
        assert mask.sum(1).tolist() == list(LENGTHS)
        weights = {
            "grpo": 1 / (8 * lengths),  # mean of means
            "dr_grpo": torch.full((8,), 1 / (8 * MOST)),  # by the longest possible answer
            "dapo": torch.full((8,), 1 / sum(LENGTHS)),  # mean over all tokens
        }[loss_type]
        k3 = math.exp(GAP) - GAP - 1
        value = (weights * lengths * (-by_hand + BETA * k3)).sum()
        torch.testing.assert_close(loss, value, rtol=1e-4, atol=1e-6)
        # d k3 / d log pi = 1 - e^gap
        pull = weights * (-by_hand + BETA * (1 - math.exp(GAP)))
        target = (pull[:, None] * mask * values).sum()
        (expected,) = torch.autograd.grad(target, [model.base.lm_head.weight])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_rloo(model: Vlm) -> None:
    """R = r - beta log(pi / ref) of complete answers; A = R - mean of the others' R."""
    from trl import RLOOConfig, RLOOTrainer

    config = rloo.Config(group=4, max_tokens=MOST, beta=BETA)
    with scripted(model, RLOOTrainer, RLOOConfig, config) as trainer:
        with torch.no_grad():
            trainer.ref_model.lm_head.weight.mul_(0.5)
        output = scored(trainer)
        values = log_probs(trainer, trainer.model, output)
        reference = log_probs(trainer, trainer.ref_model, output)
        mask = output["completion_mask"]
        divergence = ((values - reference) * mask).sum(1).detach()
        assert float(divergence.abs().min()) > 0.1
        returns = REWARDS - BETA * divergence.view(2, 4)
        rows = [
            [group[i] - sum(group[j] for j in range(4) if j != i) / 3 for i in range(4)]
            for group in returns.tolist()
        ]
        by_hand = torch.tensor(rows).flatten()
        torch.testing.assert_close(output["advantages"], by_hand, rtol=1e-4, atol=1e-4)
        loss = trainer._compute_loss(trainer.model, output)
        torch.testing.assert_close(loss, -by_hand.mean(), rtol=1e-4, atol=1e-5)  # at ratio 1
        (gradient,) = torch.autograd.grad(loss, [model.base.lm_head.weight], retain_graph=True)
        target = -(by_hand * (values * mask).sum(1)).mean()
        (expected,) = torch.autograd.grad(target, [model.base.lm_head.weight])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
