"""MBPO on a classifier: the policy is its distribution over classes, an answer is one class.

The start model of a classifier is untrained and knows no prior to be cured of. So the first part of
the budget (``warmup``, half by default) is ordinary joint training; the model after it is the start
policy: it is scored and attacked, and frozen as the reference. Then as on a vision-language model:

- a pair is (label, class predicted on the attacked image), where they differ. Of the filters
  ``grounded`` applies: a class of higher information gain than the label's is dropped. The others
  are about words;
- an online group are ``group`` classes drawn from the policy at ``temperature``, with reward 1
  for the label; every class is well formed, so ``format_reward`` changes nothing;
- both with GRPO's advantages and k3 divergence on the class's log-probability. One update a batch,
  so the ratio to the old policy is 1 and ``clip`` never acts.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.pgd import frozen_weights
from steelyard.harness.training.fit import fit
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._mbpo.mining import (
    affordable,
    attacked,
    candidates,
    information_gain,
    parse_faults,
    until,
)

if TYPE_CHECKING:
    from steelyard.methods.mbpo import Config

REJECTED = "rejected"  # name in Batch.extra of the wrong classes [B]
Values = dict[str, "Tensor | float"]


def train(backbone: Backbone, data: TrainData, meter: Meter, config: "Config", seed: int) -> None:
    """Joint training, then preferences against the model it gave, until the budget is used."""
    if backbone.multi_label:
        raise UserError(
            "MBPO prefers one class to another, and these items carry several: choose data with "
            "one class an item, for example --task food101."
        )

    def ordinary(batch: Batch) -> tuple[Tensor, Values]:
        return backbone.loss(backbone.predict(batch), batch).mean(), {}

    fit(backbone, data, meter, ordinary, seed=seed, stage="warmup", until=config.warmup)
    frozen_copy = copy.deepcopy(cast(nn.Module, backbone)).eval().requires_grad_(False)
    reference = cast(Backbone, frozen_copy)
    draw = torch.Generator().manual_seed(seed_for(seed, "mbpo", "answers"))

    def online(batch: Batch) -> tuple[Tensor, Values]:
        logits = backbone.predict(batch)
        answers = sampled(logits, config.group, config.temperature, draw)
        right = (answers == batch.targets[:, None]).float()
        loss = objective(logits, answers, group_advantages(right), frozen_logits(batch), config)
        flat = (right.amax(1) == right.amin(1)).float().mean()
        return loss, {"loss_online": loss.detach(), "flat_groups": flat}

    def offline(batch: Batch) -> tuple[Tensor, Values]:
        logits = backbone.predict(batch)
        answers = torch.stack([batch.targets, batch.extra[REJECTED]], dim=1)
        signs = group_advantages(torch.tensor([[2.0, 0.0]], device=logits.device))
        advantages = config.offline_weight * signs.expand(len(logits), -1)
        loss = objective(logits, answers, advantages, frozen_logits(batch), config)
        right, wrong = logits.log_softmax(1).gather(1, answers).mean(0)
        loss = loss - config.nll_anchor * right
        margin = (right - wrong).detach()
        return loss, {"loss_offline": loss.detach(), "margin": margin}

    def frozen_logits(batch: Batch) -> Tensor | None:
        if not config.beta:
            return None
        with torch.no_grad(), meter.phase("reference"):
            return reference.predict(batch)

    if config.stream == "online":
        fit(backbone, data, meter, online, seed=seed, stage="preference")
        return
    pairs = mine(backbone, data, meter, config, seed)
    if config.stream == "offline":
        fit(backbone, pairs, meter, offline, seed=seed, stage="preference")
        return
    stored = pairs.batches(backbone.recipe.batch_size, seed, "pairs")
    fit(backbone, data, meter, mixed(online, offline, stored, config.mix), seed=seed, stage="both")


Step = Callable[[Batch], tuple[Tensor, Values]]


def mixed(online: Step, offline: Step, stored: Iterator[Batch], mix: float) -> Step:
    """A step that takes the share ``mix`` of its batches from the stored pairs, evenly spread."""
    taken = [0]

    def step(batch: Batch) -> tuple[Tensor, Values]:
        taken[0] += 1
        if int(taken[0] * mix) > int((taken[0] - 1) * mix):
            return offline(next(stored))
        return online(batch)

    return step


def sampled(logits: Tensor, group: int, temperature: float, draw: torch.Generator) -> Tensor:
    """``group`` classes a row drawn from the policy [B, C]: [B, G]."""
    probabilities = (logits.detach() / temperature).softmax(dim=1).float().cpu()
    drawn = torch.multinomial(probabilities, group, replacement=True, generator=draw)
    return drawn.to(logits.device)


def group_advantages(rewards: Tensor) -> Tensor:
    """GRPO's advantages of rewards [B, G] within each row; zero where all are equal."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + 1e-4)


