"""Decode every image once: fault, content hash, perceptual hash, size."""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from steelyard.harness.core.compat import swapped

UNDECODABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""Errors of Pillow on a file that is no image, is broken or is absurdly large."""
MISSING = "missing"
CHUNK = 256
"""Images per task of a thread; progress is reported after each chunk."""
GRID, STEP = 9, 2
"""Size of the grey thumbnail; neighbours that differ by at most ``STEP`` grey levels are equal."""

OnImages = Callable[[int, int], None]
"""Called with the number of images scanned so far and the total number."""
_on_images: ContextVar[OnImages | None] = ContextVar("_on_images", default=None)


@dataclass(frozen=True, slots=True)
class ScannedImage:
    """Result of decoding one image file."""

    fault: str
    """Why it cannot be used, without its path; empty if it can."""
    content: str = ""
    """Hash of the file's bytes, 16 hex digits; empty if it could not be read."""
    fingerprint: bytes = b""
    """Difference hash, 128 bits; near-duplicates differ in few of them. Empty if undecodable."""
    width: int = 0
    height: int = 0


@contextmanager
def report_images(on_images: OnImages) -> Iterator[None]:
    """Report the progress of every ``scan`` inside the block."""
    # A context variable, because loaders that call ``scan`` take no callback.
    token = _on_images.set(on_images)
    try:
        yield
    finally:
        _on_images.reset(token)


def scan(paths: Iterable[Path]) -> dict[Path, ScannedImage]:
    """Decode each file to its last byte, in threads."""
    files = list(dict.fromkeys(paths))
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    images: dict[Path, ScannedImage] = {}
    # lmms-eval switches Pillow to accept truncated images, for the full process.
    with swapped(ImageFile, "LOAD_TRUNCATED_IMAGES", False), ThreadPoolExecutor() as pool:
        # Threads are enough: Pillow releases the interpreter lock while it decodes.
        results = pool.map(lambda chunk: [scan_image(path) for path in chunk], chunks)
        for chunk, scanned in zip(chunks, results, strict=True):
            images |= zip(chunk, scanned, strict=True)
            if on_images := _on_images.get():
                on_images(len(images), len(files))
    return images


def scan_image(path: Path) -> ScannedImage:
    """Read and decode one file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ScannedImage(MISSING)
    except OSError as error:
        return ScannedImage(f"cannot be read: {error.strerror}")
    content_hash = hashlib.blake2b(content, digest_size=8).hexdigest()
    try:
        with Image.open(BytesIO(content)) as image:
            size = image.size
            # A JPEG is read to its end at any scale; a small one is two to three times faster.
            image.draft("L", (2 * GRID, 2 * GRID))
            grey = image.convert("L").resize((GRID, GRID), Image.Resampling.BOX)
    except UnidentifiedImageError:
        return ScannedImage("not an image" if content else "empty file", content_hash)
    except UNDECODABLE as error:
        return ScannedImage(str(error) or type(error).__name__, content_hash)
    return ScannedImage("", content_hash, difference_hash(grey), *size)


def difference_hash(grey: Image.Image) -> bytes:
    """Pack where 9 x 9 grey pixels get brighter to the right, and where downwards: 128 bits."""
    # In uint8 the sum with STEP would overflow.
    values = np.asarray(grey, dtype=np.int16)
    right = values[:-1, 1:] > values[:-1, :-1] + STEP
    down = values[1:, :-1] > values[:-1, :-1] + STEP
    return np.packbits([right, down]).tobytes()
