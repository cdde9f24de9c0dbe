"""A run's scored items from their file: the columns a metric needs, in an order found once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.tasks.answers import normalise
from steelyard.tasks.weighted_metrics import Items

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet as parquet

PLACE = ("variant", "id", "cluster")
"""Which item of which variant a row is."""
SHARED = (*PLACE, "target")
"""What runs on the same items have alike, as the first columns of their files."""
CLASSES = ("target", "predicted")
VALUES = ("score", "confidence")
NEEDED: Mapping[str, Sequence[str]] = {
    "auroc": ("target", "confidence"),
    **dict.fromkeys(("macro_f1", "micro_f1", "samples_f1", "weighted_f1"), CLASSES),
}
"""Columns by metric; all others need the items' own scores."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a file holds its first columns: what is equal here reads as equal."""

    schema: "parquet.ParquetSchema"
    """Of all columns."""
    chunks: tuple[tuple[str, int, int], ...]
    """Compression, number of values and bytes of each."""
    content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Where a file holds which items. Runs scored alike share it, and it is found only once."""

    shared: "pyarrow.Table"
    """The columns ``SHARED`` as read, without targets where nobody asked for them."""
    stored: Stored | None
    """The same as it lies in the file."""
    rows: Mapping[str, NDArray[np.intp]]
    """Rows of each variant, sorted by id."""
    ids: Mapping[str, NDArray[np.str_]]
    """[n] by variant."""
    clusters: Mapping[str, NDArray[np.str_]]
    """[n] by variant."""


def columns_for(metric: str) -> Sequence[str]:
    """The columns that a metric is computed from."""
    return NEEDED.get(metric, ("score",))


def names(path: Path) -> list[str]:
    """The columns that a file of items has."""
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise UserError(f"No {path}: intervals need a run's items, copy its whole folder.")
    return list(parquet.read_schema(path).names)


def read(
    path: Path, columns: Sequence[str], known: Order | None = None
) -> tuple["pyarrow.Table", Order]:
    """The named columns of a file, and the order of its items: ``known`` where they lie so.

    Targets are found in the order.

    Raises:
        UserError: the file is missing or broken, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    shared = [name for name in SHARED if name in PLACE or name in columns]
    own = [name for name in columns if name not in shared]
    try:
        content = path.read_bytes()
        file = parquet.ParquetFile(pyarrow.BufferReader(content), pre_buffer=False)
        stored = _stored(file, content, shared)
        same = known is not None and stored is not None and stored == known.stored
        # The columns that nearly all runs share take half of the time.
        wanted = own if same else [*shared, *own]
        table = file.read(wanted, use_threads=False)
    except FileNotFoundError:
        raise UserError(
            f"No {path}: intervals need a run's items, copy its whole folder."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    present = table.column_names
    lacking = [name for name in wanted if name not in present]
    if lacking:
        raise UserError(f"{path} lacks the columns {', '.join(lacking)}: run again.")
    if known is not None and same:
        return table, known
    return table.select(own), _order(table.select(shared), stored, known)


def _stored(file: "parquet.ParquetFile", content: bytes, shared: Sequence[str]) -> Stored | None:
    """How a file stores columns that are its first, of one value a row or one list, in one group.

    None where it does not.
    """
    whole = file.metadata
    if whole.num_row_groups != 1 or whole.num_columns < len(shared):
        return None
    group = whole.row_group(0)
    found = [group.column(number) for number in range(len(shared))]
    if [column.path_in_schema.split(".")[0] for column in found] != shared:
        return None
    first = found[0].dictionary_page_offset or found[0].data_page_offset
    chunks = tuple(
        (column.compression, column.num_values, column.total_compressed_size) for column in found
    )
    return Stored(file.schema, chunks, content[first : first + sum(size for _, _, size in chunks)])


def _order(shared: "pyarrow.Table", stored: Stored | None, known: Order | None) -> Order:
    if known is not None and shared.equals(known.shared):
        return known
    variants, ids, clusters = (np.array(shared[name].to_pylist(), dtype=np.str_) for name in PLACE)
    order = np.lexsort((ids, variants))
    names, starts = np.unique(variants[order], return_index=True)
    parts = zip(names.tolist(), np.split(order, starts[1:]), strict=True)
    rows = dict(parts)
    return Order(
        shared,
        stored,
        rows,
        {name: ids[part] for name, part in rows.items()},
        {name: clusters[part] for name, part in rows.items()},
    )


def items_of(
    tables: Sequence["pyarrow.Table"], order: Order, classes: int, columns: Sequence[str]
) -> list[dict[str, Items]]:
    """Of each table in this order, items by variant with these columns, others empty.

    ``classes`` is the width C. Of several tables at once, because most of the time of each step
    is spent before it begins.
    """
    whole = _joined(tables)
    held: dict[str, NDArray[Any]] = {}
    """[K, rows] or [K, rows, C] of each column."""
    if "predicted" in columns:
        marks = _indicator(whole["predicted"], classes)
        held["predicted"] = _by_table(marks, tables)
    for name in VALUES:
        if name in columns:
            values = whole[name].to_numpy().astype(np.float64, copy=False)
            held[name] = _by_table(values, tables)
    target = _targets(order, classes) if "target" in columns else {}
    none, nothing = np.zeros((0, classes), dtype=np.bool_), np.zeros(0)
    found: list[dict[str, Items]] = [{} for _ in tables]
    for variant, rows in order.rows.items():
        taken = {name: values.take(rows, axis=1) for name, values in held.items()}
        for place, items in enumerate(found):
            items[variant] = Items(
                order.ids[variant],
                order.clusters[variant],
                target.get(variant, none),
                taken["predicted"][place] if "predicted" in taken else none,
                taken["score"][place] if "score" in taken else nothing,
                taken["confidence"][place] if "confidence" in taken else nothing,
            )
    return found


@lru_cache(maxsize=4)
def _targets(order: Order, classes: int) -> Mapping[str, NDArray[np.bool_]]:
    """Which of the C classes each item carries, by variant: [n, C], found once for all runs."""
    found = _indicator(order.shared["target"], classes)
    return {variant: found[rows] for variant, rows in order.rows.items()}


def answer_column(path: Path) -> str:
    """The column of a file that holds answers: predicted classes, or else words."""
    return "predicted" if "predicted" in names(path) else "answer"


def unchanged(
    tables: Sequence["pyarrow.Table"],
    order: Order,
    answer: str,
    variants: Sequence[str],
    usual: str,
) -> NDArray[np.bool_]:
    """Whether each answer of V variants is that of the variant ``usual``, in K tables: [K, V, n].

    An answer is the set of predicted classes, or words after the normalisation of VQA.
    """
    given = _joined(tables)[answer]
    found = _class_sets(given) if answer == "predicted" else _words(given)
    answers = _by_table(found, tables)
    wanted = answers.take(order.rows[usual], axis=1)
    same = [(answers.take(order.rows[each], axis=1) == wanted).all(axis=2) for each in variants]
    return np.stack(same, axis=1)


def alike(
    read: Sequence[tuple["pyarrow.Table", Order]],
) -> Iterator[tuple[list["pyarrow.Table"], Order]]:
    """What was read in groups of neighbours of one order and the same types of columns."""
    for (order, _), group in groupby(read, lambda each: (each[1], each[0].schema)):
        yield [table for table, _ in group], order


def _by_table(rows: NDArray[Any], tables: Sequence["pyarrow.Table"]) -> NDArray[Any]:
    """Rows of K tables of equal length one after the other as [K, rows, ...]."""
    return rows.reshape(len(tables), len(rows) // len(tables), *rows.shape[1:])


def _joined(tables: Sequence["pyarrow.Table"]) -> "pyarrow.Table":
    import pyarrow

    return pyarrow.concat_tables(tables)


def _class_sets(column: "pyarrow.ChunkedArray") -> NDArray[np.bool_] | NDArray[np.int64]:
    """Rows that are equal where the sets of predicted classes are.

    The classes themselves, [rows, 1], where each row has one, else 0/1 for each class: [rows, C].
    """
    import pyarrow.compute as compute

    flat = compute.list_flatten(column).to_numpy()
    classes: NDArray[np.int64] = flat.astype(np.int64, copy=False)
    if (compute.list_value_length(column).to_numpy() == 1).all():
        return classes[:, None]
    return _indicator(column, int(classes.max(initial=-1)) + 1)


def _words(column: "pyarrow.ChunkedArray") -> NDArray[np.int64]:
    """A number for each answer, equal for those that are equal once normalised: [rows, 1]."""
    given = column.to_pylist()
    known = {text: normalise(text) for text in set(given)}
    numbers = {text: number for number, text in enumerate(dict.fromkeys(known.values()))}
    return np.array([[numbers[known[text]]] for text in given])


def _indicator(column: "pyarrow.ChunkedArray", classes: int) -> NDArray[np.bool_]:
    """Class indices as a 0/1 matrix: [n, C]."""
    import pyarrow.compute as compute

    rows = compute.list_parent_indices(column).to_numpy()
    present = np.zeros((len(column), classes), dtype=np.bool_)
    # Parquet gives a column of nothing but empty lists the type null, hence the cast.
    present[rows, compute.list_flatten(column).to_numpy().astype(np.int64)] = True
    return present
