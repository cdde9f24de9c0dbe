"""Annotation files as they lie there: rows, faults by line, checksums, official sizes."""

import csv
import gzip
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from steelyard.harness.datacheck.layout import Files, is_image

SUFFIXES = frozenset({".json", ".jsonl", ".csv"})
MANY = 40
"""A folder with more annotation files has one an item; they are not listed one by one."""
SHOWN = 5
"""Faults of a file that are named."""
SOURCE = "source.json"
"""Says in a converted folder what it was made of."""
OURS = frozenset({SOURCE, "world.json", "truth.jsonl"})
"""Files that steelyard adds to a tree."""
SUMS = "SHA256SUMS"
"""Checksums that the folder itself declares, as ``sha256sum`` writes them."""

Official = Mapping[str, Mapping[str, Any]]
"""What is known of published files by name: sha256, rows, and counts of a column's values."""


def examine(root: Path, files: Files, official: Official) -> list[dict[str, Any]]:
    """Path, bytes, rows, sha256, faults and official state of each annotation file."""
    folders = defaultdict(list)
    for path in files:
        name = PurePosixPath(path.removesuffix(".gz"))
        if (name.suffix in SUFFIXES or name.name in official) and name.name not in OURS:
            folders[str(name.parent)].append(path)
    found = []
    for paths in folders.values():
        named = [path for path in paths if _plain(path) in official] if len(paths) > MANY else paths
        found += [_examine(root, path, official.get(_plain(path), {})) for path in named]
    return sorted(found, key=lambda row: str(row["path"]))


def _plain(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".gz")


def _examine(root: Path, path: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"path": path, "rows": None, "sha256": "", "faults": [], "official": ""}
    try:
        content = _content(root / path)
        row["sha256"] = hashlib.sha256(content).hexdigest()
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        return {**row, "bytes": 0, "faults": [f"{path}: cannot be read ({error})."]}
    rows, row["faults"] = _parse(path, text)
    row |= {"bytes": len(content), "rows": _counts(rows)}
    if declared:
        row["official"] = _compare(declared, row["sha256"], row["rows"], rows)
    return row


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def _parse(path: str, text: str) -> tuple[Any, list[str]]:
    """The rows of a file and what is wrong with it, by line; rows that can be read are kept."""
    suffix = PurePosixPath(path.removesuffix(".gz")).suffix
    if suffix == ".csv":
        return _csv(path, text)
    if suffix not in SUFFIXES:
        return text.split(), []
    if suffix == ".json":
        try:
            return json.loads(text), []
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # else it may hold one object a line, as POPE's do
                return None, [f"{path}:{error.lineno}: not valid JSON ({error.msg})."]
    rows, faults = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            faults.append(f"{path}:{number}: not valid JSON ({error.msg}).")
    more = [f"{path}: {len(faults) - SHOWN} broken lines more."] if len(faults) > SHOWN else []
    return rows, faults[:SHOWN] + more


def _csv(path: str, text: str) -> tuple[Any, list[str]]:
    reader = csv.reader(StringIO(text, newline=""))
    try:
        rows = [cells for cells in reader if cells]
    except csv.Error as error:
        return None, [f"{path}:{reader.line_num}: not valid CSV ({error})."]
    header = rows and not any(map(is_image, rows[0])) and any(map(is_image, rows[-1]))
    return rows[1:] if header else rows, []


def _counts(rows: Any) -> int | dict[str, int] | None:
    """How many rows a file has, or each list of an object of lists."""
    if isinstance(rows, dict):
        lists = {key: len(value) for key, value in rows.items() if isinstance(value, list)}
        return lists if lists and len(lists) <= SHOWN else len(rows)
    return None if rows is None else len(rows)


def _compare(declared: Mapping[str, Any], digest: str, counts: Any, rows: Any) -> str:
    """What the published file is to this one, in words."""
    if digest == declared.get("sha256"):
        return "the official file"
    if counts != declared["rows"]:
        sizes = f"{said(counts)}, not {said(declared['rows'])}"
        return f"differs from the official size ({sizes}): subset?"
    for column in sorted(declared.keys() - {"rows", "sha256"}):
        values = Counter(str(row.get(column)) for row in rows if isinstance(row, dict))
        wanted = {str(value): count for value, count in declared[column].items()}
        if values != wanted:
            have = ", ".join(f"{value} {count:,}" for value, count in sorted(values.items()))
            return f"official size, but another count of {column} ({have})"
    return "official size" + (", other bytes" if "sha256" in declared else "")


def said(counts: int | Mapping[str, int] | None) -> str:
    """Counts in words: ``3,000``, or ``train 10, test 2``."""
    if isinstance(counts, Mapping):
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return "unread" if counts is None else f"{counts:,}"


def broken_sums(root: Path, files: Files) -> list[str]:
    """Files that are not what the folder's own ``SHA256SUMS`` declares."""
    if SUMS not in files:
        return []
    problems = []
    for path, wanted in _declared(root / SUMS):
        if path not in files:
            problems.append(f"{path}: declared in {SUMS} and missing.")
            continue
        with (root / path).open("rb") as file:
            have = hashlib.file_digest(file, "sha256").hexdigest()
        if have != wanted:
            problems.append(
                f"{path}: its sha256 is {have[:12]}..., {SUMS} declares {wanted[:12]}...: "
                "fetch or convert it again."
            )
    return problems


def _declared(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition(" ")
        if name:
            yield name.strip().removeprefix("*").removeprefix("./"), digest.lower()


def write_sums(root: Path, paths: Sequence[str]) -> None:
    """Declare the checksums of files below ``root``."""
    lines = []
    for path in paths:
        with (root / path).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path}\n")
    (root / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")
