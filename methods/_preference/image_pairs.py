"""A DPO trainer that sees a third row of each example: the right answer with a damaged image."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer

Terms = Callable[[Tensor, Tensor, Tensor, Tensor], Mapping[str, Tensor]]


class ImagePairTrainer(DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """``terms`` maps log-ratios [B] of the three rows, and who has an image, to loss terms.

    Batches come from ``_trl_data.image_preference``. The frozen model is TRL's: the copy it was
    given, or under LoRA its second adapter.
    """

    def __init__(self, *, terms: Terms, **rest: Any) -> None:
        self.terms = terms
        super().__init__(**rest)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        seen = inputs.pop("seen")
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        passed = {name: value for name, value in inputs.items() if name != "completion_mask"}
        found = model(**passed, labels=labels, fused_lm_head=True, use_cache=False)
        own = found.log_probs.sum(1)
        start = torch.cat(self.compute_ref_log_probs(self.ref_model or self.model, inputs))
        right, wrong, corrupted = (own - start).chunk(3)
        terms = self.terms(right, wrong, corrupted, seen)
        metrics = self._metrics["train"]
        for name, value in terms.items():
            metrics[name].append(value.item())
        chosen, rejected, _ = own.chunk(3)
        metrics["logps/chosen"].append(chosen.mean().item())
        metrics["logps/rejected"].append(rejected.mean().item())
        metrics["rewards/margins"].append(self.beta * (right - wrong).mean().item())
        metrics["rewards/image_margins"].append(self.beta * (right - corrupted).mean().item())
        return torch.stack(list(terms.values())).sum()
