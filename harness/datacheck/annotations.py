"""Annotation files as stored on disk: rows, faults by line, checksums, sizes as published."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from steelyard.harness.core.errors import UserError
from steelyard.harness.data import reading
from steelyard.harness.datacheck.layout import Files, is_image

SUFFIXES = frozenset({".json", ".jsonl", ".csv"})
MANY = 40
"""A folder with more annotation files has one per item; they are not listed one by one."""
SHOWN = 5
"""Most faults of a file that are listed."""
SOURCE = "source.json"
"""File in a converted folder that names the copy it was converted from."""
GENERATED = frozenset({SOURCE, "world.json", "truth.jsonl"})
"""Files that steelyard adds to a folder."""
SUMS = "SHA256SUMS"
"""Checksums that the folder itself declares, as ``sha256sum`` writes them."""

RowCounts = int | dict[str, int] | None
"""Rows of a file, or of each list of an object of lists; None if it cannot be read."""
Official = Mapping[str, Mapping[str, Any]]
"""Facts about published files by name: sha256, rows, and counts of a column's values."""


class AnnotationFile(TypedDict):
    """One annotation file; ``official`` compares it with the published file, in words."""

    path: str
    rows: RowCounts
    bytes: int
    sha256: str
    faults: list[str]
    official: str


def examine(root: Path, files: Files, official: Official) -> list[AnnotationFile]:
    """Read and describe each annotation file below ``root``, sorted by path."""
    folders = defaultdict(list)
    for path in files:
        name = PurePosixPath(path.removesuffix(".gz"))
        if (name.suffix in SUFFIXES or name.name in official) and name.name not in GENERATED:
            folders[str(name.parent)].append(path)
    rows = []
    for paths in folders.values():
        if len(paths) > MANY:
            paths = [path for path in paths if _unpacked_name(path) in official]
        rows += [_examine(root, path, official.get(_unpacked_name(path), {})) for path in paths]
    return sorted(rows, key=lambda row: row["path"])


def _unpacked_name(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".gz")


def _examine(root: Path, path: str, published: Mapping[str, Any]) -> AnnotationFile:
    file: AnnotationFile
    file = {"path": path, "rows": None, "bytes": 0, "sha256": "", "faults": [], "official": ""}
    try:
        content = reading.read_bytes(root / path)
        file["sha256"] = hashlib.sha256(content).hexdigest()
        text = reading.decode(content, root / path)
    except UserError as error:
        return {**file, "faults": [str(error).replace(f"{root}/", "")]}
    rows, file["faults"] = _parse(path, text)
    file |= {"bytes": len(content), "rows": _counts(rows)}
    if published:
        file["official"] = _compare(published, file, rows)
    return file


def _parse(path: str, text: str) -> tuple[Any, list[str]]:
    """Return the readable rows of a file and its faults, by line."""
    faults: list[str] = []
    suffix = PurePosixPath(path.removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        return text.split(), []
    if suffix == ".csv":
        table = [cells for _, cells in reading.csv_rows(text, path, faults.append)]
        has_header = table and not any(map(is_image, table[0])) and any(map(is_image, table[-1]))
        return None if faults else table[1:] if has_header else table, faults
    if suffix == ".json":
        try:
            return json.loads(text), []
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # else it may hold one object per line, as POPE's do
                return None, [f"{path}:{error.lineno}: not valid JSON ({error.msg})."]
    rows = [row for _, row in reading.json_lines(text, path, faults.append)]
    more = [f"{path}: {len(faults) - SHOWN} more broken lines."] if len(faults) > SHOWN else []
    return rows, faults[:SHOWN] + more


def _counts(rows: Any) -> RowCounts:
    if isinstance(rows, dict):
        lists = {key: len(value) for key, value in rows.items() if isinstance(value, list)}
        return lists if lists and len(lists) <= SHOWN else len(rows)
    return None if rows is None else len(rows)


def _compare(published: Mapping[str, Any], file: AnnotationFile, rows: Any) -> str:
    """Compare a file with the published one, in words."""
    if file["sha256"] == published.get("sha256"):
        return "the official file"
    if file["rows"] != published["rows"]:
        sizes = f"{count_text(file['rows'])}, not {count_text(published['rows'])}"
        return f"differs from the official size ({sizes}): subset?"
    for column in sorted(published.keys() - {"rows", "sha256"}):
        values = Counter(str(row.get(column)) for row in rows if isinstance(row, dict))
        if values != {str(value): count for value, count in published[column].items()}:
            counts = ", ".join(f"{value} {count:,}" for value, count in sorted(values.items()))
            return f"official size, but another count of {column} ({counts})"
    return "official size" + (", other bytes" if "sha256" in published else "")


def count_text(counts: int | Mapping[str, int] | None) -> str:
    """Format counts: ``3,000``, or ``train 10, test 2``."""
    if isinstance(counts, Mapping):
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return "unread" if counts is None else f"{counts:,}"


def broken_sums(root: Path, files: Files) -> list[str]:
    """List files that differ from the folder's own ``SHA256SUMS``."""
    if SUMS not in files:
        return []
    problems = []
    for line in (root / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        declared, _, name = line.partition(" ")
        path = name.strip().removeprefix("*").removeprefix("./")
        if not name:
            continue
        if path not in files:
            problems.append(f"{path}: declared in {SUMS} and missing.")
        elif (checksum := _sha256(root / path)) != declared.lower():
            problems.append(
                f"{path}: its sha256 is {checksum[:12]}..., {SUMS} declares "
                f"{declared.lower()[:12]}...: fetch or convert it again."
            )
    return problems


def write_sums(root: Path, paths: Sequence[str]) -> None:
    """Write ``SHA256SUMS`` of files below ``root``."""
    lines = [f"{_sha256(root / path)}  {path}\n" for path in paths]
    (root / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
