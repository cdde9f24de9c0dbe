"""Hybrid trainer: stored answers are trained on unchanged; streams keep their rewards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import preference_toy as toy
import pytest
import torch

from steelyard.harness.models.vlm import Vlm
from steelyard.methods import mbpo
from steelyard.methods._mbpo.vlm import HybridTrainer, stored
from steelyard.methods._preference.online import Stream, StreamRow
from steelyard.methods._preference.row_trainer import online_trainer

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
        rows.append(StreamRow(position, stream, good, bad))
    return rows


@contextmanager
def trainer_of(model: Vlm, rows: list[StreamRow], **options: Any) -> Iterator[Any]:
    from trl import GRPOConfig

    with online_trainer(
        HybridTrainer,
        GRPOConfig,
        model,
        toy.data(model, COUNT, seed=4),
        toy.metered(model, 1e12),
        mbpo.Config(**{"group": GROUP, "max_tokens": 4, "beta": 0.0, **options}),
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


def shuffled(output: dict[str, Any]) -> dict[str, Any]:
    """Rows in another order, as TRL shuffles them: pairs are torn apart."""
    order = torch.tensor([5, 0, 3, 2, 7, 4, 1, 6])
    return {
        name: value[order] if isinstance(value, torch.Tensor) and value.dim() else value
        for name, value in output.items()
    }


def test_stored_answers_are_scored_as_a_group_of_two(model: Vlm) -> None:
    rows = rows_of(model, "offline")
    with trainer_of(model, rows, offline_weight=0.5) as trainer:
        inputs = batch_of(trainer)
        output = trainer._generate_and_score_completions(inputs)
        assert trainer.num_generations == GROUP and trainer.prompts == BATCH // 2
    # std of {2, 0} with Bessel's correction is sqrt 2: +-1 / sqrt 2, times the weight
    expected = torch.tensor([0.35353, -0.35353]).repeat(BATCH // 2)
    torch.testing.assert_close(output["advantages"], expected, rtol=0, atol=1e-4)
    assert output["chosen"].tolist() == [True, False] * (BATCH // 2)
    triples = zip(inputs, output["completion_ids"], output["completion_mask"], strict=True)
    for position, (row, ids, mask) in enumerate(triples):
        pair = rows[int(row["prompt"])]
        answer = pair.bad if position % 2 else pair.good
        assert ids[mask.bool()].tolist() == list(answer) and answer[-1] == model.prompts.eos_id
    assert "rewards/correctness/mean" in trainer._metrics["train"]
    assert trainer._metrics["train"]["rewards/stored/mean"] == [1.0]


def test_each_stream_has_its_own_rewards(model: Vlm) -> None:
    rows = rows_of(model, "online")
    with trainer_of(model, rows) as trainer:
        torch.manual_seed(0)
        output = trainer._generate_and_score_completions(batch_of(trainer))
        assert trainer.prompts == BATCH // GROUP
    metrics = trainer._metrics["train"]
    assert "chosen" not in output and output["advantages"].shape == (BATCH,)
    assert 0 < metrics["rewards/correctness/mean"][0] <= 1
    assert metrics["rewards/stored/mean"][0] != metrics["rewards/stored/mean"][0]  # NaN: not judged
    assert torch.allclose(
        output["advantages"].view(-1, GROUP).sum(1), torch.zeros(BATCH // GROUP), atol=1e-4
    )


def test_offline_loss_by_hand(model: Vlm) -> None:
    """At ratio one the loss is -mean A, its gradient that of -mean A log pi. The anchor adds the
    negative log-likelihood of the right answers, beta half of the squared log-ratio."""
    rows = rows_of(model, "offline")
    anchor, beta = 0.3, 0.5
    with trainer_of(model, rows, nll_anchor=anchor) as trainer:
        model.eval()
        trainer.model.train()
        mixed = shuffled(trainer._generate_and_score_completions(batch_of(trainer)))
        log_probs = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([mixed["prompt_ids"], mixed["completion_ids"]], 1),
            torch.cat([mixed["prompt_mask"], mixed["completion_mask"]], 1),
            mixed["completion_ids"].shape[1],
        )[0]
        mask = mixed["completion_mask"]
        mean = (log_probs * mask).sum(1) / mask.sum(1)
        right = mean[mixed["chosen"]].mean()
        # As if the right answers had become likelier by 5 nats a token, the wrong ones less likely.
        gap = torch.where(mixed["chosen"], 5.0, -5.0)[:, None]
        mixed["ref_per_token_logps"] = log_probs.detach() - gap
        trainer.beta = beta
        loss = trainer._compute_loss(trainer.model, mixed)
        assert trainer.beta == beta
        (gradient,) = torch.autograd.grad(loss, [model.base.lm_head.weight])
    # mean A is zero, and the divergence of a gap of 5 nats is 12.5
    torch.testing.assert_close(loss, beta * 12.5 - anchor * right, rtol=1e-4, atol=1e-4)
    metrics = trainer._metrics["train"]
    assert metrics["logps/chosen"] == [pytest.approx(right.item())]
    assert metrics["margin"][0] == pytest.approx(
        metrics["logps/chosen"][0] - metrics["logps/rejected"][0]
    )
    assert metrics["kl_offline"] == [pytest.approx(12.5, rel=1e-4)] and "kl" not in metrics
    # It pulls by 5 on each token; k3 would pull the wrong ones up by e^5 - 1 = 147.
    target = (-(mixed["advantages"] - beta * gap[:, 0]) * mean).mean() - anchor * right
    (expected,) = torch.autograd.grad(target, [model.base.lm_head.weight])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_passes_of_a_step_add_up_to_the_step(model: Vlm) -> None:
    """Also if a pass holds no right answer at all."""
    rows = rows_of(model, "offline")
    with trainer_of(model, rows, nll_anchor=0.3) as trainer:
        model.eval()
        trainer.model.train()
        output = trainer._generate_and_score_completions(batch_of(trainer))
        whole = trainer._compute_loss(trainer.model, output)
        trainer.current_gradient_accumulation_steps = 2
        order = torch.arange(BATCH).view(-1, 2).T.flatten()  # right answers, then wrong ones
        halves = [
            {k: v[half] if v.dim() else v for k, v in output.items()} for half in order.chunk(2)
        ]
        parts = [trainer._compute_loss(trainer.model, half) for half in halves]
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-4, atol=1e-5)
    logged = trainer._metrics["train"]
    for name in ("logps/chosen", "logps/rejected", "loss_offline"):
        first, *second = logged[name]
        assert sum(second) / 2 == pytest.approx(first, rel=1e-4)
