"""Decoded images in memory, so that all variants of a task decode each image once."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image, ImageOps

# 512 MiB: about 3500 images of 224 pixels.
STORE_BYTES = 512 << 20
BYTES_PER_PIXEL = 3
ImageName = TypeVar("ImageName")
Images = Sequence[Image.Image]


def open_image(path: Path) -> Image.Image:
    """Read an image as RGB, upright by its EXIF; all images are read by this function."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


class ImageStore(Generic[ImageName]):
    """Cache of RGB images by the name of their item, bounded in bytes of pixels.

    A full store drops nothing: variants are read one after another in equal order, and dropping
    the least recently used image would then never give a hit.
    """

    def __init__(self, read: Callable[[ImageName], Images], limit: int = STORE_BYTES) -> None:
        self.read = read
        self.limit = limit
        self.used = 0
        self._images: dict[ImageName, Images] = {}

    def get(self, name: ImageName) -> Images:
        """Return the images; they are shared, so never edit them in place."""
        if name in self._images:
            return self._images[name]
        images = self.read(name)
        size = sum(image.width * image.height for image in images) * BYTES_PER_PIXEL
        if self.used + size <= self.limit:
            self._images[name] = images
            self.used += size
        return images


@lru_cache(maxsize=2)
def store_of(root: Path, split: str) -> ImageStore[Path]:
    """Return the store of one split; training images must not fill the store of test images.

    Only the two splits of the last calls, training and test, are kept.
    """
    return ImageStore(lambda path: (open_image(path),))
