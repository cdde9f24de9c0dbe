"""Copies of data sets made into the official tree: from the hub, from a folder, from an archive.

Nothing is fetched unless a hub id was named, and nothing is passed on: what is read is written into
one folder of the user's, which appears when it is finished.
"""

import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import cache_folder, publish_folder
from steelyard.harness.datacheck import annotations
from steelyard.harness.datacheck import layout as tree
from steelyard.tasks._shared.official import CONFIG, SPLIT

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
TABLES, EVERYTHING = ("*.parquet", "*.arrow"), ("*",)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
ROWS = 64
"""Rows in memory at a time; each may hold a photo."""

Row = dict[str, Any]
Seen = Callable[[int], None]
"""Called with the number of rows written so far."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a copy lies and what it is called."""

    name: str
    place: Path
    revision: str = ""


def converts(task: str) -> bool:
    """Whether hub copies of a task's data can be written as its official tree."""
    return "write_official" in vars(tasks.module(task))


def is_hub_id(text: str) -> bool:
    """Whether a text can only be a data set of the hub: ``ORG/NAME``, and no file is there."""
    return bool(HUB_ID.fullmatch(text)) and not Path(text).exists()


def find(task: str, text: str) -> Source:
    """The copy that a text names: a folder, an archive, or a data set of the hub, then fetched."""
    path = Path(text).expanduser()
    if path.exists():
        return Source(path.name, path)
    if not is_hub_id(text):
        hub = tasks.info("pope").hub
        raise UserError(f"'{text}' is no folder, no archive, and no hub id such as {hub}.")
    return fetch(task, text)


def fetch(task: str, name: str) -> Source:
    """A hub data set in the hub's own cache; interrupted downloads go on where they stopped."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # Another copy than the one the patterns are of may have other names, or the official files.
    parts = list(tasks.info(task).hub_files)
    try:
        for wanted in filter(len, (parts, TABLES, EVERYTHING)):
            place = Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(wanted)))
            if _tables(place) or _official(task, place):
                break
    except LocalEntryNotFoundError:
        raise UserError(
            f"'{name}' is no folder here, and as a data set of the hub it cannot be fetched: "
            "the hub is out of reach or HF_HUB_OFFLINE is set."
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The hub does not give data set '{name}': {reason}") from None
    return Source(name, place, place.name)


def ensure(task: str, name: str, seen: Seen) -> Path:
    """A hub data set as an official tree in the user's cache, converted once.

    To have a newer revision of it, delete the folder.
    """
    to = cache_folder() / "official" / f"{task}-{name.replace('/', '--')}"
    if not (to / annotations.SOURCE).is_file():
        convert(task, fetch(task, name), to, seen)
    return to


def convert(task: str, source: Source, to: Path, seen: Seen) -> None:
    """Write a copy as the official tree at ``to``.

    Raises:
        UserError: ``to`` holds something, the copy cannot be converted, or the disk is full. Then
            there is nothing at ``to``.
    """
    if to.exists() and any(to.iterdir() if to.is_dir() else [to]):
        raise UserError(f"{to} is there already: give a folder that is new or empty.")
    with publish_folder(to) as folder:
        _write(task, source, folder, seen)
        _sign(task, source, folder)


def _write(task: str, source: Source, folder: Path, seen: Seen) -> None:
    """Write the official tree at ``folder``, which does not exist yet."""
    place = source.place
    if place.name.endswith(ARCHIVES):
        _unpacked(task, place, folder.with_name(f"{folder.name}-unpacked")).rename(folder)
        return
    if _tables(place):
        if not converts(task):
            where = tasks.info(task).source
            raise UserError(f"Tables of {task} cannot be converted; its official files: {where}.")
        folder.mkdir()
        vars(tasks.module(task))["write_official"](_counted(rows(place), seen), folder)
        return
    official = _official(task, place)
    if official is None:
        kinds = " or ".join((*TABLES, *(f"*{ending}" for ending in ARCHIVES)))
        raise UserError(f"No {kinds} and no official layout of {task} at {place}.")
    if not source.revision:
        raise UserError(f"{official} is in the official layout already: give it as --data-root.")
    shutil.copytree(official, folder)


def _official(task: str, place: Path) -> Path | None:
    """The folder at or below ``place`` that has a task's official layout, at least in part."""
    if not place.is_dir():
        return None
    layout = tasks.info(task).layout
    inner = place / tree.nested(tree.expected(layout, tree.walk(place)))
    states = tree.expected(layout, tree.walk(inner))
    known = (row["state"] for row in states if not tree.is_image(row["path"]))
    shown = (row["state"] for row in states)
    return inner if {"found", "elsewhere"} & set(known) or "found" in set(shown) else None


def _counted(found: Iterator[Row], seen: Seen) -> Iterator[Row]:
    for number, row in enumerate(found, start=1):
        yield row
        seen(number)


def rows(place: Path) -> Iterator[Row]:
    """Rows of all tables of a folder, file by file, with their configuration and split."""
    for path in _tables(place):
        config, split = _named(path, place)
        for row in _table(path):
            yield {**row, CONFIG: config, SPLIT: split}


def count(place: Path) -> int | None:
    """Rows of all tables, where they can be told without reading them."""
    from pyarrow import ArrowInvalid, parquet

    paths = _tables(place)
    if not paths or any(path.suffix != ".parquet" for path in paths):
        return None
    try:
        return sum(int(parquet.read_metadata(path).num_rows) for path in paths)
    except (ArrowInvalid, OSError):
        return None  # reading will say which file is broken


def _tables(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if f"*{place.suffix}" in TABLES else []
    found = (path for kind in TABLES for path in place.rglob(kind))
    # datasets leaves results of its own operations under such names.
    return sorted(path for path in found if not path.name.startswith(("cache-", "tmp")))


def _named(path: Path, place: Path) -> tuple[str, str]:
    """Configuration and split of a table by its path, as the hub and ``datasets`` lay them out.

    ``CONFIG/SPLIT-00000-of-00002.parquet``, ``data/SPLIT-...``, ``CONFIG/SPLIT/0000.parquet``, and
    ``SPLIT/data-00000-of-00001.arrow`` of ``save_to_disk``.
    """
    folders = list(path.relative_to(place).parts[:-1]) if place.is_dir() else []
    split = SHARD.sub("", path.stem).rpartition("-")[2]
    if split == "data" or split.isdecimal():
        state = path.with_name("state.json")
        told = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
        split = folders.pop() if folders else told.get("_split") or "test"
    configs = [name for name in folders if name != "data"]
    return (configs[0] if configs else "default"), split


def _table(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.suffix == ".parquet":
            for batch in parquet.ParquetFile(path).iter_batches(ROWS):
                yield from batch.to_pylist()
            return
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                for first in range(0, batch.num_rows, ROWS):
                    yield from batch.slice(first, ROWS).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a whole {path.suffix[1:]} file ({reason}).") from None


def _unpacked(task: str, archive: Path, into: Path) -> Path:
    """The official tree in an archive."""
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(into)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(into, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}).") from None
    if (official := _official(task, into)) is None:
        raise UserError(f"{archive} does not hold the official layout of {task}.")
    return official


def _sign(task: str, source: Source, folder: Path) -> None:
    """Write what the folder was made of and the checksums of its annotation files."""
    listed = annotations.examine(folder, tree.walk(folder), {})
    about = {"task": task, "source": source.name, "revision": source.revision}
    (folder / annotations.SOURCE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    annotations.write_sums(folder, [row["path"] for row in listed])
