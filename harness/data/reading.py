"""Shared parts of all loaders: files read with line numbers, checks of ids and images, carving."""

import json
import math
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, brief
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import NO_TEXT, without_surrogates
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.data.image_scan import ScannedImage, scan
from steelyard.harness.data.images import MISSING, RULES

MAIN_SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".jfif", ".tif", ".tiff", ".avif", ".jp2"}
)
NAMED = 3
"""Most items that an error names."""


def ordered_splits(names: Iterable[str]) -> list[str]:
    """Sort names of splits: train, val and test first, then the others by name."""
    return sorted(names, key=lambda name: ((*MAIN_SPLITS, name).index(name), name))


def find_file(root: Path, *names: str) -> Path:
    """Return the first of ``names`` that exists under ``root``.

    Raises:
        UserError: there is no such folder, or none of the files.
    """
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: give the folder that holds {names[0]}.")
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(f"No {' or '.join(names)} in {root}: check the data folder and its layout.")


def carve(
    examples: Sequence[Example], fraction: float
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Split into (rest, carved): a fraction of each class, at least one item if it has two."""
    # By hash of the id: independent of the order of rows and of the other classes.
    by_class: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for example in examples:
        by_class[example.labels].append(example.id)
    carved: set[str] = set()
    for ids in by_class.values():
        count = max(round(fraction * len(ids)), 1) if len(ids) > 1 else 0
        carved.update(sorted(ids, key=lambda id: seed_for("carve", id))[:count])
    rest = tuple(example for example in examples if example.id not in carved)
    return rest, tuple(example for example in examples if example.id in carved)


def check_spelling(classes: Iterable[str]) -> None:
    """Raise UserError if two classes differ only in how Unicode writes their accents."""
    spelling: dict[str, str] = {}
    for name in classes:
        if spelling.setdefault(unicodedata.normalize("NFC", name), name) != name:
            raise UserError(
                f"The class '{name}' is written with accents as characters of their own and "
                "without (NFD and NFC): write it in one way in all tables and folders."
            )


def build_corpus(
    name: str,
    root: Path,
    classes: tuple[str, ...],
    splits: Mapping[str, Sequence[Example]],
    *,
    multi_label: bool = False,
    skipped: Sequence[Skipped] = (),
    notes: Mapping[str, str],
    max_bad: float,
    by_cluster: bool = False,
    every_class: bool = False,
) -> Corpus:
    """Check ids, decode every image, and build the corpus of the usable items.

    ``max_bad`` is the largest fraction of train, val or test that may be unusable; extra splits
    may be incomplete. ``by_cluster`` drops a cluster of which one item is unusable;
    ``every_class`` refuses a test split without items of some class, which its metric needs.

    Raises:
        RefusedData: an id occurs twice where it must not, or one of train, val and test is listed
            and empty, or more than ``max_bad`` of it is unusable.
    """
    check_max_bad(max_bad)
    images = scan([example.image for rows in splits.values() for example in rows if example.image])
    usable, bad = {}, list(skipped)
    for split, rows in splits.items():
        reasons = _unusable(root, rows, images, by_cluster)
        bad += [
            Skipped(without_surrogates(row.id), split, reasons[row.id], row.image)
            for row in rows
            if row.id in reasons
        ]
        if good := tuple(row for row in rows if row.id not in reasons):
            usable[split] = good
    paths = (row.image for split in sorted(usable) for row in usable[split])
    content = "".join(images[path].content for path in paths if path)
    content_hash = blake2b(content.encode(), digest_size=8).hexdigest() if content else ""
    converted = frozenset(path for path, image in images.items() if image.is_converted)
    version, parts = revisions(classes, usable, converted)
    corpus = Corpus(
        name, root, classes, multi_label, usable, version, notes, tuple(bad), content_hash,
        split_revisions=parts, converted=converted,
    )  # fmt: skip
    problems = id_problems(splits)
    for split in filter(splits.__contains__, MAIN_SPLITS):
        skipped_rows = [row for row in bad if row.split == split]
        problems += _fraction_problems(split, len(usable.get(split, ())), skipped_rows, max_bad)
    if every_class and "test" in usable:
        labels = {label for row in usable["test"] for label in row.labels}
        lost = _first([f"{row.id} ({row.reason})" for row in bad if row.split == "test"])
        problems += [
            f"No usable row of test is '{classes[index]}', which its metric needs: "
            f"{f'{lost}. Repair' if lost else 'add'} some."
            for index in sorted({*range(len(classes))} - labels)
        ]
    if problems:
        raise RefusedData(problems, corpus)
    return corpus


def leave_out(corpus: Corpus, faults: Mapping[Path, str], max_bad: float) -> Corpus:
    """Return a data set without the items of these images, nor those of their clusters.

    Raises:
        RefusedData: more than ``max_bad`` of train, val or test is unusable.
    """
    usable, bad = {}, list(corpus.skipped)
    for split, rows in corpus.splits.items():
        clusters = {row.cluster for row in rows if row.image in faults} - {""}
        good = [row for row in rows if row.image not in faults and row.cluster not in clusters]
        usable[split] = tuple(good)
        for row in rows:
            if row.image is not None and row.image in faults:
                name = os.path.relpath(row.image, corpus.root)
                reason = f"image refused: {name}: {faults[row.image]}"
                bad.append(Skipped(row.id, split, reason, row.image))
            elif row.cluster in clusters:
                bad.append(Skipped(row.id, split, "incomplete group", row.image))
    smaller = replace(corpus, splits=usable, skipped=tuple(bad))
    for split in filter(corpus.splits.__contains__, MAIN_SPLITS):
        skipped = [row for row in bad if row.split == split]
        for problem in _fraction_problems(split, len(usable[split]), skipped, max_bad):
            raise RefusedData([problem], smaller)
    return smaller


def check_max_bad(max_bad: float) -> None:
    """Raise UserError unless ``max_bad`` is a fraction below 1."""
    if not 0 <= max_bad < 1:
        raise UserError(f"--max-bad {max_bad}: give a fraction from 0 to below 1, such as 0.05.")


class RefusedData(UserError):
    """Dataset that failed validation; keeps all problems and the corpus for the data report."""

    def __init__(self, problems: Sequence[str], corpus: Corpus) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)
        self.corpus = corpus


def id_problems(splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """List ids that occur twice in a split, or in two of train, val and test.

    Extra splits may share items with val and test (official files do), never with train.
    """
    problems = []
    ids = {split: Counter(example.id for example in rows) for split, rows in splits.items()}
    for split, counts in ids.items():
        if repeated := [id for id, count in counts.items() if count > 1]:
            problems.append(
                f"Ids that occur more than once in {split} ({len(repeated)}): {_first(repeated)}. "
                "Remove the repeated rows."
            )
    for first, second in combinations(ids, 2):
        shared = sorted(ids[first].keys() & ids[second].keys())
        if shared and ("train" in (first, second) or {first, second} <= set(MAIN_SPLITS)):
            problems.append(
                f"Ids that are in both {first} and {second} ({len(shared)}): {_first(shared)}. "
                "Remove them from one of the two."
            )
    return problems


def _fraction_problems(
    split: str, good: int, bad: Sequence[Skipped], max_bad: float
) -> Iterator[str]:
    """Report that ``split`` is empty, or that more than ``max_bad`` of it is unusable."""
    total = good + len(bad)
    examples = _first([f"{row.id} ({row.reason})" for row in bad])
    if total == 0:
        yield f"No row in {split}: check that its files are complete."
    elif good == 0:
        yield f"No usable row in {split}: {total} skipped, such as {examples}."
    elif len(bad) > max_bad * total:
        # Rounded up: the proposed limit has to be enough.
        enough = math.ceil(100 * len(bad) / total) / 100
        yield (
            f"{len(bad)} of {total} rows of {split} cannot be used: {examples}. "
            f"Repair them, or allow it with --max-bad {enough:g} (now {max_bad:g})."
        )


def _unusable(
    root: Path, rows: Sequence[Example], images: Mapping[Path, ScannedImage], by_cluster: bool
) -> dict[str, str]:
    """Map the ids of items that cannot be used to the reason."""
    reasons, clusters = {}, {}
    for row in rows:
        if row.image and (fault := images[row.image].fault):
            name = os.path.relpath(row.image, root)
            reason = f"missing: {name}" if fault == MISSING else f"unreadable: {name}: {fault}"
            reasons[row.id] = f"image {reason}"
            clusters[row.cluster] = f"incomplete group, image {reason}"
        elif NO_TEXT.search(row.id):
            reasons[row.id] = "the file's name is not UTF-8"
    for row in rows if by_cluster else ():
        if row.cluster and row.cluster in clusters:
            # An item with a broken image keeps that reason.
            reasons.setdefault(row.id, clusters[row.cluster])
    return reasons


def with_classes(corpus: Corpus, classes: tuple[str, ...]) -> Corpus:
    """Return a data set whose labels are indices of ``classes``, those of a trained model.

    Raises:
        UserError: it has other classes.
    """
    if corpus.classes == classes:
        return corpus
    if foreign := sorted({*corpus.classes} - {*classes}):
        raise UserError(
            f"{corpus.root} has classes that the model does not know: {_first(foreign)}."
        )
    index = [classes.index(name) for name in corpus.classes]
    splits = {
        split: tuple(
            replace(row, labels=tuple(sorted(index[i] for i in row.labels))) for row in rows
        )
        for split, rows in corpus.splits.items()
    }
    version, parts = revisions(classes, splits, corpus.converted)
    return replace(corpus, classes=classes, splits=splits, revision=version, split_revisions=parts)


def revisions(
    classes: Sequence[str],
    splits: Mapping[str, Sequence[Example]],
    converted: Collection[Path],
) -> tuple[str, dict[str, str]]:
    """Hash classes, all fields of the examples, image sizes in bytes and their order: 16 digits.

    ``converted`` are the images whose pixels depend on the rules of reading; these are hashed, too.
    Returns the hash of all splits, and that of each alone.
    """
    # Order counts because shuffling by seed starts from it; the path of the folder does not.
    start = json.dumps(list(classes)).encode()
    digest = blake2b(start, digest_size=8)
    parts = {split: blake2b(start, digest_size=8) for split in sorted(splits)}
    for split, part in parts.items():
        for example in splits[split]:
            # The bytes have a hash of their own, ``content``.
            size = example.image.stat().st_size if example.image else None
            row: list[Any] = [split, example.id, example.text, example.labels, size]
            question: list[Any] = [
                example.answers, example.choices, example.subset, example.cluster,
                dict(example.facts),
            ]  # fmt: skip
            # Items that are no questions are hashed as before there were any.
            row += question if any(question) else []
            row += [example.rejected] if example.rejected else []
            row += [f"rules {RULES}"] if example.image in converted else []
            for state in (digest, part):
                state.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest(), {split: part.hexdigest() for split, part in parts.items()}


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(brief, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
