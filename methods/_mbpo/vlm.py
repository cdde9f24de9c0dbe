"""MBPO on a vision-language model: answers are rows of tokens, training is GRPO on two streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.methods._mbpo import mining
from steelyard.methods._mbpo.mining import MinedAnswer, Policy
from steelyard.methods._preference import online, trl
from steelyard.methods._preference.online import StreamRow
from steelyard.tasks.answers import normalise, without_reasoning

PAIR = 2  # rows of an offline group: the right and the wrong answer


@dataclass
class VlmPolicy(Policy):
    """Policy over answer tokens."""

    backbone: Vlm

    def __post_init__(self) -> None:
        # Before mining, so that a run that cannot train ends at once.
        online.check_group(self.backbone, self.config.group)
        is_offline = self.config.stream == "offline"
        self.online_rows = [] if is_offline else online.online_rows(self.data)

    def answer_attacked(
        self, positions: Sequence[int], generator: torch.Generator
    ) -> list[MinedAnswer]:
        batch, backbone = self.data.gather(positions), self.backbone
        if self.config.mining == "no_image":
            inputs = [replace(self.data.turn(i).inputs, image=None) for i in positions]
            attacked = backbone.collate(inputs)
        else:
            pixels = mining.attacked_pixels(backbone, batch, self.config, generator)
            attacked = replace(batch, pixels=pixels)
        temperature = self.config.mine_temperature or None  # None is greedy
        wrong = backbone.continuations(attacked, self.config.max_tokens, temperature)
        # Both gains are those of the clean image.
        gains = zip(
            mining.information_gain(backbone, retarget(batch, wrong)).tolist(),
            mining.information_gain(backbone, batch).tolist(),
            strict=True,
        )
        answers, end = [], backbone.eos_id
        rows = zip(positions, answers_of(batch), wrong, gains, strict=True)
        for position, good, bad, gain in rows:
            faults = mining.find_faults(
                normalise(without_reasoning(backbone.decode(bad))),
                normalise(backbone.decode(good)),
                # The end token would bring the ratio of lengths nearer to 1.
                ([token for token in bad if token != end], [t for t in good if t != end]),
                gain,
                finished=end in bad,
            )
            answers.append(MinedAnswer(position, tuple(good), tuple(bad), faults))
        return answers

    def train(self, pairs: Sequence[MinedAnswer]) -> None:
        config, backbone = self.config, self.backbone
        offline = (StreamRow(p.position, True, "offline", p.right, p.wrong) for p in pairs)
        hybrid = partial(HybridTrainer, weight=config.offline_weight, anchor=config.nll_anchor)
        with online.online_trainer(
            hybrid,
            GRPOConfig,
            backbone,
            self.data,
            self.meter,
            config,
            self.seed,
            rows=[*self.online_rows, *offline],
            mix=config.mix,
            rewards=[stored],
            loss_type="grpo",  # the paper's mean over the tokens of each answer
        ) as trainer:
            size = backbone.recipe.batch_size
            # Of the online stream; an offline batch has more.
            trl.run(trainer, backbone, self.meter, prompts=size // config.group, answers=size)


# TRL logs a reward under the name of its function.
def stored(stored_reward: Sequence[float | None], **columns: object) -> list[float | None]:
    """Return the rewards of stored answers; None for sampled ones."""
    return list(stored_reward)


class HybridTrainer(GRPOTrainer):  # type: ignore[misc]
    """``GRPOTrainer`` that reads the answers of offline rows from their columns.

    A batch belongs to one stream (``online.BlockSampler``). An offline batch holds each row twice,
    first with its right answer and then with its mined wrong one. The trainer treats both as
    sampled answers: a group of two with rewards 2 and 0, whose advantages are +-0.7071 (the
    standard deviation has Bessel's correction). Each batch gets one update, so clipping never acts;
    only the divergence from the start model limits how unlikely the wrong answers become.

    ``weight`` is a factor on the advantages of stored pairs, ``anchor`` the weight of the mean
    negative log-likelihood of their right answers.
    """

    num_generations: int

    def __init__(self, *args: Any, weight: float = 1.0, anchor: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._weight, self._anchor = weight, anchor
        self._stored_answers: list[list[int]] | None = None
        self._log_probs = torch.empty(0)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if inputs[0]["stream"] == "online":
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return output
        # The sampler yields each offline row PAIR times in sequence.
        is_right = [position % PAIR == 0 for position in range(len(inputs))]
        rows = [as_sampled(row, right) for row, right in zip(inputs, is_right, strict=True)]
        self._stored_answers = [list(row["answer"]) for row in rows]
        # TRL computes advantages within groups of ``num_generations`` rows.
        group, self.num_generations = self.num_generations, PAIR
        try:
            output = super()._generate_and_score_completions(rows)
        finally:
            self._stored_answers, self.num_generations = None, group
        output["advantages"] = self._weight * output["advantages"]
        # TRL shuffles rows before the loss, and every tensor of this dictionary with them.
        output["chosen"] = torch.tensor(is_right, device=output["advantages"].device)
        return output

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        if self._stored_answers is not None:
            return self._stored_answers, None  # log-probabilities, which only vLLM returns
        return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        log_probs, *rest = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if torch.is_grad_enabled():
            self._log_probs = log_probs  # of the policy: the anchor needs no second pass
        return log_probs, *rest

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        stream = "offline" if "chosen" in inputs else "online"
        if stream == "offline":
            mask, chosen = inputs["completion_mask"], inputs["chosen"]
            means = (self._log_probs * mask).sum(1) / mask.sum(1)
            # Half of a step's rows are right answers, though not of each of its passes.
            right, wrong = (2 * (means * side).mean() for side in (chosen, ~chosen))
            self._note("logps/chosen", right)
            self._note("logps/rejected", wrong)
            self._note("margin", right - wrong)
            # TRL's loss is divided by the number of accumulated batches as well.
            loss = loss - self._anchor * right / self.current_gradient_accumulation_steps
        self._note(f"loss_{stream}", loss * self.current_gradient_accumulation_steps)
        return loss

    def _note(self, name: str, value: Tensor) -> None:
        self._metrics["train"][name].append(value.item())


def as_sampled(row: Mapping[str, Any], right: bool) -> dict[str, Any]:
    """Return an offline row with its right or its wrong answer, and the reward of this answer."""
    answer, reward = (row["good"], 2.0) if right else (row["bad"], 0.0)
    return {**row, "answer": answer, "stored_reward": reward}


def retarget(batch: Batch, answers: Sequence[Sequence[int]]) -> Batch:
    """Return the batch with other answer tokens, right-padded with -100: [B, A]."""
    # A batch of empty answers still needs a column.
    width = max(1, *(len(answer) for answer in answers))
    rows = [[*answer, *[-100] * (width - len(answer))] for answer in answers]
    targets = torch.tensor(rows, dtype=torch.int64, device=batch.targets.device)
    return replace(batch, targets=targets)


def answers_of(batch: Batch) -> list[list[int]]:
    """Return the answer tokens of each row, without padding."""
    return [[token for token in row if token >= 0] for row in batch.targets.tolist()]
