"""Read tables of data sets: parquet and arrow files of the hub, of ``datasets`` and of a user."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from steelyard.harness.core import folders
from steelyard.harness.core.errors import UserError, one_line
from steelyard.harness.core.readers import csv_rows, read_object, read_rows, read_text, refuse

SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
SUFFIXES = (".parquet", ".arrow")
PATTERNS = tuple(f"*{suffix}" for suffix in SUFFIXES)
CONFIG, SPLIT = "__config__", "__split__"
"""Keys of a row for the configuration and split of the copy that it is from."""
ROWS = 64
"""Rows in memory at a time; each may have a photo."""

TableRow = dict[str, Any]
OnRow = Callable[[int], None]
"""Called with the number of rows read so far."""


def rows(
    path: Path, on_row: OnRow = lambda number: None, unnamed: str = "test"
) -> Iterator[tuple[str, TableRow]]:
    """Yield the rows of all tables of a folder, file by file, with configuration and split.

    Before each row is its place. ``unnamed`` is the split of a table whose path names none.
    """
    numbers = itertools.count(1)
    for table in find(path):
        config, split = _config_and_split(table, path)
        for number, row in enumerate(_read(table), start=1):
            yield f"{table}: row {number}", {**row, CONFIG: config, SPLIT: split or unnamed}
            on_row(next(numbers))


def file_rows(path: Path) -> Iterator[tuple[str, TableRow]]:
    """Yield the rows of one file, Parquet, Arrow, CSV with a head, or JSON, with their places.

    Raises:
        UserError: the file or a row is broken.
    """
    if find(path):
        for number, row in enumerate(_read(path), start=1):
            yield f"{path}: row {number}", row
    elif path.suffix == ".csv":
        lines = csv_rows(read_text(path), path)
        for line in lines:
            if line.fault:
                refuse(line.where, line.fault)
        for line in lines[1:]:
            yield line.where, dict(zip(lines[0].cells, line.cells, strict=True))
    else:
        yield from read_rows(path)


def convert(
    path: Path,
    write: Callable[[Iterator[TableRow]], object],
    on_row: OnRow = lambda number: None,
    unnamed: str = "test",
) -> None:
    """Pass the rows of all tables of a folder to a writer of an official layout.

    Raises:
        UserError: a table is broken, or the writer refuses a row or fails on it.
    """
    place = ""

    def located() -> Iterator[TableRow]:
        nonlocal place
        for place, row in rows(path, on_row, unnamed):  # noqa: B007 - of the row that is written
            yield row
        place = ""

    try:
        write(located())
    except (UserError, TypeError, ValueError, LookupError, AttributeError) as error:
        message = one_line(error)
        if not place or message.startswith(str(path)):
            raise
        raise UserError(f"{place}: {message}") from error


def count(path: Path) -> int | None:
    """Count the rows of all tables; None if that needs reading them."""
    from pyarrow import ArrowInvalid, parquet

    tables = find(path)
    if not tables or any(table.suffix != ".parquet" for table in tables):
        return None
    try:
        return sum(int(parquet.read_metadata(table).num_rows) for table in tables)
    except (ArrowInvalid, OSError):
        # Reading the rows will name the broken file.
        return None


def find(path: Path) -> list[Path]:
    """List the tables at or below a path, in name order."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    tables = folders.find(path, *SUFFIXES)
    # datasets stores results of its own operations under such names.
    return [table for table in tables if not table.name.startswith(("cache-", "tmp"))]


def _config_and_split(table: Path, root: Path) -> tuple[str, str]:
    """Read configuration and split from a table's path, as the hub and ``datasets`` name them.

    ``CONFIG/SPLIT-00000-of-00002.parquet``, ``data/SPLIT-...``, ``CONFIG/SPLIT/0000.parquet``, and
    ``SPLIT/data-00000-of-00001.arrow`` of ``save_to_disk``.
    """
    folders = list(table.relative_to(root).parts[:-1]) if root.is_dir() else []
    split = SHARD.sub("", table.stem).rpartition("-")[2]
    if split == "data" or split.isdecimal():
        # A single split saved with ``save_to_disk`` has its name only there.
        path = table.with_name("state.json")
        state = read_object(path) if path.is_file() else {}
        split = folders.pop() if folders else state.get("_split") or ""
    configs = [name for name in folders if name != "data"]
    return (configs[0] if configs else "default"), split


def _read(path: Path) -> Iterator[TableRow]:
    """Yield rows of a parquet or arrow file with ``ROWS`` of them in memory; NaN becomes None.

    Raises:
        UserError: the file is cut off or broken, has two columns of one name, or a text that is not
            UTF-8.
    """
    import pyarrow as pa

    number = 0
    # Not by ``datasets``: it decodes images, and the official layouts keep their bytes.
    try:
        for batch in _batches(path):
            if twice := [n for n, count in Counter(batch.schema.names).items() if count > 1]:
                raise UserError(f"{path}: two columns '{twice[0]}': rename one.")
            for row in range(batch.num_rows):
                number += 1
                (content,) = batch.slice(row, 1).to_pylist()
                # Missing values of numbers are NaN in tables of pandas.
                yield {
                    k: None if isinstance(v, float) and v != v else v for k, v in content.items()
                }
    except UnicodeDecodeError:
        raise UserError(f"{path}: row {number}: a text is not UTF-8: write it as UTF-8.") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a complete {path.suffix[1:]} file ({reason}).") from None


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    if path.suffix == ".parquet":
        yield from parquet.ParquetFile(path).iter_batches(ROWS)
    else:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
            yield from batches
