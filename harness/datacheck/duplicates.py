"""Pictures that look alike: pairs of difference hashes that share nearly all of their bits."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.data.image_scan import Look
from steelyard.harness.data.reading import CORE
from steelyard.harness.datacheck.layout import Files, is_image

BITS = 128
NEAR = 6
"""Most bits in which twins differ. Of 600 photos stored again (JPEG quality 40 and 70, half the
size, 10 % brighter) 99 % differ in no more from the original; no two photos of them in under 26."""
FLAT = 8
"""Pictures with fewer bits set show next to nothing: they would all be twins of one another."""
WINDOW = 256
"""Most neighbours that a picture is compared with where very many have a part in common."""

Pairs = NDArray[np.int64]
"""Places of the two of each pair, the smaller first, sorted: [P, 2]."""


def near_pairs(hashes: Sequence[bytes]) -> Pairs:
    """Pairs of places whose hashes differ in at most ``NEAR`` bits; flat pictures have none.

    Of ``NEAR + 1`` parts of the hash one is then equal, so only those with an equal part are
    compared. More than ``WINDOW`` pictures that share a part may hide pairs, never invent some.
    """
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(-1, BITS)
    places = np.flatnonzero(bits.sum(axis=1) >= FLAT)
    bits = bits[places]
    words = np.packbits(bits, axis=1).view(np.uint64)
    parts = np.array_split(np.arange(BITS), NEAR + 1)
    found = [np.empty((0, 2), np.int64), *(_sharing(bits[:, part], words) for part in parts)]
    pairs: Pairs = places[np.unique(np.sort(np.concatenate(found), axis=1), axis=0)]
    return pairs


def _sharing(part: NDArray[np.uint8], words: NDArray[np.uint64]) -> Pairs:
    """Pairs of rows that are equal in this part of the hash, and near in all of it."""
    keys = part @ (1 << np.arange(part.shape[1]))
    order = np.lexsort((words[:, 1], words[:, 0], keys))
    keys, words = keys[order], words[order]
    found = []
    here = np.arange(len(keys))
    for offset in range(1, WINDOW):
        here = here[here + offset < len(keys)]
        here = here[keys[here] == keys[here + offset]]
        if not len(here):
            break
        differing = np.bitwise_count(words[here] ^ words[here + offset]).sum(axis=1)
        near = here[differing <= NEAR]
        found.append(np.stack([order[near], order[near + offset]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


NAMED = 5
"""Examples that a finding names."""

Looks = Mapping[Path, Look]
Twins = Sequence[tuple[Path, Path]]


def used_images(corpus: Corpus) -> list[Path]:
    """Images of the items that were read and of the rows that were not, each once."""
    read = (one.image for rows in corpus.splits.values() for one in rows)
    skipped = (row.image for row in corpus.skipped)
    return list(dict.fromkeys(image for image in (*read, *skipped) if image))


def twins(looks: Looks) -> list[tuple[Path, Path]]:
    """Images that look alike without being the same file, in pairs; one stands for its copies."""
    first: dict[str, Path] = {}
    for path, look in looks.items():
        if look.alike:
            first.setdefault(look.content, path)
    paths = list(first.values())
    pairs = near_pairs([looks[path].alike for path in paths])
    return [(paths[one], paths[other]) for one, other in pairs.tolist()]


def images(root: Path, looks: Looks, near: Twins) -> dict[str, Any]:
    """Sizes of images, those that cannot be used with the reason, copies and near copies."""
    good = [look for look in looks.values() if not look.fault]
    faults = [
        {"image": _shown(root, path), "reason": look.fault}
        for path, look in looks.items()
        if look.fault
    ]
    groups = defaultdict(list)
    for path, look in looks.items():
        if not look.fault:
            groups[look.content].append(_shown(root, path))
    copies = [paths for paths in groups.values() if len(paths) > 1]
    return {
        "files": len(looks),
        "faulty": faults,
        "pixels": _pixels(good),
        "copies": {
            "groups": len(copies),
            "images": sum(map(len, copies)),
            "first": [paths[:NAMED] for paths in copies[:NAMED]],
        },
        "alike": {
            "pairs": len(near),
            "images": len({path for pair in near for path in pair}),
            "first": [[_shown(root, path) for path in pair] for pair in near[:NAMED]],
        },
    }


def _pixels(looks: Sequence[Look]) -> dict[str, str]:
    """The smallest, middle and largest image by area."""
    if not looks:
        return {}
    ordered = sorted(looks, key=lambda look: (look.width * look.height, look.width))
    chosen = {"smallest": ordered[0], "middle": ordered[len(ordered) // 2], "largest": ordered[-1]}
    return {name: f"{look.width} x {look.height}" for name, look in chosen.items()}


def unused(root: Path, files: Files, used: Iterable[Path]) -> dict[str, Any]:
    """Images of the folder that no row names."""
    named = {_shown(root, path) for path in used}
    rest = [path for path in files if is_image(path) and path not in named]
    return {"images": len(rest), "first": rest[:NAMED]}


def _shown(root: Path, path: Path) -> str:
    """A path below the root; ``os.path`` because there are many."""
    whole, start = str(path), f"{root}{os.sep}"
    return whole[len(start) :] if whole.startswith(start) else os.path.relpath(path, root)


def leaks(corpus: Corpus, looks: Looks, near: Twins) -> list[dict[str, Any]]:
    """One row a pair of splits: items of the second whose id, image or text the first has too.

    ``alike`` counts those whose image only looks like one of the first. In questions the text is
    the question, which two splits may ask of different images.
    """
    twin = defaultdict(set)
    for pair in near:
        left, right = (looks[path].content for path in pair)
        twin[left].add(right)
        twin[right].add(left)
    rows = []
    for one, other in combinations(_ordered(corpus), 2):
        known, asked = corpus.splits[one], corpus.splits[other]
        images = {looks[row.image].content for row in known if row.image}
        texts = set(map(_text, known)) - {""}
        both = {(_content(looks, row), _text(row)) for row in known if row.image and row.text}
        same = [row for row in asked if _content(looks, row) in images]
        others = (row for row in asked if row.image and _content(looks, row) not in images)
        alike = [row for row in others if not twin[_content(looks, row)].isdisjoint(images)]
        counts = {
            "items": len(asked),
            "ids": len({row.id for row in known} & {row.id for row in asked}),
            "image": len(same),
            "alike": len(alike),
            "text": sum(_text(row) in texts for row in asked),
            "image and text": sum((_content(looks, row), _text(row)) in both for row in asked),
        }
        first = [row.id for row in (*same, *alike)[:NAMED]]
        rows.append({"from": one, "to": other, **counts, "first": first})
    return rows


def repeated(corpus: Corpus, looks: Looks) -> dict[str, int]:
    """Items of each split that repeat another's image and text under an id of their own."""
    found = {}
    for split, rows in corpus.splits.items():
        counts = Counter((_content(looks, row), _text(row)) for row in rows if row.image)
        found[split] = counts.total() - len(counts)
    return found


