"""Where steelyard keeps what it can make again."""

import csv
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.harness.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def folder() -> Path:
    """``steelyard`` in the user's cache folder, which ``XDG_CACHE_HOME`` names."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard"


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either whole or absent, also when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # a temporary file is private, a record is not
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error


def digest(parts: Iterable[bytes]) -> str:
    """Sixteen hex digits of the parts in order."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()


def file_hash(path: Path) -> str:
    """Hash of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def weights_hash(folder: Path) -> str | None:
    """Hash of saved weights: of one file its own, of shards that of their hashes, None of none."""
    hashes = [file_hash(path) for path in sorted(folder.rglob("*.safetensors"))]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.blake2b("".join(hashes).encode(), digest_size=8).hexdigest()


def write_items(items: "pd.DataFrame", path: Path) -> None:
    """Write a table of items so that it is either whole or absent."""
    part = path.with_name(path.name + ".part")
    try:
        # The columns are plain; what Arrow and pandas would write of them is as long as the rest.
        items.to_parquet(part, index=False, compression="zstd", store_schema=False)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error


def replace_file(path: Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, never half of one.

    In a CSV file, text that a spreadsheet would run as a formula is made inert.
    """
    content = inert(content) if path.suffix == ".csv" else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error
    return path


_FORMULA = re.compile(rb'(?m)(?:^|,)"?(?:[=+@\t\r]|-(?![\d.]))')
"""A cell that may begin like a formula."""


def inert(content: bytes) -> bytes:
    """A CSV file no cell of which a spreadsheet runs: text that begins so gets an apostrophe."""
    if not _FORMULA.search(content):
        return content
    out = io.StringIO()
    rows = csv.reader(io.StringIO(content.decode(), newline=""))
    csv.writer(out, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return out.getvalue().encode()


def _cell(text: str) -> str:
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
