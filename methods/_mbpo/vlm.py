"""MBPO on a vision-language model: answers are rows of tokens, training is GRPO on two streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.generation import continuations
from steelyard.methods._mbpo import mining
from steelyard.methods._mbpo.mining import MinedAnswer, Policy
from steelyard.methods._preference import balance, online, trl
from steelyard.methods._preference.online import PAIR, StreamRow
from steelyard.methods._preference.row_trainer import Answer, RowTrainer, online_trainer
from steelyard.methods._shared.divergences import half_square
from steelyard.tasks.answers import normalise, without_reasoning

if TYPE_CHECKING:
    from steelyard.methods.mbpo import Config


@dataclass
class VlmPolicy(Policy):
    """Policy over answer tokens."""

    backbone: Vlm

    def __post_init__(self) -> None:
        # Before mining, so that a run that cannot train ends at once.
        self.config.check_batch(self.backbone.recipe.batch_size)
        is_offline = self.config.stream == "offline"
        self.online_rows = [] if is_offline else online.online_rows(self.data)

    @property
    def pairs_per_step(self) -> int:
        return self.backbone.recipe.batch_size // PAIR

    def balance(self, answers: Sequence[MinedAnswer], kept: Sequence[int]) -> Sequence[int]:
        """Log pairs by question type and right answer, and drop those that filters favour."""
        strata = balance.strata(self.data, [answer.position for answer in answers])
        kept = balance.thin(strata, kept)
        hint = "Raise mine_limit, or name fewer filters."
        balance.check(self.meter, strata, [strata[index] for index in kept], hint)
        return kept

    def answer_attacked(
        self, positions: Sequence[int], generator: torch.Generator, steps: int
    ) -> list[MinedAnswer]:
        batch, backbone = self.data.gather(positions), self.backbone
        if self.config.mining == "no_image":
            inputs = [replace(self.data.turn(i).inputs, image=None) for i in positions]
            attacked = backbone.collate(inputs)
        else:
            config = replace(self.config, steps=steps)
            pixels = mining.attacked_pixels(backbone, batch, config, generator)
            attacked = replace(batch, pixels=pixels)
        temperature = self.config.mine_temperature or None  # None is greedy
        longest = self.config.mine_max_tokens or backbone.config.max_answer_tokens
        if "length" in mining.parse_faults(self.config.filters):
            # A longer answer has a fault; the end token is one more.
            longest = min(longest, 2 * max(map(len, answers_of(batch))) + 1)
        wrong = continuations(backbone, self.meter, attacked, longest, temperature)
        # Both gains are those of the clean image.
        gains = zip(
            mining.information_gain(backbone, retarget(batch, wrong)).tolist(),
            mining.information_gain(backbone, batch).tolist(),
            strict=True,
        )
        answers, ends = [], backbone.eos_ids
        rows = zip(positions, answers_of(batch), wrong, gains, strict=True)
        for position, good, bad, gain in rows:
            faults = mining.find_faults(
                normalise(without_reasoning(backbone.decode(bad))),
                normalise(backbone.decode(good)),
                # The end token would bring the ratio of lengths nearer to 1.
                ([t for t in bad if t not in ends], [t for t in good if t not in ends]),
                gain,
                finished=bad[-1] in ends,
            )
            answers.append(MinedAnswer(position, tuple(good), tuple(bad), faults))
        return answers

    def train(self, pairs: Sequence[MinedAnswer]) -> None:
        config, backbone = self.config, self.backbone
        offline = (StreamRow(p.position, "offline", p.right, p.wrong) for p in pairs)
        with online_trainer(
            HybridTrainer,
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
            answers = backbone.recipe.batch_size
            trl.run(trainer, backbone, self.meter, prompts=lambda: trainer.prompts, answers=answers)


def stored(answer: Answer) -> float:
    """Return the reward of a stored answer; TRL logs it under the name of this function."""
    return answer.rewards["stored"]


class HybridTrainer(RowTrainer, GRPOTrainer):  # type: ignore[misc]
    """``GRPOTrainer`` whose offline rows bring their answers along.

    A batch belongs to one stream (``online.BlockSampler``). An offline batch holds each row twice,
    first with its right answer and then with its mined wrong one: a group of two with rewards 2 and
    0, whose advantages are +-0.7071 (the standard deviation has Bessel's correction). Each batch
    gets one update, so clipping never acts; only the divergence from the start model limits how
    unlikely the wrong answers become. For answers that the policy did not sample it is half of the
    squared log-ratio, whose pull grows with the gap, where that of k3 grows with its exponential.
    """

    beta: float
    _log_probs = torch.empty(0)

    @property
    def config(self) -> "Config":
        return cast("Config", self.source.config)

    def answers_to(self, rows: Sequence[int]) -> list[Answer]:
        if not self._is_offline(rows[0]):
            return super().answers_to(rows)
        pairs = [(row, self.source.rows[row]) for row in rows[::PAIR]]
        return [
            Answer(row, tokens, {"stored": reward})
            for row, pair in pairs
            for tokens, reward in ((pair.good, 2.0), (pair.bad, 0.0))
        ]

    def _is_offline(self, row: int) -> bool:
        return self.source.rows[row].stream == "offline"

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._is_offline(int(inputs[0]["prompt"])):
            return super()._generate_and_score_completions(inputs)
        # TRL computes advantages within groups of ``num_generations`` rows.
        group, self.num_generations = self.num_generations, PAIR
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.num_generations = group
        output["advantages"] = self.config.offline_weight * output["advantages"]
        # TRL shuffles rows before the loss, and every tensor of this dictionary with them.
        is_right = [position % PAIR == 0 for position in range(len(inputs))]
        output["chosen"] = torch.tensor(is_right, device=output["advantages"].device)
        return output

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        log_probs, *rest = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if torch.is_grad_enabled():
            self._log_probs = log_probs  # of the policy: the terms below need no second pass
        return log_probs, *rest

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        beta, passes = self.beta, self.current_gradient_accumulation_steps
        if "chosen" not in inputs:
            loss: Tensor = super()._compute_loss(model, inputs)
            if beta:
                self.note("kl_online", self._metrics["train"].pop("kl")[-1])
            self.note("loss_online", passes * loss.item())
            return loss
        self.beta = 0.0  # leaves out TRL's k3
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        # TRL's loss is divided by the number of passes as well.
        loss = loss + self._offline_terms(inputs, beta) / passes
        self.note("loss_offline", passes * loss.item())
        return loss

    def _offline_terms(self, inputs: Mapping[str, Any], beta: float) -> Tensor:
        """Return the divergence and the anchor of stored answers; log their likelihood."""
        mask: Tensor = inputs["completion_mask"]
        chosen: Tensor = inputs["chosen"]

        def means(values: Tensor) -> Tensor:
            return (values * mask).sum(1) / mask.sum(1)

        # Half of a step's rows are right answers, though not of each of its passes.
        right, wrong = (2 * (means(self._log_probs) * rows).mean() for rows in (chosen, ~chosen))
        self.note("logps/chosen", right.item())
        self.note("logps/rejected", wrong.item())
        self.note("margin", (right - wrong).item())
        loss: Tensor = -self.config.nll_anchor * right
        if beta:
            divergence = means(half_square(self._log_probs - inputs["ref_per_token_logps"])).mean()
            self.note("kl_offline", divergence.item())
            loss = loss + beta * divergence
        return loss


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
