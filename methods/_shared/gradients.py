"""Gradient arithmetic of several methods: gradients at latents, conflicts, weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from steelyard.harness.core.examples import MODALITIES, Modality
from steelyard.harness.models.backbone import Latents

NO_DIRECTION = 1e-16  # squared norm below which a gradient is only rounding error


def gradient_at(loss: Tensor, at: Latents) -> Latents:
    """Return the gradient of a scalar at intermediate tensors; the graph is retained.

    It is zero at a modality that depends on no trainable parameter.
    """
    tensors = [tensor for tensor in (at.image, at.text) if tensor.requires_grad]
    gradients = iter(torch.autograd.grad(loss, tensors, retain_graph=True))
    image, text = (
        next(gradients) if tensor.requires_grad else torch.zeros_like(tensor)
        for tensor in (at.image, at.text)
    )
    return Latents(image, text)


def carry(value: Tensor, at: Latents, gradient: Latents) -> Tensor:
    """Return a scalar with this value whose gradient is ``gradient`` at ``at`` and zero elsewhere.

    Modules between ``at`` and ``value`` (heads, fusion) get no gradient; encoders get theirs in the
    one backward pass of the training loop.
    """
    image = at.image.flatten().dot(gradient.image.flatten())
    product = image + at.text.flatten().dot(gradient.text.flatten())
    # Its gradient at ``at`` is ``gradient``; its value is subtracted again.
    return value.detach() + (product - product.detach())


def block_gradients(
    loss: Tensor, scope: Mapping[Modality, Sequence[nn.Parameter]]
) -> dict[Modality, Tensor]:
    """Return the gradient of a scalar on the parameters of each modality: one vector [P] each."""
    parameters = [parameter for modality in MODALITIES for parameter in scope[modality]]
    gradient = flat_gradient(loss, parameters)
    # The vector follows MODALITIES, in which the image is first.
    image_size = sum(parameter.numel() for parameter in scope["image"])
    return {"image": gradient[:image_size], "text": gradient[image_size:]}


def flat_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the gradient of a scalar on parameters as one vector [P]; the graph is retained."""
    # Parameters that the loss does not use become zeros: vectors of two losses have to align.
    gradients = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def projection_weight(task: Tensor, kl: Tensor, cap: float) -> Tensor:
    """Return λ = 1 + max(0, −⟨task, kl⟩ / ‖kl‖²), at most ``cap``: a scalar from vectors [P].

    λ is 1 if the two do not conflict, or if the KL gradient is too small to have a direction.
    """
    wide = torch.promote_types(kl.dtype, torch.float32)  # half precision would overflow
    task, kl = task.to(wide), kl.to(wide)
    square = kl.dot(kl)
    weight = 1.0 - (task.dot(kl) / square).clamp(max=0.0)
    return torch.where(square > NO_DIRECTION, weight, 1.0).clamp(max=cap)


def reweight(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights in proportion to two non-negative scalars, with sum 2; equal if both are 0."""
    total = image + text
    weight = torch.where(total > 0, 2.0 * image / total, 1.0)
    return weight, 2.0 - weight
