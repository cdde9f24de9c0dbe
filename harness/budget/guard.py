"""While a method trains, nothing of a data set can be opened but its training images.

Python tells of every file that it opens. What reads files without Python (another process, some
libraries in C) is not seen, and neither is data that was copied elsewhere before.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = (
    ".arrow", ".csv", ".gz", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".tsv", ".txt", ".zip",
    ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Files that hold items; a library that lies under the same folder may read its others."""
SEARCHES = ("gc.get_objects", "gc.get_referrers")
"""Ways to find what one was not handed."""


class ForeignData(Exception):
    """A method reached for data that it was not given; fails the run."""


@dataclass(slots=True)
class Guard:
    """What may be opened, and the first thing that was opened nevertheless."""

    roots: tuple[str, ...]
    allowed: frozenset[str]
    spared: tuple[str, ...]
    """Folders that may lie under a root and hold other things than data."""
    finding: str = field(default="")

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        """Refuse an event of the interpreter that reaches for foreign data."""
        if event in SEARCHES:
            self._refuse(f"{event} was called")
        elif event == "open" and _reads(args):
            path = _plain(os.fsdecode(args[0]))
            if path.lower().endswith(DATA) and path not in self.allowed:
                self._check(path)

    def _check(self, path: str) -> None:
        real = os.path.realpath(path)
        inside = any(_within(place, root) for place in (path, real) for root in self.roots)
        spared = any(_within(real, folder) for folder in self.spared)
        if inside and not spared and real not in self.allowed:
            self._refuse(f"{path} was opened")

    def _refuse(self, what: str) -> None:
        self.finding = self.finding or f"{what} while training: a method gets training items only"
        raise ForeignData(self.finding)


_current: list[Guard] = []
"""The guard in force, if any: the interpreter never forgets a hook, so there is one for all."""
_hooked: list[bool] = []


@contextmanager
def only_training_images(
    images: Iterable[Path], roots: Iterable[Path], spared: Iterable[Path]
) -> Iterator[Guard]:
    """Let nothing under ``roots`` be read but ``images`` and what lies in ``spared``."""
    places = [Path(sys.prefix), Path(sys.base_prefix), *spared]
    guard = Guard(
        tuple({text for root in roots for text in (_plain(root), os.path.realpath(root))}),
        frozenset(_plain(image) for image in images),
        tuple(os.path.realpath(place) for place in places),
    )
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _current.append(guard)
    try:
        yield guard
    finally:
        _current.remove(guard)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _current:
        _current[-1].see(event, args)


def _plain(path: str | Path) -> str:
    """Absolute and without dots, links as they are."""
    return str(Path(os.path.normpath(path)).absolute())


def _reads(args: tuple[Any, ...]) -> bool:
    path, mode, flags = args
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    return "r" in mode if isinstance(mode, str) else flags & os.O_ACCMODE == os.O_RDONLY


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
