"""Annotation files as stored on disk: rows, faults by line, checksums, sizes as published."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from steelyard.harness.core import readers
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.folders import Files
from steelyard.harness.datacheck.layout import is_image

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


class AnnotationFile(NamedTuple):
    """Annotation file and its faults; ``official`` compares it with the published file."""

    path: str
    rows: RowCounts = None
    bytes: int = 0
    sha256: str = ""
    official: str = ""
    faults: Sequence[str] = ()


def examine(root: Path, files: Files, official: Official) -> list[AnnotationFile]:
    """Read and describe each annotation file below ``root``, sorted by path."""
    plain = ((path, PurePosixPath(path.removesuffix(".gz"))) for path in files)
    annotated = [
        (path, file)
        for path, file in plain
        if (file.suffix in SUFFIXES or file.name in official) and file.name not in GENERATED
    ]
    counts = Counter(file.parent for _, file in annotated)
    # With one file per item only the published ones are of interest.
    return [
        _examine(root, path, official.get(file.name))
        for path, file in annotated
        if counts[file.parent] <= MANY or file.name in official
    ]


def _examine(root: Path, path: str, published: Mapping[str, Any] | None) -> AnnotationFile:
    try:
        content = readers.read_bytes(root / path)
        text = readers.decode(content, root / path)
    except UserError as error:
        # A card has no path of this machine.
        return AnnotationFile(path, faults=[str(error).replace(f"{root}/", "")])
    rows, faults = _parse(path, text)
    if rows is not None and not isinstance(rows, list | dict):
        faults.append(f"{path}: expected a list or an object, found {type(rows).__name__}.")
        rows = None
    counts: RowCounts = None if rows is None else len(rows)
    if isinstance(rows, dict):
        # Few lists are tables, such as images and annotations of COCO; many keys are ids of rows.
        lists = {key: len(value) for key, value in rows.items() if isinstance(value, list)}
        counts = lists if lists and len(lists) <= SHOWN else len(rows)
    checksum = hashlib.sha256(content).hexdigest()
    official = _compare(published, checksum, counts, rows) if published else ""
    return AnnotationFile(path, counts, len(content), checksum, official, faults)


def _parse(path: str, text: str) -> tuple[Any, list[str]]:
    """Return the readable rows of a file and its faults, by line."""
    faults: list[str] = []
    rows: Any
    suffix = PurePosixPath(path.removesuffix(".gz")).suffix
    try:
        if suffix not in SUFFIXES:
            return text.split(), []
        if suffix == ".csv":
            table = readers.csv_rows(text, path)
            faults = [f"{row.where}: {row.fault}." for row in table if row.fault]
            rows = [row.cells for row in table if not row.fault]
            # A header names no image, the rows below it do.
            has_header = rows and not any(map(is_image, rows[0])) and any(map(is_image, rows[-1]))
            rows = rows[1:] if has_header else rows
        elif suffix == ".json" and readers.is_document(text, path):
            return readers.parse_json(text, path), []
        else:
            lines = readers.json_lines(text, path, lambda at, why: faults.append(f"{at}: {why}."))
            rows = [row for _, row in lines]
            # One object may be the file: lists by name, or rows by their ids.
            rows = rows[0] if suffix == ".json" and len(rows) == 1 and not faults else rows
    except UserError as error:
        return None, [str(error)]
    more = [f"{path}: {len(faults) - SHOWN} more broken rows."] if len(faults) > SHOWN else []
    return rows, faults[:SHOWN] + more


def _compare(published: Mapping[str, Any], checksum: str, counts: RowCounts, rows: Any) -> str:
    if checksum == published.get("sha256"):
        return "the official file"
    if counts != published["rows"]:
        sizes = f"{count_text(counts)}, not {count_text(published['rows'])}"
        return f"differs from the official size ({sizes}): subset?"
    # All other facts are counts of a column's values.
    for column in sorted(published.keys() - {"rows", "sha256"}):
        values = Counter(str(row.get(column)) for row in rows if isinstance(row, dict))
        if values != {str(value): count for value, count in published[column].items()}:
            text = count_text(dict(sorted(values.items())))
            return f"official size, but another count of {column} ({text})"
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
    for line in readers.read_text(root / SUMS, lenient=True).split("\n"):
        declared, _, name = line.partition(" ")
        # sha256sum puts a star before files read in binary mode.
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
