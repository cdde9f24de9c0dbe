"""Divergences in nats between predictions as logits: categorical, or Bernoulli per label.

They are computed in single precision at least: of two nearly equal predictions, bf16 arithmetic
gives some ten times the true divergence.
"""

import torch
from torch import Tensor


def jensen_shannon(logits: Tensor, reference: Tensor, multi_label: bool) -> Tensor:
    """Return the JSD of two predictions, in [0, ln 2]: [..., C] and [..., C] (broadcast) -> [...].

    Multi-label predictions are C independent Bernoulli variables. Their JSDs are averaged over
    labels, as the task loss is, so that a weight means the same on both kinds of data set.
    """
    log_p, log_q = _log_outcomes(logits, multi_label), _log_outcomes(reference, multi_label)
    p, q = log_p.exp(), log_q.exp()
    with torch.no_grad():
        middle = torch.lerp(p, q, 0.5)
        # The clamp only acts if both probabilities underflow; the products are zero then.
        log_middle = middle.clamp_(min=torch.finfo(middle.dtype).tiny).log_()
        ratio_p, ratio_q = log_p - log_middle, log_q - log_middle
    # The mean divergence of both from the middle, outcome by outcome. Its gradient through the
    # log-ratios is zero in sum, because probabilities add up to one, and is not computed.
    terms = torch.lerp(p * ratio_p, q * ratio_q, 0.5)
    return _total(terms, multi_label)


def kullback_leibler(target: Tensor, logits: Tensor, multi_label: bool) -> Tensor:
    """Return KL(target || prediction) of two predictions: [..., C] and [..., C] -> [...]."""
    p, q = _log_outcomes(target, multi_label), _log_outcomes(logits, multi_label)
    return _total(p.exp() * (p - q), multi_label)


def _log_outcomes(logits: Tensor, multi_label: bool) -> Tensor:
    """Return log-probabilities: [..., C], or [..., 2C] (yes, then no) if multi-label."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if multi_label:
        logsigmoid = torch.nn.functional.logsigmoid
        return torch.cat([logsigmoid(logits), logsigmoid(-logits)], dim=-1)
    return torch.log_softmax(logits, dim=-1)


def _total(terms: Tensor, multi_label: bool) -> Tensor:
    """Sum over outcomes; with C labels of two outcomes, average the sums over labels."""
    total = terms.sum(dim=-1)
    return total / (terms.shape[-1] // 2) if multi_label else total


def half_square(log_ratio: Tensor) -> Tensor:
    """Return half of the squared log-ratio of policy and reference, element by element.

    Of answers that the policy samples, its mean has the gradient of the divergence (k2 of
    Schulman, Approximating KL Divergence, 2020). Of other answers its pull is the log-ratio itself,
    and not the exponential of it as that of k3.
    """
    return 0.5 * log_ratio.square()