def objective(
    logits: Tensor,
    answers: Tensor,
    advantages: Tensor,
    reference: Tensor | None,
    config: "Config",
) -> Tensor:
    """GRPO's loss for classes ``answers`` [B, K] with advantages [B, K]; scalar.

    Logits [B, C] of the policy and of the frozen start, or None to leave the divergence out.
    """
    scores = logits.log_softmax(dim=1).gather(1, answers)
    loss = -((scores - scores.detach()).exp() * advantages).mean()
    if reference is None:
        return loss
    gap = reference.log_softmax(dim=1).gather(1, answers) - scores
    return loss + config.beta * (gap.exp() - gap - 1).mean()


def mine(
    backbone: Backbone, data: TrainData, meter: Meter, config: "Config", seed: int
) -> TrainData:
    """Items whose attacked image is classified otherwise, the wrong class in ``Batch.extra``.

    Raises:
        UserError: no pair is left.
    """
    drop_grounded = "grounded" in parse_faults(config.filters)
    generator = torch.Generator().manual_seed(seed_for(seed, "mining", "attack"))
    positions: list[int] = []
    rejected: list[int] = []
    grounded = mined = 0
    end = until(meter, config.mine_share)
    with meter.phase("mine"):
        chosen = candidates(backbone, data, meter, config.selection, seed)
        for chunk in affordable(meter, end, chosen, backbone.recipe.batch_size):
            batch = data.gather(chunk)
            wrong = predicted(backbone, batch, config, generator)
            gain = information_gain(backbone, replace(batch, targets=wrong))
            worse = gain < information_gain(backbone, batch)
            usable = (wrong != batch.targets) & (worse | (not drop_grounded))
            mined += len(chunk)
            grounded += int(((wrong != batch.targets) & ~worse).sum())
            positions += [p for p, keep in zip(chunk, usable.tolist(), strict=True) if keep]
            rejected += wrong[usable].tolist()
    meter.log(
        {
            "mine_items": float(mined),
            "mine_pairs": float(len(positions)),
            "mine_grounded": grounded / mined,
        }
    )
    if not positions:
        raise UserError(
            f"None of {mined} attacked images is usable: raise epsilon, steps or mine_limit, or "
            "give filters=''."
        )
    return paired(data, positions, rejected)


def predicted(
    backbone: Backbone, batch: Batch, config: "Config", generator: torch.Generator
) -> Tensor:
    """Class [B] of each item under the attack."""
    if config.mining != "no_image":
        pixels = attacked(backbone, batch, config.attack, generator)
        batch = replace(batch, pixels=pixels)
    with frozen_weights(backbone), torch.no_grad():
        latents = backbone.encode(batch)
        if config.mining == "no_image":
            latents = backbone.blank(latents, "image")
        return backbone.fuse(backbone.contribute(latents)).argmax(dim=1)


def paired(data: TrainData, positions: Sequence[int], rejected: Sequence[int]) -> TrainData:
    """Those items of the data as training data of their own, each with its wrong class."""

    def gather(rows: Sequence[int]) -> Batch:
        batch = data.gather([positions[row] for row in rows])
        wrong = torch.tensor([rejected[row] for row in rows], device=batch.targets.device)
        return replace(batch, extra={**batch.extra, REJECTED: wrong})

    examples = tuple(data.examples[position] for position in positions)
    return replace(data, examples=examples, gather=gather, turn=lambda i: data.turn(positions[i]))
