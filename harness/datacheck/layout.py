"""A data folder against the tree a task expects: what is there, what is missing, what is nested."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from steelyard.harness.data.reading import IMAGE_SUFFIXES

Files = Mapping[str, tuple[int, int]]
"""Size in bytes and time of change of each file, by its path below the root, sorted."""
EXAMPLE = re.compile(r"(\d{4,}|_\d+)$")
"""Ends the stem of a file that a layout gives as an example of many: 0106714, apple_pie_0."""
FILE_NAME = re.compile(r"[\w./-]+\.(?:jsonl?|csv|txt)\b")
NAMED, FOLDERS, LINES = 6, 4, 30
"""Files a folder, folders a folder and lines that a summary shows."""


def walk(root: Path) -> Files:
    """Every file below ``root`` that is not hidden and can be reached; folders are seen once."""
    found, seen = {}, set()

    def into(folder: str, prefix: str) -> None:
        if (real := os.path.realpath(folder)) in seen:
            return
        seen.add(real)
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    into(entry.path, f"{prefix}{entry.name}/")
                elif entry.is_file():  # a link that leads nowhere is neither
                    stat = entry.stat()
                    found[f"{prefix}{entry.name}"] = (stat.st_size, stat.st_mtime_ns)

    into(str(root), "")
    return dict(sorted(found.items()))


def is_image(path: str) -> bool:
    """Whether a file is named as an image."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - for many files


def expected(layout: str, files: Files) -> list[dict[str, str]]:
    """Each line of a layout with its state (found, elsewhere, missing) and where it was found."""
    images = Counter(str(PurePosixPath(path).parent) for path in files if is_image(path))
    rows = []
    for line in layout.splitlines():
        path, _, note = line.partition(" ")
        wanted = PurePosixPath(path)
        names = [path, *FILE_NAME.findall(note)]
        if is_image(path):
            state, where = _pictures(wanted, images)
        elif EXAMPLE.search(wanted.stem):
            state, where = _examples(wanted, files)
        else:
            state, where = _file(names, files)
        rows.append({"path": path, "note": note.strip("()"), "state": state, "where": where})
    return rows


def _file(names: Sequence[str], files: Files) -> tuple[str, str]:
    for name in names:
        for path in (name, f"{name}.gz"):
            if path in files:
                return "found", path
    by_name = {PurePosixPath(path).name.removesuffix(".gz"): path for path in reversed([*files])}
    here = [by_name.get(PurePosixPath(name).name, "") for name in names]
    place = next(filter(None, here), "")
    return ("elsewhere", place) if place else ("missing", "")


def _examples(wanted: PurePosixPath, files: Files) -> tuple[str, str]:
    """Files of the same kind below the folder that the layout puts them in."""
    for folder in [*wanted.parents][:-1]:
        inside = f"{folder}/"
        count = sum(path.startswith(inside) and path.endswith(wanted.suffix) for path in files)
        if count:
            return "found", f"{count:,} {wanted.suffix} in {folder}"
    return "missing", ""


def _pictures(wanted: PurePosixPath, images: Mapping[str, int]) -> tuple[str, str]:
    for folder in [*wanted.parents][:-1]:
        inside = f"{folder}/"
        count = sum(n for place, n in images.items() if f"{place}/".startswith(inside))
        if count:
            return "found", f"{count:,} images in {folder}"
    if not images:
        return "missing", ""
    place, _ = max(images.items(), key=lambda pair: pair[1])
    return "elsewhere", f"{sum(images.values()):,} images, most in {place}"


def nested(rows: Sequence[Mapping[str, str]]) -> str:
    """The folder that the whole expected tree stands in, below the root; empty where none does."""
    files = [row for row in rows if row["state"] == "elsewhere" and "images, " not in row["where"]]
    prefixes = {
        row["where"].removesuffix(".gz").removesuffix(row["path"]).rstrip("/")
        for row in files
        if row["where"].removesuffix(".gz").endswith(f"/{row['path']}")
    }
    whole = files and not any(row["state"] == "found" for row in rows)
    return prefixes.pop() if whole and len(prefixes) == 1 else ""


def summary(files: Files) -> list[str]:
    """The tree in a few lines: folders with their files, or how many of each kind."""
    folders: dict[str, Any] = {}
    for path in files:
        *parents, name = path.split("/")
        here = folders
        for parent in parents:
            here = here.setdefault(f"{parent}/", {})
        here[name] = None
    lines = [*_lines(folders, "")]
    more = [f"... {len(lines) - LINES} lines more"] if len(lines) > LINES else []
    return lines[:LINES] + more or ["nothing"]


def _lines(folder: Mapping[str, Any], prefix: str) -> Iterator[str]:
    kinds = defaultdict(list)
    for name, inside in folder.items():
        if inside is None:
            kinds[PurePosixPath(name).suffix.lower()].append(name)
    for kind, names in kinds.items():
        if len(names) > NAMED or kind in IMAGE_SUFFIXES:
            yield f"{prefix}*{kind}  ({len(names):,})"
        else:
            yield from (f"{prefix}{name}" for name in names)
    inner = {name: inside for name, inside in folder.items() if inside is not None}
    for name, inside in [*inner.items()][: FOLDERS if len(inner) > FOLDERS + 1 else None]:
        yield from _lines(inside, f"{prefix}{name}")
    if len(inner) > FOLDERS + 1:
        yield f"{prefix}*/  ({len(inner) - FOLDERS:,} folders more)"
