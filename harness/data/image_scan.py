"""One look at every image: is it whole, what are its bytes, what does it look like.

Looks are kept in the user's cache by path, size and time of change, so that the second reading of
a data set decodes nothing. The cache may be missing, full, broken or in use: then images are read.
"""

import hashlib
import os
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from steelyard.harness.core.files import cache_folder

UNDECODABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on a file that is not an image, is damaged or is absurdly large."""
MISSING = "missing"
CHUNK = 256
"""Images a thread takes at a time; progress is told and looks are kept after each chunk."""
CACHED_FROM = 500
"""Fewer images are read faster than they are looked up."""
GRID, STEP = 9, 2
"""The grey thumbnail's side; neighbours that differ by at most ``STEP`` grey levels are equal."""
DATABASE = "images.sqlite"
TABLE = "looks_1"
"""Raised whenever a look would say something else about the same file."""
COLUMNS = "path BLOB PRIMARY KEY, bytes, changed, fault, content, alike, width, height"

Report = Callable[[int, int], None]
"""Called with the number of images seen so far and of all."""
_report: ContextVar[Report | None] = ContextVar("_report", default=None)


@dataclass(frozen=True, slots=True)
class Look:
    """What one image file is."""

    fault: str
    """Why it cannot be used, without its path; empty where it can."""
    content: str = ""
    """Hash of its bytes, 16 hex digits; empty where it could not be read."""
    alike: bytes = b""
    """128 bits that pictures which look alike share nearly all of; empty where undecodable."""
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    key: bytes
    bytes: int
    changed: int


@contextmanager
def reported(report: Report) -> Iterator[None]:
    """Tell ``report`` how far every scan of this context has come: loaders know no progress bar."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def scan(paths: Iterable[Path]) -> dict[Path, Look]:
    """A look at each file, from the cache where it knows the file; decoded to its last byte."""
    files, looks = _files(dict.fromkeys(paths))
    known = _recall(files) if len(files) >= CACHED_FROM else {}
    looks |= known
    fresh = [file for file in files if file.path not in known]
    with _truncation_is_an_error(), ThreadPoolExecutor() as pool:
        chunks = [fresh[first : first + CHUNK] for first in range(0, len(fresh), CHUNK)]
        for chunk, found in zip(chunks, pool.map(_look_at_all, chunks), strict=True):
            looks |= zip((file.path for file in chunk), found, strict=True)
            if len(files) >= CACHED_FROM:
                _keep(zip(chunk, found, strict=True))
            if report := _report.get():
                report(len(looks), len(files))
    return looks


def _files(paths: Iterable[Path]) -> tuple[list[_File], dict[Path, Look]]:
    """Files that exist, and looks at those that do not."""
    files, absent = [], {}
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, for many files
        except OSError:
            absent[path] = Look(MISSING)
            continue
        key = os.fsencode(os.path.abspath(path))  # noqa: PTH100 - links are to be kept
        files.append(_File(path, key, found.st_size, found.st_mtime_ns))
    return files, absent


def _look_at_all(files: Sequence[_File]) -> list[Look]:
    return [look_at(file.path) for file in files]


def look_at(path: Path) -> Look:
    """Read and decode one file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Look(f"cannot be read: {error.strerror}")
    name = hashlib.blake2b(content, digest_size=8).hexdigest()
    try:
        with Image.open(BytesIO(content)) as image:
            size = image.size
            # A JPEG is read to its end at any scale, and a small one is two to three times faster.
            image.draft("L", (2 * GRID, 2 * GRID))
            grey = image.convert("L").resize((GRID, GRID), Image.Resampling.BOX)
    except UnidentifiedImageError:
        return Look("not an image" if content else "empty file", name)
    except UNDECODABLE as error:
        return Look(str(error) or type(error).__name__, name)
    return Look("", name, difference_hash(grey), *size)


def difference_hash(grey: Image.Image) -> bytes:
    """Where 9 x 9 grey pixels get brighter to the right, and where downwards: 128 bits."""
    values = np.asarray(grey, dtype=np.int16)
    right = values[:-1, 1:] > values[:-1, :-1] + STEP
    down = values[1:, :-1] > values[:-1, :-1] + STEP
    return np.packbits([right, down]).tobytes()


@contextmanager
def _truncation_is_an_error() -> Iterator[None]:
    # Pillow's switch is global and lmms-eval turns it on at import: half an image would pass.
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


# --- The cache ---------------------------------------------------------------------------------


def _recall(files: Sequence[_File]) -> dict[Path, Look]:
    """Looks at files that have not changed since; none where the cache cannot be used."""
    wanted = {file.key: file for file in files}
    first, last = min(wanted), max(wanted)
    try:
        with closing(_connect()) as database:
            # One range is far faster than a question for each path.
            rows = database.execute(
                f"SELECT * FROM {TABLE} WHERE path BETWEEN ? AND ?", (first, last)
            )
            return {
                wanted[key].path: Look(*look)
                for key, size, changed, *look in rows
                if key in wanted and (size, changed) == (wanted[key].bytes, wanted[key].changed)
            }
    except (sqlite3.OperationalError, OSError):
        return {}  # in use for long, on a full disk, or not ours to open
    except sqlite3.DatabaseError:
        with suppress(OSError):  # broken: begin anew
            (cache_folder() / DATABASE).unlink()
        return {}


def _keep(looks: Iterable[tuple[_File, Look]]) -> None:
    """Keep what is true as long as the file is the same; where that fails nothing is lost."""
    rows = [
        (file.key, file.bytes, file.changed, look.fault, look.content, look.alike, look.width,
         look.height)
        for file, look in looks
        if look.content  # what could not be read today may be tomorrow
    ]  # fmt: skip
    with suppress(sqlite3.Error, OSError), closing(_connect()) as database, database:
        values = ", ".join("?" * 8)
        database.executemany(f"INSERT OR REPLACE INTO {TABLE} VALUES ({values})", rows)


def _connect() -> sqlite3.Connection:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(folder / DATABASE, timeout=5)
    try:
        # A cache may lose its last rows in a power cut; waiting for the disk costs far more.
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} ({COLUMNS})")
    except sqlite3.Error:
        database.close()
        raise
    return database
