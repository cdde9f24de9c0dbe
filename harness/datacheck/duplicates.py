"""Duplicate and near-duplicate images, items shared by two splits, images that no row names."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.data.image_scan import ScannedImage
from steelyard.harness.data.reading import ordered_splits
from steelyard.harness.datacheck.layout import Files, is_image

BITS = 128
NEAR = 6
"""Most bits in which near-duplicates differ. Of 600 photos stored again (JPEG quality 40 and 70,
half the size, 10 % brighter) 99 % are within it; two different photos differ in 26 or more."""
FLAT = 8
"""Images with fewer bits set show next to nothing: they would all be near-duplicates."""
WINDOW = 256
"""Most neighbours that an image is compared with if very many share a part of the hash."""
SHOWN = 5
"""Most examples that are listed."""

IndexPairs = NDArray[np.int64]
"""Indices of the two images of each pair, the smaller first, sorted: [P, 2]."""
Images = Mapping[Path, ScannedImage]
PathPairs = Sequence[tuple[Path, Path]]


class ImageGroups(TypedDict):
    """Groups of images that are equal, or pairs that look alike."""

    groups: int
    images: int
    examples: list[list[str]]


class ImageSummary(TypedDict):
    """All images of a data set; ``pixels`` has the size of the smallest, middle and largest."""

    files: int
    faulty: list[dict[str, str]]
    pixels: dict[str, str]
    duplicates: ImageGroups
    near_duplicates: ImageGroups


class UnusedImages(TypedDict):
    """Images of the folder that no row names."""

    images: int
    examples: list[str]


class Leak(TypedDict):
    """Counts of items of the second split of which something is in the first, too."""

    first: str
    second: str
    items: int
    id: int
    image: int
    near_duplicate: int
    text: int
    image_and_text: int
    examples: list[str]


def near_pairs(hashes: Sequence[bytes]) -> IndexPairs:
    """Find pairs of hashes that differ in at most ``NEAR`` bits, without those of flat images.

    One of ``NEAR + 1`` parts of the hash is then equal, so only hashes with an equal part are
    compared. If more than ``WINDOW`` images share a part, some pairs may be missed.
    """
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(-1, BITS)
    indices = np.flatnonzero(bits.sum(axis=1) >= FLAT)
    bits = bits[indices]
    words = np.packbits(bits, axis=1).view(np.uint64)
    parts = np.array_split(np.arange(BITS), NEAR + 1)
    pairs = [np.empty((0, 2), np.int64), *(_near_pairs(bits[:, part], words) for part in parts)]
    result: IndexPairs = indices[np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)]
    return result


def _near_pairs(part: NDArray[np.uint8], words: NDArray[np.uint64]) -> IndexPairs:
    """Find pairs of rows that are equal in this part of the hash and near in all of it."""
    keys = part @ (1 << np.arange(part.shape[1]))
    order = np.lexsort((words[:, 1], words[:, 0], keys))
    keys, words = keys[order], words[order]
    pairs = [np.empty((0, 2), np.int64)]
    rows = np.arange(len(keys))
    for offset in range(1, WINDOW):
        rows = rows[rows + offset < len(keys)]
        rows = rows[keys[rows] == keys[rows + offset]]
        if not len(rows):
            break
        distance = np.bitwise_count(words[rows] ^ words[rows + offset]).sum(axis=1)
        near = rows[distance <= NEAR]
        pairs.append(np.stack([order[near], order[near + offset]], axis=1))
    return np.concatenate(pairs)


def used_images(corpus: Corpus) -> list[Path]:
    """List the images of usable and of skipped rows, without repeats."""
    usable = (row.image for rows in corpus.splits.values() for row in rows)
    skipped = (row.image for row in corpus.skipped)
    return list(dict.fromkeys(image for image in (*usable, *skipped) if image))


def near_duplicates(images: Images) -> list[tuple[Path, Path]]:
    """Find pairs of images that look alike; of several files with the same bytes, one counts."""
    first: dict[str, Path] = {}
    for path, image in images.items():
        if image.fingerprint:
            first.setdefault(image.content, path)
    paths = list(first.values())
    pairs = near_pairs([images[path].fingerprint for path in paths])
    return [(paths[left], paths[right]) for left, right in pairs.tolist()]


def summarise(root: Path, images: Images, near: PathPairs) -> ImageSummary:
    """Summarise sizes, faults, duplicates and near-duplicates of images."""
    by_content = defaultdict(list)
    for path, image in images.items():
        if not image.fault:
            by_content[image.content].append(_relative(root, path))
    groups = [paths for paths in by_content.values() if len(paths) > 1]
    return {
        "files": len(images),
        "faulty": [
            {"image": _relative(root, path), "reason": image.fault}
            for path, image in images.items()
            if image.fault
        ],
        "pixels": _pixels([image for image in images.values() if not image.fault]),
        "duplicates": {
            "groups": len(groups),
            "images": sum(map(len, groups)),
            "examples": [paths[:SHOWN] for paths in groups[:SHOWN]],
        },
        "near_duplicates": {
            "groups": len(near),
            "images": len({path for pair in near for path in pair}),
            "examples": [[_relative(root, path) for path in pair] for pair in near[:SHOWN]],
        },
    }


def _pixels(images: Sequence[ScannedImage]) -> dict[str, str]:
    if not images:
        return {}
    ordered = sorted(images, key=lambda image: (image.width * image.height, image.width))
    chosen = {"smallest": ordered[0], "middle": ordered[len(ordered) // 2], "largest": ordered[-1]}
    return {name: f"{image.width} x {image.height}" for name, image in chosen.items()}


def unused_images(root: Path, files: Files, used: Iterable[Path]) -> UnusedImages:
    """Find the images of the folder that no row names."""
    named = {_relative(root, path) for path in used}
    paths = [path for path in files if is_image(path) and path not in named]
    return {"images": len(paths), "examples": paths[:SHOWN]}


def _relative(root: Path, path: Path) -> str:
    text, prefix = str(path), f"{root}{os.sep}"
    # Path.relative_to takes ten times as long, and there may be very many.
    return text.removeprefix(prefix) if text.startswith(prefix) else os.path.relpath(path, root)


def leaks(corpus: Corpus, images: Images, near: PathPairs) -> list[Leak]:
    """Count, for each pair of splits, items of the second that share something with the first.

    ``near_duplicate`` counts those whose image only looks like one of the first. The text of a
    question is the question, which two splits may ask about different images.
    """
    alike = defaultdict(set)
    for pair in near:
        left, right = (images[path].content for path in pair)
        alike[left].add(right)
        alike[right].add(left)
    rows: list[Leak] = []
    for first, second in combinations(ordered_splits(corpus.splits), 2):
        before, after = corpus.splits[first], corpus.splits[second]
        ids = {row.id for row in before}
        contents = {_content(images, row) for row in before if row.image}
        texts = set(map(_text, before)) - {""}
        both = {(_content(images, row), _text(row)) for row in before if row.image and row.text}
        pictured = [row for row in after if row.image]
        same = [row for row in pictured if _content(images, row) in contents]
        similar = [
            row
            for row in pictured
            if _content(images, row) not in contents
            and not alike[_content(images, row)].isdisjoint(contents)
        ]
        rows.append(
            {
                "first": first,
                "second": second,
                "items": len(after),
                "id": len(ids & {row.id for row in after}),
                "image": len(same),
                "near_duplicate": len(similar),
                "text": sum(_text(row) in texts for row in after),
                "image_and_text": sum((_content(images, row), _text(row)) in both for row in after),
                "examples": [row.id for row in (*same, *similar)[:SHOWN]],
            }
        )
    return rows


def repeated(corpus: Corpus, images: Images) -> dict[str, int]:
    """Count the items of each split that have image and text of another item of the split."""
    counts = {}
    for split, rows in corpus.splits.items():
        pairs = Counter((_content(images, row), _text(row)) for row in rows if row.image)
        counts[split] = pairs.total() - len(pairs)
    return counts


def _content(images: Images, example: Example) -> str:
    return images[example.image].content if example.image else ""


def _text(example: Example) -> str:
    return " ".join((example.text or "").casefold().split())
