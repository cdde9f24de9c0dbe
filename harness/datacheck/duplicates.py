"""Duplicate and near-duplicate images, items shared by two splits, images that no row names."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.core.folders import Files
from steelyard.harness.data.image_scan import ScannedImage
from steelyard.harness.data.reading import ordered_splits
from steelyard.harness.datacheck.layout import is_image

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
LEAKS = (
    "Items of the second split whose id, image (same bytes) or text is in the first, too; near "
    "duplicate counts other images that look like one of the first."
)

IndexPairs = NDArray[np.int64]
"""Indices of the two images of each pair, the smaller first, sorted: [P, 2]."""
ScannedImages = Mapping[Path, ScannedImage]
PathPairs = Sequence[tuple[Path, Path]]


class ImageCount(NamedTuple):
    """Number of images of one kind, with examples."""

    kind: str
    images: int
    examples: str


class Leak(NamedTuple):
    """Items of the second split of which something is in the first split, too."""

    first: str
    second: str
    items: int
    id: int
    image: int
    near_duplicate: int
    text: int
    image_and_text: int
    examples: Sequence[str]


def near_pairs(hashes: Sequence[bytes]) -> IndexPairs:
    """Find pairs of hashes that differ in at most ``NEAR`` bits, without those of flat images.

    If more than ``WINDOW`` hashes have an equal part, some pairs may be missed.
    """
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(-1, BITS)
    indices = np.flatnonzero(bits.sum(axis=1) >= FLAT)
    bits = bits[indices]
    words = np.packbits(bits, axis=1).view(np.uint64)
    # Of NEAR + 1 parts at least one is equal, so only hashes with an equal part are compared.
    parts = np.array_split(np.arange(BITS), NEAR + 1)
    pairs = [np.empty((0, 2), np.int64), *(_near_pairs(bits[:, part], words) for part in parts)]
    # Unique: a pair can be equal in several parts.
    result: IndexPairs = indices[np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)]
    return result


def _near_pairs(part: NDArray[np.uint8], words: NDArray[np.uint64]) -> IndexPairs:
    """Find pairs of rows that are equal in this part of the hash and near in all of it."""
    keys = part @ (1 << np.arange(part.shape[1]))
    # Also by the full hash: equal hashes are neighbours even if a part has more than WINDOW rows.
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


def near_duplicates(images: ScannedImages) -> list[tuple[Path, Path]]:
    """Find pairs of images that look alike; of several files with the same bytes, one counts."""
    by_content: dict[str, Path] = {}
    for path, image in images.items():
        if image.fingerprint:
            by_content.setdefault(image.content, path)
    paths = list(by_content.values())
    pairs = near_pairs([images[path].fingerprint for path in paths])
    return [(paths[first], paths[second]) for first, second in pairs.tolist()]


def count_images(
    root: Path, files: Files, images: ScannedImages, near: PathPairs
) -> list[ImageCount]:
    """Count the images that rows name, their faults and duplicates, and images without a row."""

    def examples(groups: Sequence[Sequence[Path]]) -> str:
        names = ([relative(root, path) for path in group[:SHOWN]] for group in groups[:SHOWN])
        return "; ".join(" = ".join(group) for group in names)

    by_content = defaultdict(list)
    for path, image in images.items():
        if not image.fault:
            by_content[image.content].append(path)
    groups = [paths for paths in by_content.values() if len(paths) > 1]
    usable = [image for image in images.values() if not image.fault]
    usable.sort(key=lambda image: (image.width * image.height, image.width))
    ranks = {"smallest": 0, "middle": len(usable) // 2, "largest": -1} if usable else {}
    by_area = {name: usable[rank] for name, rank in ranks.items()}
    sizes = [f"{name} {image.width} x {image.height}" for name, image in by_area.items()]
    names = {relative(root, path) for path in images}
    unused = [path for path in files if is_image(path) and path not in names]
    return [
        ImageCount("image files", len(images), ", ".join(sizes)),
        ImageCount("missing or unreadable", sum(bool(i.fault) for i in images.values()), ""),
        ImageCount("duplicates (same bytes)", sum(map(len, groups)), examples(groups)),
        ImageCount("near-duplicates", len({p for pair in near for p in pair}), examples(near)),
        ImageCount("named by no row", len(unused), ", ".join(unused[:SHOWN])),
    ]


def relative(root: Path, path: Path) -> str:
    text, prefix = str(path), f"{root}{os.sep}"
    # Path.relative_to takes ten times as long, and there may be very many.
    return text.removeprefix(prefix) if text.startswith(prefix) else os.path.relpath(path, root)


def leaks(corpus: Corpus, images: ScannedImages, near: PathPairs) -> list[Leak]:
    """Count, for each pair of splits, items of the second that share something with the first."""
    alike = defaultdict(set)
    for pair in near:
        contents = [images[path].content for path in pair]
        alike[contents[0]].add(contents[1])
        alike[contents[1]].add(contents[0])
    keys = {split: _keys(rows, images) for split, rows in corpus.splits.items()}
    rows = []
    for first, second in combinations(ordered_splits(corpus.splits), 2):
        before, after = keys[first], keys[second]
        pictures = {image for _, image, _ in before if image}
        # The text of a question is the question, which two splits may ask about different images.
        texts = {text for _, _, text in before if text}
        both = {(image, text) for _, image, text in before if image and text}
        same = [id for id, image, _ in after if image in pictures]
        new = [(id, image) for id, image, _ in after if image not in pictures]
        similar = [id for id, image in new if not alike[image].isdisjoint(pictures)]
        counts = {
            "items": len(after),
            "id": len({id for id, _, _ in before} & {id for id, _, _ in after}),
            "image": len(same),
            "near_duplicate": len(similar),
            "text": sum(text in texts for _, _, text in after),
            "image_and_text": sum((image, text) in both for _, image, text in after),
        }
        rows.append(Leak(first, second, **counts, examples=[*same, *similar][:SHOWN]))
    return rows


def repeated(corpus: Corpus, images: ScannedImages) -> dict[str, int]:
    """Count the items of each split that have image and text of another item of the split."""
    counts = {}
    for split, rows in corpus.splits.items():
        pairs = [(image, text) for _, image, text in _keys(rows, images) if image]
        counts[split] = len(pairs) - len(set(pairs))
    return counts


def _keys(examples: Sequence[Example], images: ScannedImages) -> list[tuple[str, str, str]]:
    """List id, image content and normalised text of items; the last two empty if absent."""
    keys = []
    for row in examples:
        content = images[row.image].content if row.image else ""
        keys.append((row.id, content, " ".join((row.text or "").casefold().split())))
    return keys
