"""Atomic writing of files and folders, locks, hashes, and the user's cache folder."""

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from steelyard.harness.core.errors import UserError, one_line
from steelyard.harness.core.folders import find

if TYPE_CHECKING:
    import pandas as pd

PREFIX, SUFFIX = f".steelyard-{platform.node()}-", ".part"
"""Of the names of temporary files and folders; those of a killed process are removed later, by
processes of the same machine, since some shared file systems have locks within a machine alone."""

NAME_LENGTH = 100
"""Characters of a file's name, of which systems allow 255 bytes with its ending."""
PROBE = 1 << 16
"""Bytes that have to fit where something will be written."""


def cache_folder() -> Path:
    """Return ``steelyard`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    folder = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if folder.parts[0] == "~":
        raise UserError("There is no home folder for the cache: set XDG_CACHE_HOME to a folder.")
    return folder / "steelyard"


def user_path(text: str | Path) -> Path:
    """Return a path with ``~`` replaced, which shells leave as it is after an equals sign."""
    with suppress(RuntimeError):  # no home or no such user: a name like any other
        return Path(text).expanduser()
    return Path(text)


def check_output(path: Path, *, is_file: bool = False, size: int = 0) -> None:
    """Try whether a folder, or a file, can be written; call it before work is done for it.

    ``size`` is the number of bytes that will be written, as far as it is known.

    Raises:
        UserError: it cannot, or there is a file in place of a folder, or the reverse.
    """
    if is_file and path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file in it.")
    folder = path.absolute().parent if is_file else path.absolute()
    parent = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not parent.is_dir():
        raise UserError(f"{path} cannot be written: {parent} is no folder.")
    # Permissions do not tell of a disk that is full or read-only.
    with explain_write_errors(path), tempfile.TemporaryFile(dir=parent) as file:
        file.write(bytes(PROBE))
        file.flush()
        os.fsync(file.fileno())
    if (free := shutil.disk_usage(parent).free) < size:
        raise UserError(
            f"{path} will get about {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free there: "
            "free some, or choose another folder."
        )


@contextmanager
def explain_write_errors(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Raise UserError with the path in place of an OSError, or of an error of the ``kinds``."""
    errors: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Could not write {path}: {reason}.") from error


class Busy(Exception):
    """Another process works on a folder."""


@contextmanager
def exclusive(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Create a folder; another process that asks for it waits until the block ends.

    The system frees the lock of a killed process. A file system without locks has none.

    Raises:
        Busy: another process has the folder, and this one does not ``wait``.
        UserError: the folder cannot be created.
    """
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, wait=wait)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool = True) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("another process works on the folder") from None
    except OSError:  # some network file systems have no locks
        pass


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders of killed processes: nobody holds their locks."""
    for entry in list(os.scandir(folder)):
        if not (entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX)):
            continue
        with suppress(OSError):  # another process uses it, or removes it too
            descriptor = os.open(entry.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()
            finally:
                os.close(descriptor)


def _create_locked(create: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Return descriptor and path of a new temporary file or folder that no other process removes.

    Between its creation and its lock it may have been taken for abandoned: then another is made.
    """
    while True:
        descriptor, name = create()
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """Folder that is removed with this object, or by a later process if this one is killed."""

    def __init__(self, parent: Path | None = None) -> None:
        """Create it in an existing folder, by default the system's for temporary files."""
        parent = parent or Path(tempfile.gettempdir())
        remove_abandoned(parent)

        def create() -> tuple[int, str]:
            tempfile.TemporaryDirectory.__init__(self, SUFFIX, PREFIX, parent)
            return os.open(self.name, os.O_RDONLY), self.name

        descriptor, _ = _create_locked(create)
        weakref.finalize(self, os.close, descriptor)


_cleared: set[Path] = set()
"""Folders without abandoned files: each is searched once, since some get thousands of files."""


def write_atomic(path: Path, data: bytes | str) -> Path:
    """Write a file so that a reader sees the old content or all of the new one; return its path.

    Raises:
        UserError: the folder is not writable or the disk is full; the old file is unchanged.
    """
    folder = path.parent
    with explain_write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        if folder not in _cleared:
            remove_abandoned(folder)
            _cleared.add(folder)
        # In the same folder: a rename to another file system is not atomic.
        descriptor, name = _create_locked(lambda: tempfile.mkstemp(SUFFIX, PREFIX, folder))
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                # Else a power cut after the rename may leave an empty file.
                os.fsync(file.fileno())
                # mkstemp lets only the user read it.
                Path(name).chmod(0o644)
                Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    return path


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys, atomically; ValueError if a number is not finite."""
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_items(items: "pd.DataFrame", path: Path) -> None:
    """Write a table of items as Parquet, atomically."""
    # The columns are plain: the schemas that Arrow and pandas add would double the size.
    write_atomic(path, items.to_parquet(index=False, compression="zstd", store_schema=False))


def read_items(path: Path) -> "pd.DataFrame":
    """Read a table of items; UserError if it is missing or broken."""
    import pandas as pd

    with explain_table_errors(path):
        return pd.read_parquet(path)


@contextmanager
def explain_table_errors(path: Path) -> Iterator[None]:
    """Raise UserError with the path in place of the errors of a table that cannot be read."""
    import pyarrow

    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"No {path}: intervals need a run's items, copy its whole folder."
        ) from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a complete Parquet file: {one_line(error)}") from error


@contextmanager
def publish_folder(path: Path, is_complete: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """Yield the path of a folder to create; rename it to ``path`` when the block ends.

    An empty folder at ``path`` is replaced. If writing fails, ``path`` is as before; this is no
    error where ``is_complete`` says that another process published the same folder meanwhile.

    Raises:
        UserError: the disk is full, or ``path`` cannot be written or is not empty.
    """
    with explain_write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The temporary folder is private, so the published one is a folder inside it.
            with TemporaryFolder(path.parent) as temporary:
                folder = Path(temporary) / path.name
                yield folder
                folder.rename(path)
        except OSError:
            if not is_complete():
                raise


class _UncachedLoader(importlib.machinery.SourceFileLoader):
    """Loader that always compiles: Python tells cached code apart by a file's second and size."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own, whatever other files and modules are called.

    Raises:
        UserError: the file is not valid Python, with its line.
    """
    name = f"steelyard_file_{digest([os.fsencode(path.resolve())])}"
    spec = importlib.util.spec_from_file_location(
        name, path, loader=_UncachedLoader(name, str(path))
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where Python looks for the types and the source of a class
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        line = f"{error.filename or path}:{error.lineno or 1}"
        raise UserError(f"{line}: not valid Python ({error.msg}).") from error
    return module


def file_name(text: str) -> str:
    """Return a text as the name of a file on any system, with a hash if it is not told by that."""
    name = re.sub(r"[^A-Za-z0-9_.=-]", "_", text)[:NAME_LENGTH]
    if name == text.replace("/", "_"):
        return name
    return f"{name}-{digest([text.encode(errors='surrogatepass')])[:8]}"


def digest(parts: Iterable[bytes]) -> str:
    """Hash parts in order, with their lengths: 16 hex digits."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()


def file_hash(path: Path) -> str:
    """Hash a file's bytes: 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def weights_hash(folder: Path) -> str | None:
    """Hash safetensors files: of one, its bytes; of shards, their hashes; of none, None."""
    hashes = [file_hash(path) for path in find(folder, ".safetensors")]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.blake2b("".join(hashes).encode(), digest_size=8).hexdigest()
