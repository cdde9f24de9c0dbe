"""A run's scored items from their file: the columns a metric needs, in an order found once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.errors import UserError
from steelyard.leaderboards.metrics import Items
from steelyard.tasks.answers import normalise

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet as parquet

PLACE = ("variant", "id", "cluster")
"""Which item of which variant a row is."""
CLASSES = ("target", "predicted")
VALUES = ("score", "confidence")
NEEDED: Mapping[str, Sequence[str]] = {
    "auroc": ("target", "confidence"),
    **dict.fromkeys(("macro_f1", "micro_f1", "samples_f1", "weighted_f1"), CLASSES),
}
"""Columns by metric; all others need the items' own scores."""


Stored = tuple[tuple[str, str, int, bytes], ...]
"""Type, compression, number of values and bytes of columns: what is equal here reads as equal."""


@dataclass(frozen=True, slots=True)
class Order:
    """Where a file holds which items. Runs scored alike share it, and it is found only once."""

    place: "pyarrow.Table"
    """The columns ``PLACE`` as read."""
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

    Raises:
        UserError: the file is missing or broken, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        content = path.read_bytes()
        source = pyarrow.BufferReader(content)
        file = parquet.ParquetFile(source, read_dictionary=list(PLACE), pre_buffer=False)
        stored = _stored(file, content)
        same = known is not None and stored is not None and stored == known.stored
        # The columns of places, which nearly all runs share, take a third of the time.
        wanted = [*columns] if same else [*PLACE, *columns]
        table = file.read(wanted, use_threads=False).combine_chunks()
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
    return table, known if known is not None and same else _order(table, stored, known)


def _stored(file: "parquet.ParquetFile", content: bytes) -> Stored | None:
    """How a file stores its columns ``PLACE``; None where they are not its first, in one group."""
    if file.metadata.num_row_groups != 1 or file.metadata.num_columns < len(PLACE):
        return None
    group = file.metadata.row_group(0)
    found = [group.column(number) for number in range(len(PLACE))]
    if tuple(column.path_in_schema for column in found) != PLACE:
        return None
    chunks = []
    for column in found:
        first = column.dictionary_page_offset or column.data_page_offset
        chunk = content[first : first + column.total_compressed_size]
        chunks.append((column.physical_type, column.compression, column.num_values, chunk))
    return tuple(chunks)


def _order(table: "pyarrow.Table", stored: Stored | None, known: Order | None) -> Order:
    place = table.select(list(PLACE))
    if known is not None and place.equals(known.place):
        return known
    variants, ids, clusters = (np.array(place[name].to_pylist(), dtype=np.str_) for name in PLACE)
    order = np.lexsort((ids, variants))
    names, starts = np.unique(variants[order], return_index=True)
    parts = zip(names.tolist(), np.split(order, starts[1:]), strict=True)
    rows = dict(parts)
    return Order(
        place,
        stored,
        rows,
        {name: ids[part] for name, part in rows.items()},
        {name: clusters[part] for name, part in rows.items()},
    )


def items_of(
    table: "pyarrow.Table", order: Order, classes: int, columns: Sequence[str]
) -> dict[str, Items]:
    """Items by variant with these columns, others empty. ``classes`` is the width C."""
    marks = {name: _indicator(table[name], classes) for name in CLASSES if name in columns}
    numbers = {
        name: table[name].to_numpy().astype(np.float64, copy=False)
        for name in VALUES
        if name in columns
    }
    none, nothing = np.zeros((0, classes), dtype=np.bool_), np.zeros(0)
    return {
        variant: Items(
            order.ids[variant],
            order.clusters[variant],
            marks["target"][rows] if "target" in marks else none,
            marks["predicted"][rows] if "predicted" in marks else none,
            numbers["score"][rows] if "score" in numbers else nothing,
            numbers["confidence"][rows] if "confidence" in numbers else nothing,
        )
        for variant, rows in order.rows.items()
    }


def answer_column(path: Path) -> str:
    """The column of a file that holds answers: predicted classes, or else words."""
    return "predicted" if "predicted" in names(path) else "answer"


def unchanged(
    table: "pyarrow.Table", order: Order, answer: str, variants: Sequence[str], usual: str
) -> NDArray[np.bool_]:
    """Whether each answer of V variants is that of the variant ``usual``: [V, n].

    An answer is the set of predicted classes, or words after the normalisation of VQA.
    """
    given = table[answer]
    answers = _class_sets(given) if answer == "predicted" else _words(given)
    wanted = answers[order.rows[usual]]
    return np.stack([(answers[order.rows[each]] == wanted).all(axis=1) for each in variants])


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
