"""Atomic writing of files and folders, their hashes, and the user's cache folder."""

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from steelyard.harness.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def cache_folder() -> Path:
    """Return ``steelyard`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard"


@contextmanager
def explain_write_errors(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Raise UserError with the path in place of an OSError, or of an error of the ``kinds``."""
    errors: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Could not write {path}: {reason}.") from error


def write_atomic(path: Path, data: bytes | str) -> Path:
    """Write a file so that a reader sees the old content or all of the new one; return its path.

    Raises:
        UserError: the folder is not writable or the disk is full; the old file is unchanged.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: a rename to another file system is not atomic.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
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
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
                folder = Path(temporary) / path.name
                yield folder
                folder.rename(path)
        except OSError:
            if not is_complete():
                raise


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    hashes = [file_hash(path) for path in sorted(folder.rglob("*.safetensors"))]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.blake2b("".join(hashes).encode(), digest_size=8).hexdigest()
