"""Read images of any kind as upright 8-bit RGB; every image of every path is read here.

Training, scoring, tasks of lmms-eval, ``check``, corruptions and exports see the same pixels and
refuse the same files. These are the rules:

* The content decides and not the name: ``FORMATS`` are read, all else is no image. Of an animation
  or of several pages the first is taken.
* A picture is turned upright by its EXIF (or XMP). Metadata that cannot be read is ignored.
* Colours of 8 bits are kept; CMYK, YCbCr, HSV and LAB are converted without a profile of the file.
* The scale of other numbers depends on their type and never on the picture's content. Of 16 bits
  the upper eight are taken, so white is 65 535, also if a camera used only twelve; numbers of 32
  bits are read as 16. Float numbers are fractions of white, 0 to 1. Values outside, values that
  are not finite, and 32 bits that hold no more than eight are refused: their white is unknown.
* Transparent parts are composed on white.
* Truncated and broken files, files without a pixel and those of more than ``MOST_PIXELS`` are
  refused: ``ImageError`` names the file and the reason in one line.

Whoever changes a rule changes ``RULES``, so that the data revision of what it concerns changes.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from steelyard.harness.core.errors import UserError

RULES = 2
"""Version of the rules for what is no plain 8-bit picture; 1 clipped numbers and dropped alpha."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats of pictures. Not all that Pillow knows: it hands some, as PostScript, to other programs,
and takes nearly any bytes for others, as TGA."""
MOST_PIXELS = 178_956_970
"""Twice what Pillow warns of by default; 540 MB as RGB."""
MISSING = "missing"
# What is wrong with a file is in the error, and what is wrong with its metadata matters to no one.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Colour profiles and what programs write into a PNG about its making are often above 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""
SIDEWAYS = 5
"""Least orientation that swaps width and height."""
BYTE, WORD = 255, 65_535
# 512 MiB: about 3500 images of 224 pixels.
STORE_BYTES = 512 << 20
BYTES_PER_PIXEL = 3
ImageName = TypeVar("ImageName")
Images = Sequence[Image.Image]


class ImageError(UserError):
    """Image that cannot be used; ``fault`` is the reason without the file's name."""

    def __init__(self, name: object, fault: str) -> None:
        super().__init__(name, fault)
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.args[0]}: the image cannot be used ({self.fault})."


class DecodedImage(NamedTuple):
    """Upright image."""

    image: Image.Image
    """RGB; of a thumbnail RGB or grey, and perhaps smaller than the picture."""
    size: tuple[int, int]
    """Width and height of the picture, upright."""
    is_converted: bool
    """Whether its pixels depend on ``RULES``."""


def open_image(path: Path) -> Image.Image:
    """Read an image file; ImageError if it cannot be used."""
    return decode(read_bytes(path), path).image


def read_bytes(path: Path) -> bytes:
    """Read the bytes of an image file; ImageError for anything but a file that can be read."""
    try:
        # To open a pipe would wait for who writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if S_ISREG(os.fstat(descriptor).st_mode):
                with open(descriptor, "rb", buffering=0, closefd=False) as file:
                    return file.read()
            fault = "not a file"
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        fault = MISSING
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    except ValueError as error:  # a name that no file can have
        fault = f"cannot be read: {error}"
    raise ImageError(path, fault)


def decode(content: bytes, name: object, edge: int | None = None) -> DecodedImage:
    """Decode the bytes of an image file to the last; ``name`` is for the error.

    With ``edge`` only a thumbnail is made, of sides of ``edge`` pixels or more: a JPEG then decodes
    two to three times faster, in grey, and fails where it would fail at full size.

    Raises:
        ImageError: it cannot be used.
    """
    # At every call, for lmms-eval and its tasks change both for the full process: a run would take
    # what ``check`` refuses.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            size = picture.size
            if edge is not None:
                picture.draft("L", (edge, edge))
            picture.load()
            orientation = _orientation(picture)
            image, is_converted = _eight_bits(picture)
            if edge is None or image.mode not in ("L", "RGB"):
                image = image.convert("RGB")  # a copy, also of RGB
                # Else processors that turn images by their EXIF would turn it again.
                image.info.clear()
    except UnidentifiedImageError:
        fault = "not an image" if content else "empty file"
        raise ImageError(name, fault) from None
    except Exception as error:  # on broken files Pillow raises errors of a dozen types
        fault = next(iter(str(error).splitlines()), "")
        raise ImageError(name, fault or type(error).__name__) from error
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
        size = size[::-1] if orientation >= SIDEWAYS else size
    return DecodedImage(image, size, is_converted)


def stored_size(path: Path) -> tuple[int, int]:
    """Read the sides of a picture, not turned upright, without decoding it."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return picture.size
    except Exception as error:
        raise ImageError(path, str(error)) from error


def is_plain(content: bytes) -> bool:
    """Test by its header whether an image's pixels do not depend on ``RULES``.

    Alpha counts as used without being read.
    """
    with suppress(Exception), Image.open(BytesIO(content), formats=FORMATS) as picture:
        return not (_is_wide(picture) or picture.has_transparency_data)
    return True  # it is refused when it is decoded


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB, itself if it is; ValueError if it has no white."""
    image, _ = _eight_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none or the EXIF is broken."""
    # Not by Pillow's ``exif_transpose``: it writes the EXIF anew, which fails on much of what
    # cameras and editors write.
    with suppress(Exception):
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _eight_bits(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return an opaque image of 8 bits a channel, and whether it depends on ``RULES``."""
    if not all(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels")
    if _is_wide(image):
        return _scaled(image), True
    if not image.has_transparency_data:
        return image, False
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > BYTE:
        # The colour that is transparent keeps its 16 bits when Pillow drops those of the pixels.
        image.info["transparency"] = tuple(value >> 8 for value in key)
    layer = image.convert("RGBA")
    page = Image.new("RGB", image.size, "white")
    page.paste(layer, mask=layer)
    return page, layer.getextrema()[-1] != (BYTE, BYTE)


def _is_wide(image: Image.Image) -> bool:
    """Test whether a channel has more than 8 bits in Pillow's memory."""
    return image.mode == "F" or image.mode.startswith("I")


def _scaled(image: Image.Image) -> Image.Image:
    """Return integers of 16 or 32 bits, or float numbers, as 8-bit grey."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        # Not true for NaN either.
        if not (low >= 0 and high <= 1):
            raise ValueError(f"float values from {low:g} to {high:g}: give fractions from 0 to 1")
        grey = np.rint(BYTE * values)
    else:
        if low < 0 or high > WORD or (image.mode == "I" and 0 < high <= BYTE):
            raise ValueError(f"32-bit values from {low} to {high}: store them as 8 or as 16 bits")
        grey = values >> 8
        if isinstance(key := image.info.get("transparency"), int):
            grey = np.where(values == key, BYTE, grey)
    return Image.fromarray(grey.astype(np.uint8))


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
