"""What writers of official trees share: rows of a hub copy in, files as published out.

A task module that can do so offers ``write_official(rows, folder)``. A row has the columns of the
copy, and ``CONFIG`` and ``SPLIT`` beside them. A picture is ``{"bytes": ..., "path": ...}``, as
parquet files of the hub hold it, so that its file is written as it was and never encoded again.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from steelyard.harness.core.errors import UserError

CONFIG, SPLIT = "__config__", "__split__"
"""Keys of a row that say which configuration and split of the copy it is from."""


def column(row: Mapping[str, Any], *names: str) -> Any:
    """The row's first column of these names; a UserError that lists what there is without one."""
    for name in names:
        if name in row:
            return row[name]
    have = ", ".join(sorted(map(str, row.keys() - {CONFIG, SPLIT})))
    raise UserError(f"The copy has no column {' or '.join(names)}; its columns are {have}.")


def write_image(picture: Any, folder: Path, name: str) -> None:
    """Write a row's picture as ``folder / name`` unless it is there: questions may share one.

    A picture that was decoded (a PIL image) is encoded again, all others keep their bytes.

    Raises:
        UserError: the copy holds no bytes, or the name leads out of the folder.
    """
    path = folder / name
    if ".." in Path(name).parts or not path.is_relative_to(folder):
        raise UserError(f"The copy names a picture {name!r}, which is outside of its folder.")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = picture.get("bytes") if isinstance(picture, Mapping) else picture
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Image.Image):
        content.save(path)
    else:
        raise UserError(f"The copy holds no bytes of the picture {name}; take a full copy.")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path: Path, content: Any) -> None:
    """One JSON document, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", newline="\n")
