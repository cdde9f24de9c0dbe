"""Gradient arithmetic shared by methods: carried gradients, conflicts, weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from steelyard.harness.core.examples import MODALITIES, Modality
from steelyard.harness.models.backbone import Backbone, Latents

NO_DIRECTION = 1e-16  # squared norm below which a gradient is rounding error


def gradient_at(loss: Tensor, at: Latents) -> Latents:
    """Gradient of a scalar at intermediate tensors, which need not be leaves; the graph stays.

    Zero at a side that comes from no trainable parameter.
    """
    ends = [part for part in (at.image, at.text) if part.requires_grad]
    found = iter(torch.autograd.grad(loss, ends, retain_graph=True))
    image, text = (
        next(found) if part.requires_grad else torch.zeros_like(part)
        for part in (at.image, at.text)
    )
    return Latents(image, text)


@contextmanager
def parameters_held(backbone: Backbone) -> Iterator[None]:
    """What is computed inside has gradients at its inputs and none at the parameters it uses.

    So a pass whose parameters are to learn nothing costs, and is charged, no gradient of theirs.
    """
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def carry(value: Tensor, at: Latents, gradient: Latents) -> Tensor:
    """A scalar with this value whose gradient is ``gradient`` at ``at`` and nothing elsewhere.

    What lies between ``value`` and ``at`` (heads, fusion) so gets no gradient, while encoders
    get theirs in the one backward pass of the training loop.
    """
    product = (at.image * gradient.image).sum() + (at.text * gradient.text).sum()
    return value.detach() + (product - product.detach())


def block_gradients(
    loss: Tensor, scope: Mapping[Modality, Sequence[nn.Parameter]]
) -> dict[Modality, Tensor]:
    """Gradient of a scalar on each side's parameters, flattened: one vector [P] a side."""
    parameters = [parameter for modality in MODALITIES for parameter in scope[modality]]
    whole = flat_gradient(loss, parameters)
    border = sum(parameter.numel() for parameter in scope["image"])
    return {"image": whole[:border], "text": whole[border:]}


def flat_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gradient of a scalar on these parameters as one vector [P]; the graph stays."""
    gradients = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def projection_weight(task: Tensor, kl: Tensor, cap: float) -> Tensor:
    """λ = 1 + max(0, −⟨task, kl⟩ / ‖kl‖²), at most ``cap``: a scalar from two vectors [P].

    One where the two do not conflict, and where the KL gradient is too small to have a direction.
    """
    wide = torch.promote_types(kl.dtype, torch.float32)  # half precision would overflow
    task, kl = task.to(wide), kl.to(wide)
    square = kl.dot(kl)
    weight = 1.0 + torch.relu(-task.dot(kl) / square)
    return torch.where(square > NO_DIRECTION, weight, torch.ones_like(weight)).clamp(max=cap)


def reweight(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Weights proportional to two non-negative scalars, summing to two; equal if both are zero."""
    total = image + text
    positive = torch.where(total > 0, total, torch.ones_like(total))
    weight = torch.where(total > 0, 2.0 * image / positive, torch.ones_like(total))
    return weight, 2.0 - weight