def _ordered(corpus: Corpus) -> list[str]:
    """Train, val and test first, then the others."""
    return [*filter(corpus.splits.__contains__, CORE), *sorted(corpus.splits.keys() - set(CORE))]


def _content(looks: Looks, example: Example) -> str:
    return looks[example.image].content if example.image else ""


def _text(example: Example) -> str:
    return " ".join((example.text or "").casefold().split())


def warnings(card: Mapping[str, Any]) -> list[str]:
    """What is not refused and should be known, one line each."""
    found = ["This is the generated world, not the published data."] if card["generated"] else []
    shown = card["images"]
    if shown["faulty"]:
        found.append(f"Images that cannot be used: {len(shown['faulty']):,}; no row keeps them.")
    if shown["copies"]["images"]:
        copies = shown["copies"]
        found.append(
            f"Image files with the bytes of another: {copies['images']:,}, "
            f"of {copies['groups']:,} pictures."
        )
    for row in card["leaks"]:
        # Official splits of other names share items with val and test.
        apart = row["from"] == "train" or {row["from"], row["to"]} <= set(CORE)
        if apart and (row["image"] or row["alike"]):
            found.append(
                f"Items of {row['to']} whose image is in {row['from']} too: {row['image']:,} of "
                f"{row['items']:,}; {row['alike']:,} more look like one of it."
            )
    for file in card["files"]:
        if file["official"].startswith(("differs", "official size, but")):
            found.append(f"{file['path']}: {file['official']}")
        found += [fault for fault in file["faults"] if fault not in card["problems"]]
    return found
