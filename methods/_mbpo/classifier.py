"""MBPO on a classifier: the policy is its distribution over classes, an answer is one class.

A new classifier is untrained and has no prior to correct. So the first part of the budget
(``warmup``, half by default) is ordinary joint training. The model after it is the start policy: it
is scored and attacked, and a frozen copy of it is the reference. Then, as on a vision-language
model:

- A pair is the label and the class predicted on the attacked image, if they differ. The filter
  ``grounded`` drops a class whose information gain is at least the label's; the other filters are
  about words.
- An online group consists of ``group`` classes drawn from the policy at ``temperature``, with
  reward 1 for the label. Every class is well formed, so ``format_reward`` has no effect.
- Both streams use GRPO's advantages on the log-probability of the class, and its k3 divergence for
  sampled classes; for stored ones half of the squared log-ratio. Each batch gets one update, so the
  ratio to the old policy is 1 and ``clip`` never acts.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.pgd import frozen_weights
from steelyard.harness.training.fit import StepResult, TrainStep, fit
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._mbpo.mining import (
    Fault,
    MinedAnswer,
    Policy,
    attacked_pixels,
    information_gain,
)
from steelyard.methods._shared.divergences import half_square
from steelyard.methods._shared.steps import fused_step

REJECTED = "rejected"  # key of the wrong classes [B] in Batch.extra


def warm_up(backbone: Backbone, data: TrainData, meter: Meter, until: float, seed: int) -> None:
    """Train jointly up to this fraction of the budget; refuse items with several classes."""
    if backbone.multi_label:
        raise UserError(
            "MBPO prefers one class to another, but these items have several: choose data with "
            "one class per item, for example --task food101."
        )
    step = fused_step(backbone)
    fit(backbone, data, meter, step, seed=seed, stage="warmup", until=until, state=())


@dataclass
class ClassifierPolicy(Policy):
    """Policy over classes; its reference is a frozen copy of the model it is given."""

    # The two advantages of a pair of equal classes would cancel.
    required_filters: ClassVar[frozenset[Fault]] = frozenset(("same",))
    logged_faults: ClassVar[tuple[Fault, ...]] = ("grounded",)

    def __post_init__(self) -> None:
        # A deep copy keeps the meter's hooks, so passes of the reference are counted.
        frozen_copy = copy.deepcopy(cast(nn.Module, self.backbone)).eval().requires_grad_(False)
        self.reference = cast(Backbone, frozen_copy)
        self.generator = torch.Generator().manual_seed(seed_for(self.seed, "mbpo", "answers"))
        self.state = [frozen_copy, self.generator]

    @property
    def pairs_per_step(self) -> int:
        return self.backbone.recipe.batch_size

    def answer_attacked(
        self, positions: Sequence[int], generator: torch.Generator, steps: int
    ) -> list[MinedAnswer]:
        batch, backbone = self.data.gather(positions), self.backbone
        attacked, is_removed = batch, self.config.mining == "no_image"
        if not is_removed:
            pixels = attacked_pixels(backbone, batch, replace(self.config, steps=steps), generator)
            attacked = replace(batch, pixels=pixels)
        with frozen_weights(backbone), torch.no_grad():
            latents = backbone.encode(attacked)
            latents = backbone.blank(latents, "image") if is_removed else latents
            wrong = backbone.fuse(backbone.contribute(latents)).argmax(dim=1)
        gain = information_gain(backbone, replace(batch, targets=wrong))
        # A gain that is not a number counts as grounded, so its pair is dropped.
        grounded = ~(gain < information_gain(backbone, batch))
        answers = []
        columns = (batch.targets.tolist(), wrong.tolist(), grounded.tolist())
        for position, label, answer, is_grounded in zip(positions, *columns, strict=True):
            faults: tuple[Fault, ...] = ("grounded",) if is_grounded else ()
            # Equal classes have equal gains: count them as ``same`` only.
            faults = ("same",) if answer == label else faults
            answers.append(MinedAnswer(position, (label,), (answer,), faults))
        return answers

    def train(self, pairs: Sequence[MinedAnswer]) -> None:
        backbone, seed, stream = self.backbone, self.seed, self.config.stream
        train = partial(fit, backbone, meter=self.meter, seed=seed)
        if stream == "online":
            train(self.data, step=self.online_step, stage="preference", state=self.state)
            return
        offline = pair_data(self.data, pairs)
        if stream == "offline":
            train(offline, step=self.offline_step, stage="preference", state=self.state)
            return
        # ``fit`` supplies the online batches; pairs have their own order.
        batches = partial(offline.batches, backbone.recipe.batch_size, seed, "pairs")
        step = MixedStep(self.online_step, self.offline_step, batches, self.config.mix)
        train(self.data, step=step, stage="both", state=[*self.state, step])

    def online_step(self, batch: Batch) -> StepResult:
        """Return the loss of sampled classes, and values to log."""
        logits = self.backbone.predict(batch)
        # On the CPU, so that a seed gives the same classes on every device.
        policy = (logits.detach() / self.config.temperature).softmax(dim=1).float().cpu()
        count, generator = self.config.group, self.generator
        classes = torch.multinomial(policy, count, replacement=True, generator=generator)
        answers = classes.to(logits.device)
        rewards = (answers == batch.targets[:, None]).float()
        loss, divergence = self._objective(batch, logits, answers, group_advantages(rewards))
        flat = (rewards.amax(1) == rewards.amin(1)).float().mean()
        return loss, {"loss_online": loss.detach(), "kl_online": divergence, "flat_groups": flat}

    def offline_step(self, batch: Batch) -> StepResult:
        """Return the loss of pairs, and values to log."""
        logits = self.backbone.predict(batch)
        answers = torch.stack([batch.targets, batch.extra[REJECTED]], dim=1)
        # The paper's reward; after division by the spread its size has no effect.
        advantages = group_advantages(torch.tensor([[2.0, 0.0]], device=logits.device))
        advantages = self.config.offline_weight * advantages.expand(len(logits), -1)
        loss, divergence = self._objective(batch, logits, answers, advantages, stored=True)
        right, wrong = logits.log_softmax(1).gather(1, answers).mean(0)
        loss = loss - self.config.nll_anchor * right
        values = {"kl_offline": divergence, "margin": (right - wrong).detach()}
        return loss, {"loss_offline": loss.detach(), **values}

    def _objective(
        self,
        batch: Batch,
        logits: Tensor,
        answers: Tensor,
        advantages: Tensor,
        stored: bool = False,
    ) -> tuple[Tensor, Tensor]:
        reference = None
        if self.config.beta:
            with torch.no_grad(), self.meter.phase("reference"):
                reference = self.reference.predict(batch)
        return objective(logits, answers, advantages, reference, self.config.beta, stored)


def pair_data(data: TrainData, pairs: Sequence[MinedAnswer]) -> TrainData:
    """Return the items of the pairs as training data, with the wrong classes in ``Batch.extra``."""
    positions = [pair.position for pair in pairs]
    rejected = [pair.wrong[0] for pair in pairs]

    def gather(rows: Sequence[int]) -> Batch:
        batch = data.gather([positions[row] for row in rows])
        wrong = torch.tensor([rejected[row] for row in rows], device=batch.targets.device)
        return replace(batch, extra={**batch.extra, REJECTED: wrong})

    examples = tuple(data.examples[position] for position in positions)
    return replace(data, examples=examples, gather=gather, turn=lambda i: data.turn(positions[i]))


class MixedStep:
    """Step that takes the fraction ``mix`` of its batches from the pairs, evenly.

    ``batches`` returns those of the pairs from a given one on.
    """

    def __init__(
        self,
        online: TrainStep,
        offline: TrainStep,
        batches: Callable[[int], Iterator[Batch]],
        mix: float,
    ) -> None:
        self._online, self._offline, self._mix, self._batches = online, offline, mix, batches
        self.load_state_dict({"count": 0})

    def __call__(self, batch: Batch) -> StepResult:
        self._count += 1
        # The rounded product grows at evenly spaced counts.
        if int(self._count * self._mix) > int((self._count - 1) * self._mix):
            return self._offline(next(self._upcoming))
        return self._online(batch)

    def state_dict(self) -> dict[str, int]:
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._count = state["count"]
        self._upcoming = self._batches(int(self._count * self._mix))


def group_advantages(rewards: Tensor) -> Tensor:
    """Return GRPO's advantages of rewards [B, G] within each row; zero if all are equal."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + 1e-4)  # TRL's constant


def objective(
    logits: Tensor,
    answers: Tensor,
    advantages: Tensor,
    reference: Tensor | None,
    beta: float,
    stored: bool,
) -> tuple[Tensor, Tensor]:
    """Return GRPO's loss for classes ``answers`` [B, K] with advantages [B, K], and its divergence.

    ``logits`` [B, C] belong to the policy and ``reference`` [B, C] to the frozen start; None leaves
    the divergence out. ``stored`` classes were not sampled by the policy.
    """
    scores = logits.log_softmax(dim=1).gather(1, answers)
    # The ratio to the old policy: its value is 1, its gradient that of the log-probability.
    loss = -((scores - scores.detach()).exp() * advantages).mean()
    if reference is None:
        return loss, loss.new_zeros(())
    gap = reference.log_softmax(dim=1).gather(1, answers) - scores
    # k3, as in ``grpo``: never negative, and 0 where policy and start agree.
    divergence = (half_square(gap) if stored else gap.exp() - gap - 1).mean()
    return loss + beta * divergence, divergence.detach()
