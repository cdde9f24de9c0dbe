"""Unpack archives that others made: plain files and folders, and nothing outside the target."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.folders import is_litter

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
FILE_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)
"""Types of members of a zip archive; 0 if it was packed on Windows."""
UTF8_NAME = 0x800
"""Flag of a zip member whose name is in UTF-8."""


class Member(NamedTuple):
    """File of an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]
    """Open its content; None if it has none."""


def is_archive(path: Path) -> bool:
    """Test whether a file's name ends like that of an archive that ``unpack`` reads."""
    return path.name.lower().endswith(ENDINGS)


def unpack(path: Path, folder: Path) -> None:
    """Write the files of a zip or tar archive below a new folder, without ``is_litter``.

    Links of a tar archive become copies of what they lead to inside the archive.

    Raises:
        UserError: the archive is broken, cut off, encrypted or larger than the free disk, or a
            member occurs twice, is a link that leads elsewhere or a device, or has a path outside
            the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _open(path) as members:
            targets = [_inside(member.name) for member in members]
            if twice := [target for target, n in Counter(targets).items() if n > 1]:
                raise ValueError(f"it has two files '{twice[0]}'")
            size, free = sum(member.size for member in members), shutil.disk_usage(folder).free
            if size > free:
                raise ValueError(f"its files have {size:,} bytes, and {free:,} are free")
            for target, member in zip(targets, members, strict=True):
                if any(map(is_litter, target.parts)):
                    continue
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                # Also of a link the content comes from the archive, never from this machine.
                if (content := member.open()) is None:
                    raise ValueError(f"'{member.name}' is a link or a device")
                with content, (folder / target).open("wb") as file:
                    shutil.copyfileobj(content, file)
    # RuntimeError: it is encrypted. KeyError: a link leads out of it. OSError: a name is too long.
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
        KeyError, ValueError, OSError,
    ) as error:  # fmt: skip
        # tarfile lists every compression that it tried, a line each.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: cannot be unpacked ({reason}).") from None


@contextmanager
def _open(path: Path) -> Iterator[list[Member]]:
    """Open an archive and list its files; folders are made as they are needed."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            # Of a folder packed on Windows the name may end with a backslash.
            infos = [i for i in archive.infolist() if not i.filename.endswith(("/", "\\"))]
            yield [Member(_zip_name(i), i.file_size, _zip_content(archive, i)) for i in infos]
    else:
        with tarfile.open(path) as tar:
            entries = [entry for entry in tar if not entry.isdir()]
            # tarfile takes a broken header for the end of the archive, which is two empty blocks.
            if tar.fileobj is None or tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(
                tarfile.BLOCKSIZE
            ):
                raise tarfile.ReadError("it is cut off, or broken in the middle")
            yield [Member(e.name, e.size, partial(tar.extractfile, e)) for e in entries]


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes] | None]:
    is_file = stat.S_IFMT(info.external_attr >> 16) in FILE_TYPES
    return lambda: archive.open(info) if is_file else None


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name, in UTF-8 if it can be."""
    # Without the flag it is in cp437 by the standard, and in UTF-8 by many programs.
    if not info.flag_bits & UTF8_NAME:
        with suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


def _inside(name: str) -> PurePosixPath:
    """Return a member's relative path; ValueError if it leads out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise ValueError(f"'{name}' leads out of the folder that it is unpacked to")
    return path
