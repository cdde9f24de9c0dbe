"""Pictures that look alike: pairs of difference hashes that share nearly all of their bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
