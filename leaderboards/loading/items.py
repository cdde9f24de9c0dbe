"""Read the scored items of a run: only the columns a metric needs, sorted once for all runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import explain_table_errors
from steelyard.leaderboards.loading.packed import PackedFile, RunFile
from steelyard.tasks.answers import normalise
from steelyard.tasks.weighted_metrics import Items

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet as parquet

KEYS = ("variant", "id", "cluster")
SHARED = (*KEYS, "target")
"""Columns that are equal in all runs on the same items, and first in their files."""
CLASSES = ("target", "predicted")
VALUES = ("score", "confidence")
NEEDED: Mapping[str, Sequence[str]] = {
    "auroc": ("target", "confidence"),
    **dict.fromkeys(("macro_f1", "micro_f1", "samples_f1", "weighted_f1"), CLASSES),
}
"""Columns by metric; all other metrics need the score of each item."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Order of the items of a file; files with equal shared columns have the same object."""

    shared: "pyarrow.Table"
    """The columns ``SHARED``, without targets where they were not requested."""
    stored: object
    """See ``_stored``."""
    rows: Mapping[str, NDArray[np.intp]]
    """Row numbers of each variant, sorted by id."""
    ids: Mapping[str, NDArray[np.str_]]
    """[n] by variant."""
    clusters: Mapping[str, NDArray[np.str_]]
    """[n] by variant."""


def columns_for(metric: str) -> Sequence[str]:
    """Return the columns that a metric is computed from."""
    return NEEDED.get(metric, ("score",))


def column_names(path: RunFile) -> list[str]:
    """Return the columns of a file of items."""
    import pyarrow.parquet as parquet

    if isinstance(path, PackedFile):
        return path.column_names()
    with explain_table_errors(path):
        return list(parquet.read_schema(path).names)


