"""What processors make of images: one item at a time, joined to batches, and its valid range."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from steelyard.harness.models.backbone import PixelRange

PIXELS = "pixel_values"
PASSED_ON = ("image_grid_thw", "image_sizes", "pixel_attention_mask", "batch_num_images")
"""What processors make of images beside pixels, one row an image or one an item."""
Picture = Mapping[str, Tensor]
"""The share of the processor's output that an item's images have."""


def split(made: Mapping[str, Tensor], counts: Sequence[int]) -> list[Picture]:
    """A processor's output item by item, without the tiles that only pad it to a batch.

    ``counts`` says how many images each item has.
    """
    if PIXELS not in made:
        return []

    def parts(tensor: Tensor) -> list[Tensor]:
        by_image = len(tensor) == sum(counts)
        return list(torch.split(tensor, list(counts) if by_image else [1] * len(counts)))

    passed = {name: parts(made[name]) for name in PASSED_ON if name in made}
    pixels = made[PIXELS]
    if pixels.dim() == 2:  # Qwen-VL: the patches of all images one after another
        sizes = [int(grid.prod(1).sum()) for grid in passed["image_grid_thw"]]
        owned = list(torch.split(pixels, sizes))
    else:
        owned = parts(pixels)
    pictures: list[Picture] = []
    for place, part in enumerate(owned):
        own = {name: tensors[place] for name, tensors in passed.items()}
        if part.dim() == 5:
            tiles = int(part.flatten(2).any(2).sum(1).max())
            part = part[:, :tiles]
            if "pixel_attention_mask" in own:
                own["pixel_attention_mask"] = own["pixel_attention_mask"][:, :tiles]
        pictures.append({PIXELS: part.contiguous(), **own})
    return pictures


def join(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    """Items' images as one batch, padded with zeros where their numbers of tiles differ."""
    if not pictures:
        return {PIXELS: torch.zeros(0, 3, 1, 1)}
    return {name: _padded([picture[name] for picture in pictures]) for name in pictures[0]}


def pixel_range(images: Any, pixels: Tensor, real: Tensor | None) -> PixelRange:
    """Black and white in the units of an image processor's output, broadcastable to ``pixels``.

    Tiles and margins that only pad (``real`` [N, tiles, H, W] is 0 there) have an empty range:
    an attack must not turn them into image.
    """
    mean, std = torch.tensor(images.image_mean), torch.tensor(images.image_std)
    if not images.do_normalize:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    white = 255 * images.rescale_factor if images.do_rescale else 255.0
    low, high = -mean / std, (white - mean) / std
    if pixels.dim() == 2:  # Qwen-VL: one row a patch, colour channels outermost
        size = pixels.shape[1] // len(mean)
        low, high = low.repeat_interleave(size), high.repeat_interleave(size)
        return PixelRange(low.to(pixels), high.to(pixels))
    low, high = low.to(pixels).view(-1, 1, 1), high.to(pixels).view(-1, 1, 1)
    if pixels.dim() == 5:
        shown = pixels.flatten(2).any(2)[:, :, None, None, None]
        if real is not None:
            shown = shown & real[:, :, None].bool()
        low, high = (torch.where(shown, bound, 0.0) for bound in (low, high))
    return PixelRange(low, high)


def pixel_gradient(images: Any, gradient: Tensor) -> Tensor:
    """Averaged over the frames that Qwen-VL copies a still image into."""
    if gradient.dim() != 2:
        return gradient
    frames, area = images.temporal_patch_size, images.patch_size**2
    shaped = gradient.view(len(gradient), -1, frames, area)
    return shaped.mean(2, keepdim=True).expand_as(shaped).reshape(gradient.shape)


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenated over the first dimension, the others padded with zeros to the largest."""
    inner = {tensor.shape[1:] for tensor in tensors}
    if len(inner) == 1:
        return torch.cat(list(tensors))
    largest = [max(sizes) for sizes in zip(*inner, strict=True)]
    widened = []
    for tensor in tensors:
        missing = [want - have for want, have in zip(largest, tensor.shape[1:], strict=True)]
        widened.append(pad(tensor, [size for end in reversed(missing) for size in (0, end)]))
    return torch.cat(widened)
