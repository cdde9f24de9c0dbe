"""Write rows of a hub copy as the files of the official layout.

A task module with such a writer has ``write_official(rows, folder)``. A row has the columns of the
copy, and ``CONFIG`` and ``SPLIT`` in addition. An image is ``{"bytes": ..., "path": ...}``, as in
parquet files of the hub, so that its file is written unchanged and never encoded again.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.data.tables import CONFIG as CONFIG  # re-exported
from steelyard.harness.data.tables import SPLIT as SPLIT  # re-exported


def column(row: Mapping[str, Any], *names: str) -> Any:
    """Return the row's first column of these names; UserError with all its columns if none."""
    for name in names:
        if name in row:
            return row[name]
    columns = ", ".join(sorted(map(str, row.keys() - {CONFIG, SPLIT})))
    raise UserError(f"The copy has no column {' or '.join(names)}; its columns are {columns}.")


def write_image(image: Any, folder: Path, name: str) -> None:
    """Write a row's image as ``folder / name`` unless it exists: questions may share one.

    Bytes are kept as they are: what cannot be decoded is found when the folder is read.
    """
    path = folder / name
    # Names are from the copy's rows: never write outside of the folder.
    if ".." in Path(name).parts or not path.is_relative_to(folder):
        raise UserError(f"The copy names an image {name!r}, which is outside of its folder.")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = image.get("bytes") if isinstance(image, Mapping) else image
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        raise UserError(f"The copy has no bytes of the image {name}; take a full copy.")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, content: Any) -> None:
    """Write one JSON document."""
    write_text(path, json.dumps(content, ensure_ascii=False))


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a table without a header."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    write_text(path, table.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file of the official layout; create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Line ends do not depend on the system, and so neither do checksums.
    path.write_text(text, encoding="utf-8", newline="\n")
