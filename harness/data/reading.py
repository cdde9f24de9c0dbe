"""What every loader needs: files read with line numbers, id and image checks, carving."""

import csv
import gzip
import json
import math
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.data.image_scan import MISSING, Look, scan

CORE = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
NAMED = 3
"""How many offenders an error names."""


def find_file(root: Path, *names: str) -> Path:
    """The first of ``names`` that exists under ``root``; otherwise a UserError saying so."""
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: give the folder that holds {names[0]}.")
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(f"No {' or '.join(names)} in {root}: check the data folder and its layout.")


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte-order mark, packed by gzip where its name says so."""
    try:
        content = path.read_bytes()
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        return plain.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; re-encode the file.") from None


def read_json(path: Path) -> Any:
    """A JSON file; a syntax error names file and line."""
    return _parse(read_text(path), path, first_line=1)


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``("file:line", row)`` of each non-empty line; every row must be an object."""
    # Not splitlines(): that also breaks at separators such as U+2028, which JSON allows in strings.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse(line, path, number)
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected an object, found {type(row).__name__}.")
        yield f"{path}:{number}", row


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}:{line}: not valid JSON ({error.msg}).") from None


def read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """``("file:line", cells)`` of each non-empty row; quoted cells may span lines."""
    reader = csv.reader(StringIO(read_text(path), newline=""))
    try:
        for cells in reader:
            if cells:
                yield f"{path}:{reader.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error}).") from None


