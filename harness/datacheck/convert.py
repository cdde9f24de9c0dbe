"""Convert a copy of a data set (hub, folder of tables, archive) to its official layout.

Nothing is downloaded unless the user names a hub id; the result is a new folder of the user's.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from steelyard import tasks
from steelyard.harness.core import folders
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import cache_folder, publish_folder, user_path
from steelyard.harness.data import archives, tables
from steelyard.harness.data.tables import OnRow
from steelyard.harness.datacheck import annotations, layout
from steelyard.harness.datacheck.layout import is_image

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
EVERYTHING = ("*",)


@dataclass(frozen=True, slots=True)
class DataCopy:
    """Copy of a data set on this machine; ``revision`` is the commit of a hub copy."""

    name: str
    path: Path
    revision: str = ""


def is_convertible(task: str) -> bool:
    """Test whether tables of a task's data can be written in its official layout."""
    return "write_official" in vars(tasks.module(task))


def is_hub_id(text: str) -> bool:
    """Test whether a text has the form ``ORG/NAME`` and is no path that exists."""
    return bool(HUB_ID.fullmatch(text)) and not Path(text).exists()


def find(task: str, text: str) -> DataCopy:
    """Return the folder or archive at a path, or download the data set with a hub id."""
    path = user_path(text)
    if path.exists():
        return DataCopy(path.name, path)
    if not is_hub_id(text):
        hub = tasks.info("pope").hub
        raise UserError(f"'{text}' is no folder, no archive, and no hub id such as {hub}.")
    return download(task, text)


def download(task: str, name: str) -> DataCopy:
    """Download a hub data set into the hub's cache; an interrupted download continues."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The task's patterns fit one known copy; another may have other names or the official files.
    try:
        for patterns in filter(len, (tasks.info(task).hub_files, tables.PATTERNS, EVERYTHING)):
            path = Path(snapshot_download(name, repo_type="dataset", allow_patterns=[*patterns]))
            if tables.find(path) or _official(task, path):
                break
    except LocalEntryNotFoundError:
        raise UserError(
            f"'{name}' is no folder here, and it cannot be downloaded from the hub: "
            "the hub is out of reach or HF_HUB_OFFLINE is set."
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The hub refuses data set '{name}': {reason}") from None
    return DataCopy(name, path, path.name)


def ensure(task: str, name: str, on_row: OnRow) -> Path:
    """Return a hub data set in the official layout, converted once into the user's cache.

    To get a newer revision, delete the folder.
    """
    to = cache_folder() / "official" / f"{task}-{name.replace('/', '--')}"
    if not (to / annotations.SOURCE).is_file():
        convert(task, download(task, name), to, on_row)
    return to


def convert(task: str, copy: DataCopy, to: Path, on_row: OnRow) -> None:
    """Write a copy in the official layout at ``to``, with its source and checksums.

    Raises:
        UserError: ``to`` exists and is not empty, the copy cannot be converted, or the disk is
            full. ``to`` is then unchanged.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists already: give a folder that is new or empty.")
    with publish_folder(to) as folder:
        _write(task, copy, folder, on_row)
        about = {"task": task, "source": copy.name, "revision": copy.revision}
        source = folder / annotations.SOURCE
        source.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        files = annotations.examine(folder, folders.walk(folder), {})
        annotations.write_sums(folder, [file.path for file in files])


def _write(task: str, copy: DataCopy, folder: Path, on_row: OnRow) -> None:
    """Write the official layout at ``folder``, which does not exist yet."""
    path = copy.path
    if archives.is_archive(path):
        # Beside it: the parent is a temporary folder, so what is not used is removed with it.
        unpacked = folder.with_name(f"{folder.name}-unpacked")
        archives.unpack(path, unpacked)
        if (official := _official(task, unpacked)) is None:
            raise UserError(f"{path} has no files in the official layout of {task}.")
        official.rename(folder)
    elif tables.find(path):
        if not is_convertible(task):
            source = tasks.info(task).source
            raise UserError(f"Tables of {task} cannot be converted; its official files: {source}.")
        folder.mkdir()
        write = vars(tasks.module(task))["write_official"]
        tables.convert(path, lambda rows: write(rows, folder), on_row)
    elif (official := _official(task, path)) is None:
        kinds = " or ".join((*tables.PATTERNS, *(f"*{ending}" for ending in archives.ENDINGS)))
        raise UserError(f"No {kinds} and no official layout of {task} at {path}.")
    elif not copy.revision:
        raise UserError(f"{official} has the official layout already: give it as --data-root.")
    else:
        shutil.copytree(official, folder)


def _official(task: str, path: Path) -> Path | None:
    """Return the folder at or below ``path`` that has at least a part of the official layout.

    A task that reads further forms says by ``is_readable`` whether a folder has one of them.
    """
    if not path.is_dir():
        return None
    readable = vars(tasks.module(task)).get("is_readable")
    if readable is not None and readable(path):
        return path
    lines = tasks.info(task).layout
    folder = path / layout.nested(layout.expected(lines, folders.walk(path)))
    for row in layout.expected(lines, folders.walk(folder)):
        # Images elsewhere may be of any data set; the names of annotation files are specific.
        if row.state == "found" or (row.state == "elsewhere" and not is_image(row.path)):
            return folder
    return None
