"""Results of reading files, in the user's cache folder for as long as the files stay the same, and
figures of equal numbers.

A file is known by its place on its disk, its size and the time of its last change, which no program
can set. A memo that is absent, broken or cannot be written costs time and changes nothing.
"""

import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import TemporaryFolder, cache_folder, digest
from steelyard.harness.core.folders import listing

SETTLED = 2 * 10**9
"""Nanoseconds; a file that changed more recently may change again within a tick of its clock."""
FEWEST = 50
"""Files at least: fewer are read at once."""
FEW = 0.05
"""Fraction of files whose new results are not worth writing the memo again."""
MOST_BYTES = 4 << 30
"""Of all memos of a kind; those that have not been used for longest are removed."""
BATCH_BYTES = 16 << 20

FileKey = tuple[int, int, int, int, int]
"""Device, inode, size and time of change of a file, then which of its results."""
Value = bytes | memoryview


def file_key(path: Path, part: int = 0) -> FileKey | None:
    """Return the key of a file; None if it is absent, or may change without another key."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - for many files
    except OSError:
        return None
    is_settled = abs(time.time_ns() - stat.st_ctime_ns) > SETTLED
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns, part) if is_settled else None


def remembered(
    kind: str,
    names: Iterable[bytes],
    keys: Sequence[FileKey | None],
    compute: Callable[[Sequence[int]], Iterable[Value]],
    *,
    at_once: int,
    files: int | None = None,
    compression: Literal["zstd"] | None = None,
) -> Iterator[Value]:
    """Yield the value of each key in order, computed where the memo has none.

    Args:
        kind: folder of the memo in the cache.
        names: what else the values depend on.
        keys: values of None are never in the memo.
        compute: called with positions in ``keys``, ``at_once`` at most.
        files: how many the values come from, by default one for each key.
        compression: of the memo; without one, values are not copied into memory.
    """
    file: Path | None = None
    with suppress(UserError):  # no home folder
        if (len(keys) if files is None else files) >= FEWEST:
            file = cache_folder() / kind / f"{digest(names)}.arrow"
    old = _Memo(file)
    is_few = sum(key not in old.rows for key in keys) <= FEW * len(keys)
    new = _NewMemo(None if is_few else file, compression)
    try:
        for start in range(0, len(keys), at_once):
            chunk = range(start, min(start + at_once, len(keys)))
            values: list[Value | None] = [old.value(keys[index]) for index in chunk]
            absent = [index for index in chunk if values[index - start] is None]
            for index, value in zip(absent, compute(absent) if absent else (), strict=True):
                values[index - start] = value
            complete = [value for value in values if value is not None]
            for index, value in zip(chunk, complete, strict=True):
                new.add(keys[index], value)
            if chunk.stop == len(keys):  # not after the last value, which may end the caller's loop
                new.publish()
            yield from complete
    finally:
        new.close()


class _Memo:
    """Reader of a memo, which has no rows if its file is absent or broken."""

    def __init__(self, file: Path | None) -> None:
        import pyarrow
        from pyarrow import ipc

        self.rows: dict[FileKey | None, tuple[int, int, int]] = {}
        """Checksum, batch and row by key."""
        self._batch: tuple[int, pyarrow.RecordBatch] | None = None
        if file is None or not file.is_file():
            return
        with suppress(OSError, ValueError, pyarrow.ArrowException):
            source = pyarrow.memory_map(str(file))
            only_keys = ipc.open_file(source, options=ipc.IpcReadOptions(included_fields=[0]))
            self._reader = ipc.open_file(source)
            for number in range(only_keys.num_record_batches):
                numbers = only_keys.get_batch(number).column(0).flatten().to_numpy()
                for row, (checksum, *key) in enumerate(numbers.reshape(-1, 6).tolist()):
                    self.rows[tuple(key)] = checksum, number, row
            os.utime(file)  # its last use

    def value(self, key: FileKey | None) -> memoryview | None:
        import pyarrow

        if key not in self.rows:
            return None
        checksum, number, row = self.rows[key]
        try:
            # Values are read in the order in which they were written.
            if self._batch is None or self._batch[0] != number:
                batch = self._reader.get_batch(number)
                batch.validate(full=True)  # a wrong offset may be anywhere in memory
                self._batch = number, batch
            value = memoryview(self._batch[1].column(1)[row].as_buffer())
        except (OSError, pyarrow.ArrowException):
            return None
        return value if zlib.crc32(value) == checksum else None


class _NewMemo:
    """Writer of a memo; without a file, or after an error, it writes nothing."""

    def __init__(self, file: Path | None, compression: str | None) -> None:
        import pyarrow
        from pyarrow import ipc

        self._file, self._stack = file, ExitStack()
        self._rows: list[tuple[list[int], Value]] = []
        self._bytes = 0
        self._schema = pyarrow.schema(
            [
                ("key", pyarrow.list_(pyarrow.int64(), 6)),
                ("value", pyarrow.large_binary()),
            ]
        )
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            folder = self._stack.enter_context(TemporaryFolder(file.parent))
            self._temporary = Path(folder) / file.name
            self._sink = self._stack.enter_context(self._temporary.open("wb"))
            options = ipc.IpcWriteOptions(compression=compression)
            self._writer = ipc.new_file(self._sink, self._schema, options=options)
        except (OSError, UserError):
            self._file = None

    def add(self, key: FileKey | None, value: Value) -> None:
        if self._file is None or key is None:
            return
        self._rows.append(([zlib.crc32(value), *key], value))
        self._bytes += len(value)
        if self._bytes > BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        columns = zip(self._schema.types, zip(*self._rows, strict=True), strict=True)
        arrays = [pyarrow.array(values, kind) for kind, values in columns]
        try:
            self._writer.write(pyarrow.record_batch(arrays, self._schema))
        except (OSError, pyarrow.ArrowException):  # the disk is full
            self._file = None
        self._rows, self._bytes = [], 0

    def publish(self) -> None:
        """Replace the memo by this one, and remove old memos where there are too many."""
        if self._rows:
            self._flush()
        if self._file is None:
            return
        with suppress(OSError):
            self._writer.close()
            self._sink.flush()
            os.fsync(self._sink.fileno())
            self._temporary.replace(self._file)
            memos = [(memo.stat(), memo) for memo in listing(self._file.parent, ".arrow")]
            excess = sum(stat.st_size for stat, _ in memos) - MOST_BYTES
            for stat, memo in sorted(memos, key=lambda pair: pair[0].st_mtime):
                if excess > 0 and memo != self._file:
                    memo.unlink()
                    excess -= stat.st_size

    def close(self) -> None:
        self._stack.close()
