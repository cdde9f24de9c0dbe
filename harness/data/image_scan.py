"""Decode every image once: fault, content hash, perceptual hash, size."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from steelyard.harness.data.images import ImageError, decode, read_bytes

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
    is_converted: bool = False
    """Whether its pixels depend on ``images.RULES``."""


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
    with ThreadPoolExecutor() as pool:
        # Threads are enough: Pillow releases the interpreter lock while it decodes.
        results = pool.map(lambda chunk: [scan_image(path) for path in chunk], chunks)
        for chunk, scanned in zip(chunks, results, strict=True):
            images |= zip(chunk, scanned, strict=True)
            if on_images := _on_images.get():
                on_images(len(images), len(files))
    return images


def scan_image(path: Path) -> ScannedImage:
    """Read and decode one file; usable is what ``images.open_image`` opens."""
    content_hash = ""
    try:
        content = read_bytes(path)
        content_hash = hashlib.blake2b(content, digest_size=8).hexdigest()
        image, size, is_converted = decode(content, path, edge=2 * GRID)
    except ImageError as error:
        return ScannedImage(error.fault, content_hash)
    grey = image if image.mode == "L" else image.convert("L")
    grey = grey.resize((GRID, GRID), Image.Resampling.BOX)
    return ScannedImage("", content_hash, difference_hash(grey), *size, is_converted)


def difference_hash(grey: Image.Image) -> bytes:
    """Pack where 9 x 9 grey pixels get brighter to the right, and where downwards: 128 bits."""
    # In uint8 the sum with STEP would overflow.
    values = np.frombuffer(grey.tobytes(), np.uint8).reshape(GRID, GRID).astype(np.int16)
    least, bits = values[:-1, :-1] + STEP, np.empty((2, GRID - 1, GRID - 1), np.bool)
    np.greater(values[:-1, 1:], least, out=bits[0])
    np.greater(values[1:, :-1], least, out=bits[1])
    return np.packbits(bits).tobytes()
