"""Pack folders of runs into a few Parquet files, see ``packed``."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import digest, explain_table_errors, file_hash, publish_folder
from steelyard.harness.core.folders import find, listing
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.harness.records.record import RECORD
from steelyard.harness.runs import tuning
from steelyard.leaderboards.loading.collect import Run, identity, read_runs
from steelyard.leaderboards.loading.packed import FILES, ITEMS, RECORDS, ROWS, content_hash
from steelyard.tasks.corruptions.missing import FOLDER

if TYPE_CHECKING:
    import pyarrow


def pack(root: Path, out: Path, report: Progress = no_progress) -> int:
    """Write the records and items of all runs below a folder into a new one; return their number.

    Weights and logs are not packed.

    Raises:
        UserError: there is no record, a record or its items were changed, or ``out`` exists.
    """
    import pyarrow
    from pyarrow import parquet

    # As boards read them: neighbours are in one row group.
    runs = sorted(read_runs([root]), key=identity)
    if not runs:
        raise UserError(f"No record under {root}: give a folder of finished runs.")
    if any(run.packed for run in runs):
        raise UserError(f"{root} has runs that are packed: give folders of runs.")
    with publish_folder(out) as folder, ExitStack() as stack:
        (folder / ITEMS).mkdir(parents=True)
        writers: dict[str, Any] = {}
        rows: defaultdict[str, list[Any]] = defaultdict(list)
        for index, run in enumerate(runs, start=1):
            for file, row in _rows(run, run.folder.relative_to(root).as_posix()):
                rows[file].append(row)
            for file in [file for file in rows if len(rows[file]) == ROWS or index == len(runs)]:
                table = pyarrow.concat_tables(rows.pop(file))
                if file not in writers:
                    writer = parquet.ParquetWriter(folder / file, table.schema, compression="zstd")
                    writers[file] = stack.enter_context(writer)
                writers[file].write_table(table, row_group_size=ROWS)
            report(f"packing {run.folder.name}", index / len(runs))
        for path in find(root, tuning.FILE):
            copy = folder / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return len(runs)


def _rows(run: Run, name: str) -> Iterator[tuple[str, "pyarrow.Table"]]:
    """Yield the rows of a run, each as a table with the Parquet file that it belongs to."""
    import pyarrow
    from pyarrow import parquet

    hashes = run.record.provenance.get("tables", {})
    for path in listing(run.folder, ".parquet"):
        if file_hash(path) != hashes.get(path.name, file_hash(path)):
            raise UserError(f"{path} was changed after it was written: see 'steelyard validate'.")
        with explain_table_errors(path):
            items = parquet.read_table(path, use_threads=False)
        # Without the metadata of pandas: a row is more than one of its rows.
        items = items.replace_schema_metadata(None)
        lists = {
            column: pyarrow.ListArray.from_arrays([0, len(items)], items[column].combine_chunks())
            for column in items.column_names
        }
        about = {"path": [f"{name}/{path.name}"], "hash": [content_hash(items)]}
        yield (
            f"{ITEMS}/{digest([str(items.schema).encode()])}.parquet",
            pyarrow.table(about | lists),
        )
    for path in listing(run.folder / FOLDER):
        small = {"path": [f"{name}/{FOLDER}/{path.name}"], "content": [path.read_bytes()]}
        yield FILES, pyarrow.table(small)
    content = (run.folder / RECORD).read_bytes().decode()
    yield RECORDS, pyarrow.table({"path": [name], "record": [content]})