def carve(
    examples: Sequence[Example], share: float
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Split into (rest, carved): ``share`` of each class, at least one where it has two or more.

    Whether an example is carved depends on the ids of its class alone, not on row order.
    """
    by_class: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for example in examples:
        by_class[example.labels].append(example.id)
    carved: set[str] = set()
    for ids in by_class.values():
        count = max(round(share * len(ids)), 1) if len(ids) > 1 else 0
        carved.update(sorted(ids, key=lambda id: seed_for("carve", id))[:count])
    rest = tuple(example for example in examples if example.id not in carved)
    return rest, tuple(example for example in examples if example.id in carved)


def build_corpus(
    name: str,
    root: Path,
    classes: tuple[str, ...],
    splits: Mapping[str, Sequence[Example]],
    *,
    multi_label: bool,
    skipped: Sequence[Skipped],
    notes: Mapping[str, str],
    max_bad: float,
    whole: bool = False,
) -> Corpus:
    """Check ids, decode every image, and make the Corpus.

    With ``whole``, an item of which another of its cluster cannot be used is not used either.

    Raises:
        Refused: an id occurs twice where it must not, or one of train, val and test is given
            and empty, or more than the share ``max_bad`` of it cannot be used. Extra splits may
            be incomplete.
    """
    check_max_bad(max_bad)
    looks = scan([example.image for rows in splits.values() for example in rows if example.image])
    faults: dict[Path | None, str] = {
        path: _reason(root, path, look) for path, look in looks.items() if look.fault
    }
    lost = {split: _lost(rows, faults, whole) for split, rows in splits.items()}
    kept = {
        split: tuple(example for example in rows if example.id not in lost[split])
        for split, rows in splits.items()
    }
    broken = (
        Skipped(example.id, split, lost[split][example.id], example.image)
        for split, rows in splits.items()
        for example in rows
        if example.id in lost[split]
    )
    bad = (*skipped, *broken)
    usable = {split: rows for split, rows in kept.items() if rows}
    corpus = Corpus(
        name,
        root,
        classes,
        multi_label,
        usable,
        revision(classes, usable),
        notes,
        skipped=bad,
        content=_content(usable, looks),
    )
    problems = id_problems(splits)
    for split in filter(splits.__contains__, CORE):
        problems += share_problems(
            split, len(kept[split]), [row for row in bad if row.split == split], max_bad
        )
    if problems:
        raise Refused(problems, corpus)
    return corpus


def check_max_bad(max_bad: float) -> None:
    """UserError unless ``max_bad`` is a share."""
    if not 0 <= max_bad < 1:
        raise UserError(f"--max-bad {max_bad}: give a share from 0 to below 1, such as 0.05.")


class Refused(UserError):
    """Data that was read and is not accepted; it carries what was read, for who looks closer."""

    def __init__(self, problems: Sequence[str], corpus: Corpus) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)
        self.corpus = corpus


def id_problems(splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """Ids that come twice in a split, or in two of train, val and test.

    Extra splits may share items with val and test (official files do), never with train.
    """
    found = []
    ids = {split: Counter(example.id for example in rows) for split, rows in splits.items()}
    for split, counts in ids.items():
        repeated = [id for id, count in counts.items() if count > 1]
        if repeated:
            found.append(
                f"Ids that occur more than once in {split} ({len(repeated)}): {_first(repeated)}. "
                "Remove the repeated rows."
            )
    for one, other in combinations(ids, 2):
        shared = sorted(ids[one].keys() & ids[other].keys())
        if shared and ("train" in (one, other) or {one, other} <= set(CORE)):
            found.append(
                f"Ids that are in both {one} and {other} ({len(shared)}): {_first(shared)}. "
                "Remove them from one of the two."
            )
    return found


def share_problems(split: str, kept: int, bad: Sequence[Skipped], max_bad: float) -> list[str]:
    """That ``split`` is empty, or that more than the share ``max_bad`` of it is unusable."""
    total = kept + len(bad)
    named = _first([f"{row.id} ({row.reason})" for row in bad])
    if not kept:
        return [
            f"No usable row in {split}: {total} skipped, such as {named}."
            if bad
            else f"No row in {split}: check that its files are complete."
        ]
    if len(bad) > max_bad * total:
        enough = math.ceil(100 * len(bad) / total) / 100
        return [
            f"{len(bad)} of {total} rows of {split} cannot be used: {named}. "
            f"Repair them, or allow it with --max-bad {enough:g} (now {max_bad:g})."
        ]
    return []


def _reason(root: Path, path: Path, look: Look) -> str:
    shown = os.path.relpath(path, root)
    missing = look.fault == MISSING
    return f"image missing: {shown}" if missing else f"image unreadable: {shown}: {look.fault}"


def _lost(
    rows: Sequence[Example], faults: Mapping[Path | None, str], whole: bool
) -> dict[str, str]:
    """Why items cannot be used, by id in the order of the rows."""
    faulty = (row for row in rows if row.image in faults and row.cluster and whole)
    broken = {row.cluster: f"incomplete group, {faults[row.image]}" for row in faulty}
    return {
        row.id: faults.get(row.image) or broken[row.cluster]
        for row in rows
        if row.image in faults or row.cluster in broken
    }


def _content(splits: Mapping[str, Sequence[Example]], looks: Mapping[Path, Look]) -> str:
    digest, empty = blake2b(digest_size=8), True
    for split in sorted(splits):
        for example in splits[split]:
            if example.image:
                digest.update(looks[example.image].content.encode())
                empty = False
    return "" if empty else digest.hexdigest()


def revision(classes: Sequence[str], splits: Mapping[str, Sequence[Example]]) -> str:
    """16 hex digits of classes, all that examples say, image sizes in bytes and their order.

    Order counts because shuffling by seed starts from it; the folder's place does not.
    """
    digest = blake2b(json.dumps(list(classes)).encode(), digest_size=8)
    for split in sorted(splits):
        for example in splits[split]:
            size = example.image.stat().st_size if example.image else None
            row = [split, example.id, example.text, example.labels, size, *_asked(example)]
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _asked(example: Example) -> list[Any]:
    """What only a question has; nothing for an item that is no question."""
    parts = (example.answers, example.choices, example.subset, example.cluster, example.facts)
    return [*parts[:-1], dict(example.facts)] if any(parts) else []


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
