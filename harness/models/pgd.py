"""Projected gradient descent on pixels: the one attack for mining pairs and for scoring."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from steelyard.harness.models.backbone import Backbone, Batch

AttackLoss = Callable[[Batch], Tensor]
"""Loss [B] that the attack maximises."""


@contextmanager
def frozen_parameters(backbone: Backbone) -> Iterator[None]:
    """Freeze all parameters: a pass inside has gradients, and is charged, at its inputs only."""
    # Only those that learn now, so that frozen ones stay frozen afterwards.
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def frozen_weights(backbone: Backbone, *, training: bool = True) -> Iterator[None]:
    """Switch off parameter gradients and training mode; set ``training`` mode afterwards."""
    backbone.train(False)
    try:
        with frozen_parameters(backbone):
            yield
    finally:
        backbone.train(training)


def ascend(
    backbone: Backbone,
    batch: Batch,
    start: Tensor,
    epsilon: float,
    step: float,
    steps: int,
    loss: AttackLoss,
) -> Tensor:
    """Return pixels within ``epsilon`` of ``batch.pixels`` that maximise the loss.

    PGD, projected gradient steps in the maximum norm (Madry et al., ICLR 2018):

        v <- clip( v + step sign grad_v loss(v) ),  from ``start``

    ``epsilon`` and ``step`` are fractions of the full range of an image (16/255 is sixteen grey
    levels), whatever the processor's scaling. Call it inside ``frozen_weights``. If the loss does
    not depend on the pixels, ``start`` is returned.

    Passes hold the recipe's micro-batch, which changes nothing: items do not affect one another.
    """
    size = backbone.recipe.micro_batch_size or len(batch.has_image)
    parts = backbone.split(batch, size)
    starts = [part.pixels for part in backbone.split(replace(batch, pixels=start), size)]
    columns = zip(parts, starts, strict=True)
    return torch.cat(
        [_ascend(backbone, part, pixels, epsilon, step, steps, loss) for part, pixels in columns]
    )


def _ascend(
    backbone: Backbone,
    batch: Batch,
    pixels: Tensor,
    epsilon: float,
    step: float,
    steps: int,
    loss: AttackLoss,
) -> Tensor:
    move = _bounded_move(backbone, batch, epsilon)
    with torch.enable_grad(), _recomputation(backbone):
        for _ in range(steps):
            # A new leaf for each step, or the graph would grow over all steps.
            pixels = pixels.detach().requires_grad_()
            total = loss(replace(batch, pixels=pixels)).sum()
            if not total.requires_grad:  # the loss uses no pixels
                break
            # Zeros instead of None if the loss does not depend on the pixels.
            (gradient,) = torch.autograd.grad(total, pixels, materialize_grads=True)
            pixels = move(pixels.detach(), step * backbone.pixel_gradient(gradient).sign())
    return pixels.detach()


@contextmanager
def _recomputation(backbone: Backbone) -> Iterator[None]:
    """Let layers under ``checkpointing`` drop their activations in evaluation mode as well.

    Transformers asks for training mode. The flag is that of the layers and not of the modules in
    them, whose dropout stays off.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    modules = cast("nn.Module", backbone).modules()
    layers = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
    training = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, mode in zip(layers, training, strict=True):
            layer.training = mode


def noisy_start(backbone: Backbone, batch: Batch, epsilon: float, noise: Tensor) -> Tensor:
    """Return pixels moved by ``epsilon`` times noise in [-1, 1] of their shape, for ``ascend``."""
    # Of two equal frames (Qwen-VL) the mean of two draws: within epsilon, with half the variance
    # of the start of a model with one frame.
    change = epsilon * backbone.pixel_gradient(noise)
    return _bounded_move(backbone, batch, epsilon)(batch.pixels, change)


def _bounded_move(
    backbone: Backbone, batch: Batch, epsilon: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that adds a change in units of the range and projects on the ball."""
    bounds = backbone.pixel_range(batch)
    span = bounds.high - bounds.low
    low = torch.maximum(batch.pixels - epsilon * span, bounds.low)
    high = torch.minimum(batch.pixels + epsilon * span, bounds.high)

    def move(pixels: Tensor, change: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(pixels + change * span, low), high)

    return move
