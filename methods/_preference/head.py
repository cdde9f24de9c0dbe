"""Head of a language model in TRL's trainers: log-probabilities at the tokens of answers only."""

import functools
import types
from typing import Any

import torch
from torch import Tensor

from steelyard.methods._preference.trl_data import IGNORED

# Configuration keys of models that rescale or cap their logits.
SCALES = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


def score_answers(model: Any, temperature: float = 1.0) -> None:
    """Make ``model(..., labels=labels, fused_lm_head=True)`` score through the head's module.

    TRL 1.16 replaces a model's forward by one that multiplies hidden states by the head's weight
    itself, without a Triton device at every position. It calls no module, so the meter does not
    count it. The forward here gives the same numbers and calls the head as a module, at the
    positions of answers, as the backbone's ``fuse`` does. A model that rescales its logits keeps
    TRL's head, which applies the scale.

    ``model`` is not the PEFT wrapper. ``temperature`` divides the logits.
    """
    settings = model.config.get_text_config().to_dict()
    if any(settings.get(name) not in (None, 1.0) for name in SCALES):
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
        # The state at one position predicts the label of the next.
        states = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        return scores(states, labels[:, 1:], self.get_output_embeddings(), temperature, total)

    model.forward = types.MethodType(forward, model)


def scores(states: Tensor, labels: Tensor, head: Any, temperature: float, total: Any) -> Any:
    """Return TRL's output for hidden states [N, L, D] that predict labels [N, L].

    Its values are zero at ignored labels. ``total`` divides the loss; None means the mean.
    """
    from trl.trainer.utils import FusedCausalLMOutput

    mask = labels != IGNORED
    # The head has a column per word, so only the positions of answers pass through it.
    logits = head(states[mask]).float() / temperature
    targets = labels[mask]
    log_softmax = torch.log_softmax(logits, dim=-1)
    target_log_probs = log_softmax.gather(1, targets[:, None])[:, 0]

    def scatter(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    log_probs = scatter(target_log_probs)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / (mask.sum().clamp(min=1) if total is None else total),
        log_probs=log_probs,
        entropy=scatter(-(log_softmax.exp() * log_softmax).sum(-1)),
        mean_logits=scatter(logits.detach().mean(-1)),
        is_top1=scatter(logits.argmax(-1) == targets),
        label_mask=mask,
    )
