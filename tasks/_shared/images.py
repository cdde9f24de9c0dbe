"""Decoded images, kept in memory so that all variants of a task decode each of them once."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image, ImageOps

STORE_BYTES = 512 << 20
BYTES_PER_PIXEL = 3
Name = TypeVar("Name")
Images = Sequence[Image.Image]


def open_image(path: Path) -> Image.Image:
    """RGB image, turned upright where the file says how; the one way images are read."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


class ImageStore(Generic[Name]):
    """RGB images of an item by its name, bounded in bytes of pixels.

    A full store keeps what it has: variants are read one after another in equal order, and
    dropping the least recently used image would then never give a hit.
    """

    def __init__(self, read: Callable[[Name], Images], limit: int = STORE_BYTES) -> None:
        self.read = read
        self.limit = limit
        self.used = 0
        self._kept: dict[Name, Images] = {}

    def get(self, name: Name) -> Images:
        """The images; shared, so they must not be edited in place."""
        if name in self._kept:
            return self._kept[name]
        images = self.read(name)
        size = sum(image.width * image.height for image in images) * BYTES_PER_PIXEL
        if self.used + size <= self.limit:
            self._kept[name] = images
            self.used += size
        return images


@lru_cache(maxsize=2)
def store_of(root: Path, split: str) -> ImageStore[Path]:
    """The store of one split of a data set: training images must not keep test images out.

    Only the two splits asked for last, training and test, are held.
    """
    return ImageStore(lambda path: (open_image(path),))