def read(
    path: RunFile, columns: Sequence[str], expected: Order | None = None
) -> tuple["pyarrow.Table", Order]:
    """Read columns of a file and the order of its items; ``expected`` itself if it is the same.

    The table has no ``SHARED`` columns: targets are in the order.

    Raises:
        UserError: the file is missing or broken, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    shared = [name for name in SHARED if name in KEYS or name in columns]
    unshared = [name for name in columns if name not in shared]
    names, stored = [*shared, *unshared], None
    if isinstance(path, PackedFile):
        table = path.read_table(names)
    else:
        with explain_table_errors(path):
            # In one piece and one thread: the files are small, and ``_stored`` needs the bytes.
            content = path.read_bytes()
            file = parquet.ParquetFile(pyarrow.BufferReader(content), pre_buffer=False)
            stored = _stored(file, content, shared)
            # Decoding columns that nearly all runs share would take half of the time.
            if expected is not None and stored is not None and stored == expected.stored:
                names = unshared
            table = file.read(names, use_threads=False)
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}: run again.")
    if expected is not None and names is unshared:
        return table, expected
    return table.select(unshared), _order(table.select(shared), stored, expected)


def _stored(file: "parquet.ParquetFile", content: bytes, shared: Sequence[str]) -> object:
    """Return the compressed shared columns: files where these are equal decode to equal columns.

    None if the columns are not the first of the file, or not in one row group.
    """
    metadata = file.metadata
    # With several row groups the shared columns are not side by side.
    if metadata.num_row_groups != 1 or metadata.num_columns < len(shared):
        return None
    group = metadata.row_group(0)
    chunks = [group.column(index) for index in range(len(shared))]
    if [chunk.path_in_schema.split(".")[0] for chunk in chunks] != shared:
        return None
    # A chunk starts with its dictionary, if it has one.
    start = chunks[0].dictionary_page_offset or chunks[0].data_page_offset
    encodings = [
        (chunk.compression, chunk.num_values, chunk.total_compressed_size) for chunk in chunks
    ]
    end = start + sum(size for _, _, size in encodings)
    # Equal bytes mean equal columns only under equal types and compression.
    return file.schema, encodings, content[start:end]


def _order(shared: "pyarrow.Table", stored: object, expected: Order | None) -> Order:
    if expected is not None and shared.equals(expected.shared):
        return expected
    variants, ids, clusters = (np.array(shared[name].to_pylist(), dtype=np.str_) for name in KEYS)
    # By variant, then id: the last key sorts first.
    order = np.lexsort((ids, variants))
    names, starts = np.unique(variants[order], return_index=True)
    rows = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
    return Order(
        shared,
        stored,
        rows,
        {name: ids[indices] for name, indices in rows.items()},
        {name: clusters[indices] for name, indices in rows.items()},
    )


def items_of(
    tables: Sequence["pyarrow.Table"], order: Order, classes: int, columns: Sequence[str]
) -> list[dict[str, Items]]:
    """Return the items of each table by variant, with these columns and the others empty.

    ``classes`` is the width C. Several tables at once take less time than one by one.
    """
    joined = _joined(tables)
    values: dict[str, NDArray[Any]] = {}
    """[K, rows] or [K, rows, C] of each column."""
    if "predicted" in columns:
        values["predicted"] = _by_table(_indicator(joined["predicted"], classes), tables)
    for name in VALUES:
        if name in columns:
            column = joined[name].to_numpy().astype(np.float64, copy=False)
            values[name] = _by_table(column, tables)
    targets = _targets(order, classes) if "target" in columns else {}
    no_classes, no_values = np.zeros((0, classes), dtype=np.bool_), np.zeros(0)
    results: list[dict[str, Items]] = [{} for _ in tables]
    for variant, rows in order.rows.items():
        sorted_values = {name: array.take(rows, axis=1) for name, array in values.items()}
        for index, items in enumerate(results):
            table_values = {name: array[index] for name, array in sorted_values.items()}
            items[variant] = Items(
                order.ids[variant],
                order.clusters[variant],
                targets.get(variant, no_classes),
                table_values.get("predicted", no_classes),
                table_values.get("score", no_values),
                table_values.get("confidence", no_values),
            )
    return results


# Keyed by identity, as orders have no equality; few are in use at a time.
@lru_cache(maxsize=4)
def _targets(order: Order, classes: int) -> Mapping[str, NDArray[np.bool_]]:
    """Return the classes of each item as 0/1, by variant: [n, C]; cached for all runs."""
    targets = _indicator(order.shared["target"], classes)
    return {variant: targets[rows] for variant, rows in order.rows.items()}


def answer_column(path: RunFile) -> str:
    """Return the column of answers: predicted classes, or else words."""
    return "predicted" if "predicted" in column_names(path) else "answer"


def unchanged_answers(
    tables: Sequence["pyarrow.Table"],
    order: Order,
    column: str,
    variants: Sequence[str],
    reference: str,
) -> NDArray[np.bool_]:
    """Compare answers of V variants with those of the ``reference``, in K tables: [K, V, n].

    An answer is the set of predicted classes, or words after the normalisation of VQA.
    """
    joined = _joined(tables)[column]
    rows = _class_sets(joined) if column == "predicted" else _words(joined)
    answers = _by_table(rows, tables)
    references = answers.take(order.rows[reference], axis=1)
    is_same = [
        (answers.take(order.rows[variant], axis=1) == references).all(axis=2)
        for variant in variants
    ]
    return np.stack(is_same, axis=1)


def group_by_order(
    tables: Sequence[tuple["pyarrow.Table", Order]],
) -> Iterator[tuple[list["pyarrow.Table"], Order]]:
    """Yield neighbouring tables of the same order and column types together."""
    for (order, _), group in groupby(tables, lambda pair: (pair[1], pair[0].schema)):
        yield [table for table, _ in group], order


def _by_table(rows: NDArray[Any], tables: Sequence["pyarrow.Table"]) -> NDArray[Any]:
    """Reshape the joined rows of K tables of equal length to [K, rows, ...]."""
    return rows.reshape(len(tables), len(rows) // len(tables), *rows.shape[1:])


def _joined(tables: Sequence["pyarrow.Table"]) -> "pyarrow.Table":
    import pyarrow

    return pyarrow.concat_tables(tables)


def _class_sets(column: "pyarrow.ChunkedArray") -> NDArray[np.bool_] | NDArray[np.int64]:
    """Return rows that are equal if and only if the sets of predicted classes are.

    The class numbers, [rows, 1], if each row has one, else 0/1 for each class: [rows, C].
    """
    import pyarrow.compute as compute

    flat = compute.list_flatten(column).to_numpy()
    classes: NDArray[np.int64] = flat.astype(np.int64, copy=False)
    # One class per item is the usual case, and one number compares faster than C marks.
    if (compute.list_value_length(column).to_numpy() == 1).all():
        return classes[:, None]
    return _indicator(column, int(classes.max(initial=-1)) + 1)


def _words(column: "pyarrow.ChunkedArray") -> NDArray[np.int64]:
    """Number answers so that those with equal normalised words have equal numbers: [rows, 1]."""
    answers = column.to_pylist()
    normalised = {text: normalise(text) for text in set(answers)}
    numbers = {text: number for number, text in enumerate(dict.fromkeys(normalised.values()))}
    return np.array([[numbers[normalised[text]]] for text in answers])


def _indicator(column: "pyarrow.ChunkedArray", classes: int) -> NDArray[np.bool_]:
    """Return class indices as a 0/1 matrix: [n, C].

    Raises:
        UserError: there is an index outside the ``classes`` of the record.
    """
    import pyarrow.compute as compute

    rows = compute.list_parent_indices(column).to_numpy()
    # Parquet gives a column of nothing but empty lists the type null, hence the cast.
    indices = compute.list_flatten(column).to_numpy().astype(np.int64)
    if len(indices) and not 0 <= indices.min() <= indices.max() < classes:
        raise UserError(
            f"items have classes from {indices.min()} to {indices.max()}, and their record counts "
            f"{classes} classes: copy the whole folder of the run again"
        )
    indicator = np.zeros((len(column), classes), dtype=np.bool_)
    indicator[rows, indices] = True
    return indicator
