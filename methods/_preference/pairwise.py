"""Training on pairs of answers with TRL's ``DPOTrainer`` and trainers of the same kind."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import preflight, trl, trl_data
from steelyard.methods._preference.negatives import PairOptions, make_pairs


def train_on_pairs(
    backbone: Vlm,
    data: TrainData,
    meter: Meter,
    seed: int,
    options: PairOptions,
    *,
    trainer_class: Callable[..., Any] = DPOTrainer,
    config_class: type[Any] = DPOConfig,
    collator: Callable[..., trl_data.Collator] = trl_data.preference,
    rows_per_pair: int = 1,
    stage: str = "pairs",
    **settings: Any,
) -> None:
    """Make pairs with the start model, then train on them until the budget is spent.

    ``collator`` takes the backbone, the pairs and the prompts. ``settings`` are further arguments
    of ``config_class``, such as beta, loss_type and loss_weights.
    """
    pairs = make_pairs(backbone, data, meter, options, seed)
    prompts = trl_data.prompts_of(backbone, data)
    preflight.check(backbone, data, prompts, pairs)
    rows = rows_per_pair * len(pairs)
    size = trl_data.batch_size(backbone, rows, least=rows_per_pair)
    collate = collator(backbone, pairs, prompts)
    settings |= {"rows": rows, "size": size, "stage": stage, "beta": options.beta}
    trl.train_on_rows(trainer_class, config_class, backbone, meter, seed, collate, **settings)


class ImagePairTrainer(DPOTrainer):  # type: ignore[misc]
    """``DPOTrainer`` with a third row per example: the right answer with a corrupted image.

    ``terms`` returns the weighted loss terms from the log-ratios [B] of the three rows and from
    ``has_image`` [B]. The start model is TRL's: the copy passed to it, or under LoRA its second
    adapter.
    """

    def __init__(
        self,
        *,
        terms: Callable[[Tensor, Tensor, Tensor, Tensor], Mapping[str, Tensor]],
        **kwargs: Any,
    ) -> None:
        self.terms = terms
        super().__init__(**kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        # DPOTrainer's loss splits a batch into two halves; this one splits it into thirds.
        has_image = inputs.pop("has_image")
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, trl_data.IGNORED)
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
