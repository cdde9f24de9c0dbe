"""Unpack archives that others made: plain files and folders, and nothing outside the target."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from steelyard.harness.core.errors import UserError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
FILE_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)
"""Types of members of a zip archive; 0 if it was packed on Windows."""


def unpack(path: Path, folder: Path) -> None:
    """Write the files of a zip or tar archive below a new folder.

    Links of a tar archive become copies of what they lead to inside the archive.

    Raises:
        UserError: the archive is broken or encrypted, or a member is a link that leads elsewhere, a
            device, or has a path outside the folder.
    """
    try:
        for name, content in _zip(path) if path.suffix == ".zip" else _tar(path):
            target = folder / _inside(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
    # RuntimeError: it is encrypted. KeyError: a link leads out of it. ValueError: an odd member.
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, KeyError,
        ValueError,
    ) as error:  # fmt: skip
        raise UserError(f"{path}: cannot be unpacked ({error}).") from None


def _zip(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in FILE_TYPES:
                raise ValueError(f"'{member.filename}' is a link or a device")
            # Of a folder packed on Windows the name may end with a backslash.
            if not member.filename.endswith(("/", "\\")):
                yield member.filename, archive.open(member)


def _tar(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                continue
            # Also of a link the content comes from the archive, never from this machine.
            if (content := archive.extractfile(member)) is None:
                raise ValueError(f"'{member.name}' is a link to a folder or a device")
            yield member.name, content


def _inside(name: str) -> PurePosixPath:
    """Return a member's relative path; ValueError if it leads out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise ValueError(f"'{name}' leads out of the folder that it is unpacked to")
    return path
