"""List folders of users without what systems leave beside data; every listing is by this module."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISREG

from steelyard.harness.core.errors import UserError

LITTER = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found", "@eadir"}
)
"""Names, in lower case, that Windows, macOS, Linux and network drives add to folders."""

Files = Mapping[str, tuple[int, int]]
"""Size in bytes and time of change in ns of each file, by its path below the root, sorted."""


def is_litter(name: str) -> bool:
    """Test whether a file or folder of this name is no data: hidden, a lock file or ``LITTER``."""
    # Hidden are ._NAME and .DS_Store of macOS, .ipynb_checkpoints, .git, .~lock.NAME# of offices.
    return name.startswith((".", "~$")) or name.lower() in LITTER


def listing(folder: Path, *suffixes: str) -> list[Path]:
    """List a folder by name without litter; empty if it does not exist.

    ``suffixes`` are in lower case with their dot; a file may have any of them, by default all.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 - for many files
    except OSError as error:
        _refuse(error)
        return []
    kept = (name for name in sorted(names) if not is_litter(name))
    return [folder / name for name in kept if not suffixes or name.lower().endswith(suffixes)]


def tree(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder at and below ``root`` with its files' names, sorted and without litter.

    A folder is visited once: links may form a circle.
    """
    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        try:
            stat = os.stat(folder)  # noqa: PTH116 - for many folders
        except OSError as error:  # removed in the meantime
            _refuse(error)
            continue
        if (identity := (stat.st_dev, stat.st_ino)) in visited:
            folders.clear()
            continue
        visited.add(identity)
        folders[:] = sorted(name for name in folders if not is_litter(name))
        yield folder, sorted(name for name in names if not is_litter(name))


def walk(root: Path) -> Files:
    """List every regular file below ``root`` without litter."""
    files = {}
    for folder, names in tree(root):
        for name in names:
            path = f"{folder}{os.sep}{name}"
            try:
                stat = os.stat(path)  # noqa: PTH116 - for many files
            except OSError:  # a broken link
                continue
            if S_ISREG(stat.st_mode):
                files[path.removeprefix(f"{root}{os.sep}")] = stat.st_size, stat.st_ctime_ns
    return dict(sorted(files.items()))


def find(root: Path, *suffixes: str) -> list[Path]:
    """List the files at and below ``root`` of these suffixes, by path and without litter."""
    paths = (Path(folder, name) for folder, names in tree(root) for name in names)
    return sorted(path for path in paths if path.name.lower().endswith(suffixes))


def _refuse(error: OSError) -> None:
    # A folder that is absent, or removed in the meantime, has no files.
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror}).") from None
