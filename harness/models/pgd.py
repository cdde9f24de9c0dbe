"""pgd."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steelyard.harness.models.backbone import Backbone, Batch

if TYPE_CHECKING:
    pass


Loss = Callable[[Batch], Tensor]
"""What the attack raises: [B]."""


@contextmanager
def frozen_weights(backbone: Backbone, *, training: bool = True) -> Iterator[None]:
    """Parameters without gradient and evaluation mode inside; ``training`` mode afterwards."""
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    backbone.train(False)
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        backbone.train(training)


def moved(backbone: Backbone, batch: Batch, epsilon: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds a change in shares of the range and projects on the ball about the batch's image."""
    bounds = backbone.pixel_range(batch)
    extent = bounds.high - bounds.low
    low = torch.maximum(batch.pixels - epsilon * extent, bounds.low)
    high = torch.minimum(batch.pixels + epsilon * extent, bounds.high)

    def move(pixels: Tensor, change: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(pixels + change * extent, low), high)

    return move


def noisy_start(backbone: Backbone, batch: Batch, epsilon: float, noise: Tensor) -> Tensor:
    """Pixels moved by ``epsilon`` times noise in [-1, 1] of their shape: a start for ``ascend``."""
    change = epsilon * backbone.pixel_gradient(noise)
    return moved(backbone, batch, epsilon)(batch.pixels, change)


def ascend(
    backbone: Backbone,
    batch: Batch,
    start: Tensor,
    epsilon: float,
    step: float,
    steps: int,
    loss: Loss,
) -> Tensor:
    """Pixels within ``epsilon`` of ``batch.pixels`` under which the loss is largest.

    PGD, projected gradient steps in the maximum norm (Madry et al., ICLR 2018):

        v <- clip( v + step sign grad_v loss(v) ),  from ``start``

    ``epsilon`` and ``step`` are shares of the full range of an image (16/255 is sixteen grey
    levels), whatever the processor's scaling. Call it with the weights frozen (``frozen_weights``). Where the loss
    does not depend on the pixels they stay where they are.
    """
    move, pixels = moved(backbone, batch, epsilon), start
    with torch.enable_grad():
        for _ in range(steps):
            pixels = pixels.detach().requires_grad_()
            total = loss(replace(batch, pixels=pixels)).sum()
            if not total.requires_grad:
                break
            (gradient,) = torch.autograd.grad(total, pixels, materialize_grads=True)
            pixels = move(pixels.detach(), step * backbone.pixel_gradient(gradient).sign())
    return pixels.detach()
