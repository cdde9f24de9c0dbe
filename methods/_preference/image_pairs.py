"""DPO trainer with a third row per example: the right answer with a corrupted image."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer

from steelyard.methods._preference.trl_data import IGNORED

LossTerms = Callable[[Tensor, Tensor, Tensor, Tensor], Mapping[str, Tensor]]
"""Weighted loss terms from the log-ratios [B] of the three rows, and from ``has_image`` [B]."""


class ImagePairTrainer(DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """``DPOTrainer`` with the loss ``terms``, for batches of ``trl_data.image_preference``.

    The start model is TRL's: the copy passed to it, or under LoRA its second adapter.
    """

    def __init__(self, *, terms: LossTerms, **kwargs: Any) -> None:
        self.terms = terms
        super().__init__(**kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        # DPOTrainer's loss splits a batch into two halves; this one splits it into thirds.
        has_image = inputs.pop("has_image")
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
        arguments = {name: value for name, value in inputs.items() if name != "completion_mask"}
        output = model(**arguments, labels=labels, fused_lm_head=True, use_cache=False)
        policy = output.log_probs.sum(1)
        start = torch.cat(self.compute_ref_log_probs(self.ref_model or self.model, inputs))
        right, wrong, corrupted = (policy - start).chunk(3)
        terms = self.terms(right, wrong, corrupted, has_image)
        metrics = self._metrics["train"]
        for name, value in terms.items():
            metrics[name].append(value.item())
        policy_right, policy_wrong, _ = policy.chunk(3)
        metrics["logps/chosen"].append(policy_right.mean().item())
        metrics["logps/rejected"].append(policy_wrong.mean().item())
        metrics["rewards/margins"].append(self.beta * (right - wrong).mean().item())
        metrics["rewards/image_margins"].append(self.beta * (right - corrupted).mean().item())
        return torch.stack(list(terms.values())).sum()
