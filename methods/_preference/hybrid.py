"""GRPO on two streams: answers sampled online, and stored pairs whose answers are given.

A batch belongs to one stream (``_online.BlockSampler``). An online batch is GRPO's own. In an
offline batch each row comes twice in a row, first with its right answer and then with the mined
wrong one; both are taken as if they had been sampled and form a group of two with rewards 2 and 0,
whose advantages are +-0.7071 (the standard deviation has Bessel's correction). With one update a
batch the old policy is the policy itself: clipping never acts on these answers, and what holds the
unlikelihood of the wrong ones back is the divergence from the start model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

PAIR = 2
CHOSEN_REWARD, REJECTED_REWARD = 2.0, 0.0


@dataclass(frozen=True, slots=True)
class Offline:
    """What is done with the stored pairs."""

    weight: float = 1.0
    """Factor on their advantages."""
    anchor: float = 0.0
    """Weight of the mean negative log-likelihood of the right answers."""


def stored(judged: Sequence[float | None], **columns: object) -> list[float | None]:
    """The reward of a stored answer; None for a sampled one."""
    return list(judged)


class HybridTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer that takes the answers of offline rows from their columns."""

    num_generations: int

    def __init__(self, *args: Any, offline: Offline, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._offline = offline
        self._forced: list[list[int]] | None = None
        self._scored = torch.empty(0)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if inputs[0]["stream"] == "online":
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return output
        first = [position % PAIR == 0 for position in range(len(inputs))]
        rows = [as_sampled(row, good) for row, good in zip(inputs, first, strict=True)]
        self._forced = [list(row["forced"]) for row in rows]
        group, self.num_generations = self.num_generations, PAIR
        try:
            output = super()._generate_and_score_completions(rows)
        finally:
            self._forced, self.num_generations = None, group
        output["advantages"] = self._offline.weight * output["advantages"]
        output["chosen"] = torch.tensor(first, device=output["advantages"].device)
        return output

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        if self._forced is not None:
            return self._forced, None
        return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if torch.is_grad_enabled():
            self._scored = found[0]  # the policy's own, for the anchor: no second pass
        return found

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        stream = "offline" if "chosen" in inputs else "online"
        if stream == "offline":
            mask = inputs["completion_mask"]
            each = (self._scored * mask).sum(1) / mask.sum(1)
            right, wrong = each[inputs["chosen"]].mean(), each[~inputs["chosen"]].mean()
            self._note("logps/chosen", right)
            self._note("logps/rejected", wrong)
            self._note("margin", right - wrong)
            loss = loss - self._offline.anchor * right / self.current_gradient_accumulation_steps
        self._note(f"loss_{stream}", loss)
        return loss

    def _note(self, name: str, value: Tensor) -> None:
        self._metrics["train"][name].append(value.item())


def as_sampled(row: Mapping[str, Any], good: bool) -> dict[str, Any]:
    """An offline row with one of its two answers and that answer's reward."""
    answer = row["good"] if good else row["bad"]
    return {**row, "forced": answer, "judged": CHOSEN_REWARD if good else REJECTED_REWARD}
