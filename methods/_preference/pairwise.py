"""Training on pairs of answers with TRL's ``DPOTrainer`` and trainers of the same kind."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import trl, trl_data
from steelyard.methods._preference.negatives import PairOptions, make_pairs

PAIR = ("ref_chosen_logps", "ref_rejected_logps")
"""Names by which ``DPOTrainer`` reads the start model's log-probabilities."""
CORRUPTED = "ref_corrupted_logps"


def train_on_pairs(
    backbone: Vlm,
    data: TrainData,
    meter: Meter,
    config: PairOptions,
    seed: int,
    *,
    trainer_class: Callable[..., Any] = DPOTrainer,
    config_class: type[Any] = DPOConfig,
    collator: trl.CollatorOf = trl_data.preference,
    losses: Mapping[str, float] | None = None,
    **settings: Any,
) -> None:
    """Make pairs with the start model, then train on them until the budget is spent.

    ``losses`` are TRL's names of losses, with weights; a weight of 0 leaves one out. ``settings``
    go to ``trl.train_on_rows``.
    """
    settings["pairs"] = make_pairs(backbone, data, meter, config, seed)
    settings["beta"] = config.beta
    settings.setdefault("answers_per_row", 2)
    settings.setdefault("reference", PAIR)
    if losses:
        losses = {name: weight for name, weight in losses.items() if weight}
        settings |= {"loss_type": list(losses), "loss_weights": list(losses.values())}
    classes = (trainer_class, config_class)
    trl.train_on_rows(*classes, backbone, data, meter, seed, collator, **settings)


class ImagePairTrainer(DPOTrainer):  # type: ignore[misc]
    """``DPOTrainer`` with a third row per example: the right answer with a corrupted image.

    ``terms`` returns the weighted loss terms from the log-ratios [B] of the three rows and from
    ``has_image`` [B]. Without third rows, the third log-ratio is the first.
    """

    def __init__(self, *, terms: Callable[..., Mapping[str, Tensor]], **kwargs: Any) -> None:
        self.terms = terms
        super().__init__(**kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        names = [name for name in (*PAIR, CORRUPTED) if name in inputs]
        start = torch.cat([inputs.pop(name) for name in names])
        has_image = inputs.pop("has_image", torch.zeros((), device=start.device))
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, trl_data.IGNORED)
        arguments = {name: value for name, value in inputs.items() if name != "completion_mask"}
        output = model(**arguments, labels=labels, fused_lm_head=True, use_cache=False)
        policy = output.log_probs.sum(1)
        right, wrong, *rest = (policy - start).chunk(len(names))
        corrupted = rest[0] if rest else right
        terms = self.terms(right, wrong, corrupted, has_image)
        metrics = self._metrics["train"]
        for name, value in terms.items():
            metrics[name].append(value.item())
        policy_right, policy_wrong, *_ = policy.chunk(len(names))
        # TRL's names, by which ``callbacks.check_step`` finds a batch without answer tokens.
        metrics["logps/chosen"].append(policy_right.mean().item())
        metrics["logps/rejected"].append(policy_wrong.mean().item())
        metrics["rewards/margins"].append(self.beta * (right - wrong).mean().item())
        metrics["rewards/image_margins"].append(self.beta * (right - corrupted).mean().item())
        return torch.stack(list(terms.values())).sum()
