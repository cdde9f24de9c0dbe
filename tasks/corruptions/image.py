"""Corruptions of an RGB image, named by their functions; each draws from ``rng`` only."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import ImageChops, ImageFilter
from PIL.Image import Image, Resampling, fromarray

from steelyard.harness.core.examples import Donor
from steelyard.harness.data.images import decode

GRID = 224
"""Longest edge, in pixels, for which ImageNet-C's strengths are defined."""
NOISE_SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation for pixels in [0, 1], as in ImageNet-C."""
BLUR_SIGMA = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Standard deviation in pixels of a 224-pixel image, as in ImageNet-C."""
LEAST_BLUR = 0.4
"""Added in quadrature, in real pixels, or small images would stay sharp. So 32- and 64-pixel
images get about the blur that CIFAR-10-C (0.4 to 1) and Tiny-ImageNet-C (0.5 to 1.5) give them."""
NARROW_BLUR = 1.4
"""Least standard deviation, in pixels of a shrunk image, of a blur that is done on it."""
JPEG_QUALITY = (25, 18, 15, 10, 7)
"""As in ImageNet-C."""
PIXEL_SCALE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Factor on width and height, as in ImageNet-C."""
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
"""Factor on each pixel's distance from the channel's mean, as in ImageNet-C."""
BRIGHTNESS_ADDED = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Added to the value of HSV in [0, 1], as in ImageNet-C."""
OCCLUDED_AREA = (0.1, 0.2, 0.3, 0.45, 0.6)
"""Fraction of the area; ours."""
PATCH_AREA = 0.04
"""Fraction of the area of one occluding rectangle."""
ROTATION_DEGREES = (5, 10, 20, 30, 45)
"""Ours: up to 45 degrees, where an upright photo is furthest from all it could be taken for."""


def blank(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> None:
    """Remove the image; each backbone defines its input for a missing image."""


def noise(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    """Add Gaussian noise to every pixel and channel, clipped to the valid range."""
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    # One draw a pixel up to 224 pixels; on larger images neighbours share one.
    shrink = max(height, width, GRID) / GRID
    rows = (np.arange(height) / shrink).astype(int)
    columns = (np.arange(width) / shrink).astype(int)
    field = rng.standard_normal((rows[-1] + 1, columns[-1] + 1, 3), dtype=np.float32)
    # 16-bit integers halve the time on photos; the rounding is that of any image file.
    noise = np.rint(255 * NOISE_SIGMA[severity - 1] * field).astype(np.int16)
    return _added(pixels, noise, rows, columns)


def blur(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    sigma = math.hypot(BLUR_SIGMA[severity - 1] * max(image.size) / GRID, LEAST_BLUR)
    # A wide blur is done on a smaller image, four times as fast: shrinking removes only detail that
    # the blur removes too, and itself adds a variance of (factor**2 - 1) / 12.
    factor = max(1, int(sigma / NARROW_BLUR))
    narrow = math.sqrt(sigma**2 - (factor**2 - 1) / 12) / factor
    small = image.reduce(factor).filter(ImageFilter.GaussianBlur(narrow))
    size = (small.width * factor, small.height * factor)
    return small.resize(size, Resampling.BICUBIC).crop((0, 0, *image.size))


def jpeg(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    """Add the errors of low-quality JPEG at 224 pixels to the image at full size."""
    small = image
    if max(image.size) > GRID:
        small = image.resize(_scaled(image, GRID / max(image.size)), Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY[severity - 1])
    packed = decode(file.getvalue(), "JPEG").image
    if small is image:
        return packed
    # Only the errors are made larger, so that the photo keeps its detail.
    error = np.asarray(packed, np.int16) - np.asarray(small, np.int16)
    rows = np.arange(image.height) * small.height // image.height
    columns = np.arange(image.width) * small.width // image.width
    return _added(np.asarray(image), error, rows, columns)


def pixelate(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    """Average the pixels within larger squares, at the old size of the image."""
    scale = PIXEL_SCALE[severity - 1] * min(1.0, GRID / max(image.size))
    coarse = image.resize(_scaled(image, scale), Resampling.BOX)
    return coarse.resize(image.size, Resampling.NEAREST)


def contrast(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    """Move each channel towards its mean."""
    levels, factor = np.arange(256), CONTRAST[severity - 1]
    counts = np.reshape(image.histogram(), (3, 256))
    # By the histogram and a look-up table: no pass over the pixels in numpy.
    means = counts @ levels / counts.sum(axis=1)
    table = np.rint((levels - means[:, None]) * factor + means[:, None]).clip(0, 255)
    return image.point(table.astype(int).ravel().tolist())


def brightness(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    """Raise the value of HSV at equal hue and saturation."""
    red, green, blue = image.split()
    value = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue), np.uint16)
    # Equal hue and saturation means that all channels grow by one factor; black becomes grey.
    levels = np.arange(256)
    brighter = (levels + 255 * BRIGHTNESS_ADDED[severity - 1]).clip(0, 255)
    # [256 values, 1]; black has no factor and is set below.
    factors = brighter[:, None] / np.maximum(levels, 1)[:, None]
    table = np.rint(levels * factors).clip(0, 255).astype(np.uint8)
    table[0, 0] = round(brighter[0])
    # One flat look-up takes a third of the time of one by two indices.
    brightened = table.ravel().take((value << 8)[..., None] | np.asarray(image))
    return fromarray(brightened)


def occlusion(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    """Cover a fraction of the area with grey rectangles at random positions."""
    image = image.copy()
    target = OCCLUDED_AREA[severity - 1] * image.width * image.height
    covered: NDArray[np.bool_] = np.zeros((image.height, image.width), dtype=bool)
    # By covered pixels: rectangles overlap.
    while covered.sum() < target:
        # Between 1:2 and 2:1, symmetric in logarithms, so that the area stays the same.
        aspect = 2 ** rng.uniform(-0.5, 0.5)
        width = max(1, round(image.width * PATCH_AREA**0.5 * aspect))
        height = max(1, round(image.height * PATCH_AREA**0.5 / aspect))
        x, y = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
        covered[y : y + height, x : x + width] = True
    image.paste((128, 128, 128), (0, 0), fromarray(covered))
    return image


def rotation(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image:
    """Rotate left or right about the centre; corners get the image's mean colour."""
    angle = ROTATION_DEGREES[severity - 1] * (1 if rng.random() < 0.5 else -1)
    # The mean colour: black corners would tell a rotation at once.
    red, green, blue = image.resize((1, 1), Resampling.BOX).tobytes()
    return image.rotate(angle, Resampling.BILINEAR, fillcolor=(red, green, blue))


def shuffle(image: Image, severity: int, rng: np.random.Generator, donor: Donor) -> Image | None:
    return donor().image


def _added(
    pixels: NDArray[np.uint8],
    change: NDArray[np.int16],
    rows: NDArray[np.int_],
    columns: NDArray[np.int_],
) -> Image:
    """Add a coarser change to pixels [H, W, 3], given its row and column for each of theirs."""
    # One axis after the other is ten times faster than both at once.
    total = change.take(columns, axis=1).take(rows, axis=0)
    total += pixels
    return fromarray(np.clip(total, 0, 255, out=total).astype(np.uint8))


def _scaled(image: Image, factor: float) -> tuple[int, int]:
    # Rounded down, as in ImageNet-C.
    return max(1, int(image.width * factor)), max(1, int(image.height * factor))
