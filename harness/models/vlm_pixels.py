"""Image tensors of processors: joined to batches, and their valid range."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from steelyard.harness.models.backbone import PixelRange

PIXELS = "pixel_values"
Picture = Mapping[str, Tensor]
"""The processor's tensors for the images of one item."""


def join(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    """Join items' images to one batch, padded with zeros if their numbers of tiles differ."""
    if not pictures:
        return {PIXELS: torch.zeros(0, 3, 1, 1)}
    batch = {}
    for name in pictures[0]:
        tensors = [picture[name] for picture in pictures]
        largest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
        for index, tensor in enumerate(tensors):
            # ``pad`` takes the gaps from the last dimension to the first.
            gaps = [want - have for want, have in zip(largest, tensor.shape[1:], strict=True)]
            if any(gaps):
                tensors[index] = pad(tensor, [size for gap in reversed(gaps) for size in (0, gap)])
        batch[name] = torch.cat(tensors)
    return batch


def pixel_range(processor: Any, pixels: Tensor, real: Tensor | None) -> PixelRange:
    """Return black and white in an image processor's units, broadcastable to ``pixels``.

    The tiles and the thumbnail of one picture have bounds of their own: an attack may change a spot
    in one and not in the other, so it is a little stronger than on the picture itself.
    Tiles and margins that only pad (``real`` [N, tiles, H, W] is 0 there) have an empty range:
    an attack must not turn them into image.
    """
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    if not processor.do_normalize:
        # The processor then leaves its mean and std unused.
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    white = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    low, high = -mean / std, (white - mean) / std
    if pixels.dim() == 2:  # Qwen-VL: one row per patch, colour channels outermost
        size = pixels.shape[1] // len(mean)
        low, high = low.repeat_interleave(size), high.repeat_interleave(size)
        return PixelRange(low.to(pixels), high.to(pixels))
    low, high = low.to(pixels).view(-1, 1, 1), high.to(pixels).view(-1, 1, 1)
    if pixels.dim() == 5:
        inside = pixels.flatten(2).any(2)[:, :, None, None, None]
        if real is not None:
            inside = inside & real[:, :, None].bool()
        low, high = (torch.where(inside, bound, 0.0) for bound in (low, high))
    return PixelRange(low, high)


def pixel_gradient(processor: Any, gradient: Tensor) -> Tensor:
    """Average a gradient over the equal frames that Qwen-VL makes of a still image."""
    if gradient.dim() != 2:
        return gradient
    frames, area = processor.temporal_patch_size, processor.patch_size**2
    # A patch's row is ordered by colour, frame and pixel.
    shaped = gradient.view(len(gradient), -1, frames, area)
    return shaped.mean(2, keepdim=True).expand_as(shaped).reshape(gradient.shape)
