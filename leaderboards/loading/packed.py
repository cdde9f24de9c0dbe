"""Runs packed into a few Parquet files, which boards and validation read as they read folders.

``records.parquet`` has a row per run: ``path`` and ``record``, the JSON. Each file of ``items`` has
a row per table of items, of all tables with equal columns: ``path``, ``hash`` of the content, and
each column of the table as a list. ``files.parquet`` has other small files: ``path``, ``content``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import digest, explain_table_errors
from steelyard.harness.core.folders import listing, tree
from steelyard.harness.core.readers import DECODER
from steelyard.harness.records import record
from steelyard.harness.records.record import RECORD
from steelyard.leaderboards.loading.memo import FileKey, file_key

if TYPE_CHECKING:
    import pyarrow

RECORDS, FILES, ITEMS = "records.parquet", "files.parquet", "items"
ROWS = 50
"""Rows of a row group, which are read at once."""
ABOUT = ("path", "hash")
"""Columns of items that are not of a table."""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """File of a packed run."""

    root: Path
    """Folder of ``records.parquet``."""
    name: str
    """Its path below the root if it were not packed."""

    @property
    def path(self) -> Path:
        return self.root / self.name

    def __str__(self) -> str:
        return str(self.path)

    def is_file(self) -> bool:
        return self.name in _places(self.root)

    @property
    def key(self) -> FileKey | None:
        """Return the key of ``memo.file_key``."""
        file, row = self._place()
        return file_key(file, row)

    def read_bytes(self) -> bytes:
        """Read the JSON of a record, or a small file."""
        return bytes(self._cell("record" if self.path.name == RECORD else "content").as_buffer())

    def column_names(self) -> list[str]:
        """Return the columns of a table of items."""
        file, _ = self._place()
        with explain_table_errors(self.path):
            return [name for name in _opened(file).schema_arrow.names if name not in ABOUT]

    def read_table(self, columns: Sequence[str]) -> "pyarrow.Table":
        """Read these columns of a table of items, in their order in the file."""
        import pyarrow

        names = [name for name in self.column_names() if name in columns]
        with explain_table_errors(self.path):
            return pyarrow.table([self._cell(name).values for name in names], names)

    def is_unchanged(self) -> bool:
        """Return whether a table of items is the one that was packed."""
        table = self.read_table(self.column_names())
        return bool(self._cell("hash").as_py() == content_hash(table))

    def _place(self) -> tuple[Path, int]:
        if not self.is_file():
            raise UserError(f"No {self}: it was not packed.")
        return _places(self.root)[self.name]

    def _cell(self, column: str) -> Any:
        file, row = self._place()
        group, index = divmod(row, ROWS)
        return _column(file, group, column)[index]


RunFile = Path | PackedFile


def path_of(file: RunFile) -> Path:
    """Return the path of a file, of a packed one where it would be."""
    return file.path if isinstance(file, PackedFile) else file


def key_of(file: RunFile) -> FileKey | None:
    return file.key if isinstance(file, PackedFile) else file_key(file)


def find_records(root: Path) -> list[RunFile]:
    """List the records at and below a folder, packed or not, by path."""
    files: list[tuple[tuple[str, ...], RunFile]] = []
    for folder, names in tree(root):
        path = Path(folder)
        packed = _places(path) if RECORDS in names else ()
        records = [PackedFile(path, name) for name in packed if name.endswith(f"/{RECORD}")]
        files += [(file.path.parent.parts, file) for file in records]
        if RECORD in names:
            files.append((path.parts, path / RECORD))
    # Not by the paths themselves, which takes longer.
    return [file for _, file in sorted(files, key=lambda pair: pair[0])]


def load_record(file: RunFile) -> dict[str, Any]:
    """Read the JSON of a record as ``record.load`` does."""
    if isinstance(file, Path):
        return record.load(file)
    try:
        return record.readable(DECODER.decode(file.read_bytes().decode()), file.path)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}).") from None


def content_hash(table: "pyarrow.Table") -> str:
    """Hash names, types and values of a table of items, however it is stored: 16 hex digits."""
    columns = (part for column in table.columns for part in _content(column))
    return digest([repr(table.column_names).encode(), *columns])


def _content(values: "pyarrow.ChunkedArray") -> Iterator[bytes]:
    import pyarrow
    import pyarrow.compute as compute

    yield str(values.type).encode()
    if pyarrow.types.is_list(values.type):
        yield from _content(compute.list_value_length(values))
        yield from _content(compute.list_flatten(values))
    elif pyarrow.types.is_primitive(values.type) and not values.null_count:
        yield values.to_numpy().tobytes()
    else:
        yield repr(values.to_pylist()).encode()


@lru_cache(maxsize=8)
def _places(root: Path) -> Mapping[str, tuple[Path, int]]:
    """Return the Parquet file and row of each packed file by its name."""
    files = [root / RECORDS, *listing(root / ITEMS, ".parquet")]
    if (root / FILES).is_file():
        files.append(root / FILES)
    places: dict[str, tuple[Path, int]] = {}
    for file in files:
        with explain_table_errors(file):
            names = _opened(file).read(["path"]).column("path").to_pylist()
        end = f"/{RECORD}" if file.name == RECORDS else ""
        places |= {f"{name}{end}": (file, row) for row, name in enumerate(names)}
    return places


@lru_cache(maxsize=64)
def _opened(file: Path) -> Any:
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(file, memory_map=True)


@lru_cache(maxsize=64)
def _column(file: Path, group: int, name: str) -> Any:
    with explain_table_errors(file):
        return _opened(file).read_row_group(group, [name], use_threads=False).column(name)
