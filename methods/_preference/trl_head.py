"""The language model's head at answer tokens only, in place of TRL's fused head.

TRL 1.16 replaces a model's forward by one that multiplies hidden states with the head's weight
itself, off a Triton device at every position. No module is called, so a meter cannot see it. This
one gives the same numbers and calls the head as a module, at the answers' positions, as the
backbone's own ``fuse`` does.
"""

import functools
import types
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier")


def score_answers(model: Any, temperature: float = 1.0, half: bool = False) -> None:
    """Make ``model(..., labels=labels, fused_lm_head=True)`` score through the head's module.

    ``model`` is a transformers model, not its PEFT wrapper. A model that rescales its logits keeps
    TRL's head, which knows how. ``half`` runs it under bfloat16 autocast, a frozen copy too.
    """
    settings = model.config.get_text_config().to_dict()
    if any(settings.get(name) not in (None, 1.0) for name in (*SCALES, "logits_scaling")):
        return
    ordinary = type(model).forward

    @functools.wraps(ordinary)  # generate() reads the signature
    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any
    ) -> Any:
        if not fused_lm_head:
            kwargs |= {} if labels is None else {"labels": labels}
            return ordinary(self, *args, **kwargs)
        total = kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=half):
            states = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
            return scores(states, labels[:, 1:], self.get_output_embeddings(), temperature, total)

    model.forward = types.MethodType(forward, model)


def scores(states: Tensor, labels: Tensor, head: Any, temperature: float, total: Any) -> Any:
    """TRL's output of hidden states [N, L, D] that predict labels [N, L]: zero where ignored."""
    from trl.trainer.utils import FusedCausalLMOutput

    mask = labels != IGNORED
    logits = head(states[mask]).float() / temperature
    wanted = labels[mask]
    likelihood = torch.log_softmax(logits, dim=-1)
    each = likelihood.gather(1, wanted[:, None])[:, 0]

    def placed(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    log_probs = placed(each)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / (mask.sum().clamp(min=1) if total is None else total),
        log_probs=log_probs,
        entropy=placed(-(likelihood.exp() * likelihood).sum(-1)),
        mean_logits=placed(logits.detach().mean(-1)),
        is_top1=placed(logits.argmax(-1) == wanted),
        label_mask=mask,
    )
