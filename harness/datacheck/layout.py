"""Compare a data folder with the layout that a task expects."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from steelyard.harness.core.folders import Files
from steelyard.harness.data.reading import IMAGE_SUFFIXES, MAIN_SPLITS

EXAMPLE = re.compile(r"(\d{4,}|_\d+)$")
"""End of the stem of a file that a layout gives as an example of many: 0106714, apple_pie_0."""
FILE_NAME = re.compile(r"[\w./-]+\.(?:jsonl?|csv|txt)\b")
MAX_FILES, MAX_FOLDERS, MAX_LINES = 6, 4, 30
"""Most files per folder, folders per folder and lines of a summary."""


class ExpectedPath(NamedTuple):
    """Line of a layout, looked up in a folder."""

    path: str
    note: str
    state: Literal["found", "elsewhere", "missing"]
    where: str


def is_image(path: str) -> bool:
    """Test whether a file name ends like an image's."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - for many files


def expected(layout: str, files: Files) -> list[ExpectedPath]:
    """Look up each line of a layout, ``PATH (note)``, among the files of a folder."""
    images = [path for path in files if is_image(path)]
    rows = []
    for line in layout.splitlines():
        path, _, note = line.partition(" ")
        note, suffix = note.strip("()"), PurePosixPath(path).suffix
        if is_image(path):
            rows.append(_find_many(path, note, images, "images"))
        elif EXAMPLE.search(PurePosixPath(path).stem):
            same_kind = [name for name in files if name.endswith(suffix)]
            rows.append(_find_many(path, note, same_kind, suffix))
        else:
            rows.append(_find_file(path, note, files))
    return rows


def _find_file(path: str, note: str, files: Files) -> ExpectedPath:
    """Find a file, or one that the note names instead."""
    names = [path, *FILE_NAME.findall(note)]
    for name in (name for path in names for name in (path, f"{path}.gz")):
        if name in files:
            return ExpectedPath(path, note, "found", name)
    # Reversed: the first of several files with one name stays.
    by_name = {PurePosixPath(file).name.removesuffix(".gz"): file for file in reversed([*files])}
    for name in names:
        if file := by_name.get(PurePosixPath(name).name):
            return ExpectedPath(path, note, "elsewhere", file)
    return ExpectedPath(path, note, "missing", "")


def _find_many(path: str, note: str, files: Sequence[str], kind: str) -> ExpectedPath:
    """Count files of a kind below the folder of ``path``, or below one of its parents.

    Files of a split are below the folder of its name, not beside it.
    """
    # The last parent is ".", which has all files.
    parents = [*PurePosixPath(path).parents][:-1]
    names = [folder.name for folder in parents]
    last = next((i for i, name in enumerate(names) if name in MAIN_SPLITS), len(parents))
    for folder in parents[: last + 1]:
        if count := sum(name.startswith(f"{folder}/") for name in files):
            return ExpectedPath(path, note, "found", f"{count:,} {kind} in {folder}")
    if not files or kind != "images":
        return ExpectedPath(path, note, "missing", "")
    ((folder, _),) = Counter(PurePosixPath(name).parent for name in files).most_common(1)
    return ExpectedPath(path, note, "elsewhere", f"{len(files):,} images, most in {folder}")


def nested(rows: Sequence[ExpectedPath]) -> str:
    """Return the subfolder that has all of the expected layout; empty if there is none."""
    if any(row.state == "found" for row in rows):
        return ""
    paths = [(row.where.removesuffix(".gz"), row.path) for row in rows]
    prefixes = {
        path.removesuffix(expected_path).rstrip("/")
        for path, expected_path in paths
        if path.endswith(f"/{expected_path}")
    }
    return prefixes.pop() if len(prefixes) == 1 else ""


def summary(files: Files) -> list[str]:
    """Summarise a folder in a few lines: names of files, or how many there are of each kind."""
    folders: dict[str, Any] = {}
    for path in files:
        *parents, name = path.split("/")
        folder = folders
        for parent in parents:
            folder = folder.setdefault(f"{parent}/", {})
        folder[name] = None
    lines = [*_lines(folders, "")]
    more = [f"... {len(lines) - MAX_LINES} more lines"] if len(lines) > MAX_LINES else []
    return lines[:MAX_LINES] + more or ["nothing"]


def _lines(folder: Mapping[str, Any], prefix: str) -> Iterator[str]:
    kinds = defaultdict(list)
    for name in (name for name, content in folder.items() if content is None):
        kinds[PurePosixPath(name).suffix.lower()].append(name)
    for kind, names in kinds.items():
        if len(names) > MAX_FILES or kind in IMAGE_SUFFIXES:
            yield f"{prefix}*{kind}  ({len(names):,})"
        else:
            yield from (f"{prefix}{name}" for name in names)
    folders = [(name, content) for name, content in folder.items() if content is not None]
    # "1 more folder" would be as long as its name.
    cut = len(folders) > MAX_FOLDERS + 1
    for name, content in folders[: MAX_FOLDERS if cut else None]:
        yield from _lines(content, f"{prefix}{name}")
    if cut:
        yield f"{prefix}*/  ({len(folders) - MAX_FOLDERS:,} more folders)"
