"""Guard of a data set: while a method trains, only its training images can be opened.

Python raises an audit event for each file that it opens. Reads outside Python (another process,
some libraries in C) are not seen, nor is data that was copied elsewhere before.
"""

import functools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA_SUFFIXES = (
    ".arrow", ".csv", ".gz", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".tsv", ".txt", ".zip",
    ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Files that contain items; a library installed under the same folder may read its other files."""
OBJECT_SEARCHES = ("gc.get_objects", "gc.get_referrers")
"""Calls that reach objects without a reference to them."""


class ForeignData(Exception):
    """Raised if a method opens data other than its training items; fails the run."""


@dataclass(slots=True)
class Guard:
    """Rules for opening files, and the first violation."""

    roots: tuple[str, ...]
    """Folders of data sets."""
    images: frozenset[str]
    """Files below them that may be opened."""
    exempt: tuple[str, ...]
    """Folders with other contents than data, which may be below a root."""
    finding: str = ""

    def check_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise ForeignData for an audit event that reads foreign data."""
        if event in OBJECT_SEARCHES:
            self._refuse(f"{event} was called")
        if event != "open" or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        # ``os.open`` gives flags and no mode.
        _, mode, flags = args
        if not ("r" in mode if isinstance(mode, str) else flags & os.O_ACCMODE == os.O_RDONLY):
            return
        path = _absolute(os.fsdecode(args[0]))
        if not path.lower().endswith(DATA_SUFFIXES) or path in self.images:
            return
        real = os.path.realpath(path)
        inside = any(Path(name).is_relative_to(r) for name in (path, real) for r in self.roots)
        exempt = any(map(Path(real).is_relative_to, self.exempt))
        if inside and not exempt and real not in self.images:
            self._refuse(f"{path} was opened")

    def _refuse(self, action: str) -> None:
        self.finding = self.finding or f"{action} while training: a method gets training items only"
        raise ForeignData(self.finding)


# The interpreter never removes an audit hook, so one hook serves all guards.
_active: list[Guard] = []
_add_hook_once = functools.cache(sys.addaudithook)


def _check_event(event: str, args: tuple[Any, ...]) -> None:
    if _active:
        _active[-1].check_event(event, args)


@contextmanager
def only_training_images(
    images: Iterable[Path], roots: Iterable[Path], exempt: Iterable[Path]
) -> Iterator[Guard]:
    """Let nothing below ``roots`` be read inside but ``images`` and files below ``exempt``."""
    # A virtual environment may be in a data set's folder.
    folders = [Path(sys.prefix), Path(sys.base_prefix), *exempt]
    guard = Guard(
        tuple({path for root in roots for path in (_absolute(root), os.path.realpath(root))}),
        frozenset(_absolute(image) for image in images),
        tuple(os.path.realpath(folder) for folder in folders),
    )
    _add_hook_once(_check_event)
    _active.append(guard)
    try:
        yield guard
    finally:
        _active.remove(guard)


def _absolute(path: str | Path) -> str:
    """Return an absolute path without dots; links are not followed."""
    return str(Path(os.path.normpath(path)).absolute())
