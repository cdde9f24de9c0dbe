"""Decoded images, kept in memory so that all variants of a task decode each file once."""

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

STORE_BYTES = 512 << 20
BYTES_PER_PIXEL = 3


def open_image(path: Path) -> Image.Image:
    """RGB image, turned upright where the file says how; the one way images are read."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


class ImageStore:
    """Images by path, bounded in bytes of pixels.

    A full store keeps what it has: variants are read one after another in equal order, and
    dropping the least recently used image would then never give a hit.
    """

    def __init__(self, limit: int = STORE_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self._images: dict[Path, Image.Image] = {}

    def get(self, path: Path) -> Image.Image:
        """The RGB image; shared, so it must not be edited in place."""
        if path in self._images:
            return self._images[path]
        image = open_image(path)
        size = image.width * image.height * BYTES_PER_PIXEL
        if self.used + size <= self.limit:
            self._images[path] = image
            self.used += size
        return image


@lru_cache(maxsize=2)
def store_of(root: Path, split: str) -> ImageStore:
    """The store of one split of a data set: training images must not keep test images out.

    Only the two splits asked for last, training and test, are held.
    """
    return ImageStore()
