"""Bound the pixels of an image, by the settings that each kind of processor has for its size."""

import math
from typing import Any

from steelyard.harness.core.errors import UserError

SENSIBLE_PIXELS = 1280 * 28 * 28
"""Bound where a checkpoint's own is higher: 1,280 tokens of 14-pixel patches merged 2 by 2.

Qwen2.5-VL's own is 12.8 million, by which a photo of a phone takes 16,000 tokens.
"""


def limit_pixels(processor: Any, model_config: Any, low: int, high: int) -> None:
    """Set the least and the most pixels of an image as a model sees it; 0 keeps a bound.

    Raises:
        UserError: the processor has no setting for it, or the most is below its smallest size.
    """
    images = processor.image_processor
    fields = images.valid_kwargs.__annotations__
    if "max_pixels" in fields:  # one image of any size
        least, most = images.size.shortest_edge, images.size.longest_edge  # pixels, despite names
        most = high or min(most, SENSIBLE_PIXELS)
        least = low or min(least, most)
        if least > most:
            raise UserError(f"min_pixels={least} is above max_pixels={most}: lower it.")
        images.size = type(images.size)(shortest_edge=least, longest_edge=most)
        return
    if low:
        raise UserError(f"{_kind(model_config)} have no least size: leave out min_pixels.")
    if not high:
        return
    if "image_grid_pinpoints" in fields:  # tiles in one of these shapes
        shapes = [(h, w) for h, w in images.image_grid_pinpoints if h * w <= high]
        _check_tiles(len(shapes), high, min(h * w for h, w in images.image_grid_pinpoints))
        # The model reads the shape off the image's size once more.
        images.image_grid_pinpoints = model_config.image_grid_pinpoints = [[*s] for s in shapes]
    elif "max_patches" in fields:  # that many tiles, and the picture as another
        tile = images.size.height * images.size.width
        _check_tiles(high // tile, high, tile)
        images.max_patches = min(images.max_patches, high // tile)
    elif "max_image_size" in fields:  # tiles of a longest edge of that many
        edge = images.max_image_size["longest_edge"]
        _check_tiles(math.isqrt(high) // edge, high, edge**2)
        longest = min(images.size.longest_edge, math.isqrt(high) // edge * edge)
        images.size = type(images.size)(longest_edge=longest)
    else:
        raise UserError(
            f"{_kind(model_config)} resize every image to one size: leave out max_pixels."
        )


def _check_tiles(count: int, high: int, smallest: int) -> None:
    if not count:
        raise UserError(f"max_pixels={high} is less than one tile: give at least {smallest}.")


def _kind(model_config: Any) -> str:
    return f"Checkpoints of type {model_config.model_type}"
