"""Milliseconds that each corruption takes on one item: the best of several, on one thread.

Usage: ``python tests/bench/bench_corruptions.py [WIDTH HEIGHT]``; without a size, a 640x480 photo.
"""

import sys
import time

import numpy as np
from PIL import Image

from steelyard.harness.core.examples import Inputs
from steelyard.tasks.corruptions import CORRUPTIONS, corrupt

REPEATS = 20
WORDS = 100


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours; what a corruption costs hardly depends on the content."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def milliseconds(name: str, severity: int | None, inputs: Inputs) -> float:
    """Fastest of ``REPEATS`` items, whose ids differ."""
    times = []
    for key in range(REPEATS):
        start = time.perf_counter()
        corrupt(name, severity, str(key), inputs, lambda rng: inputs)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    """Print one line a corruption: its mildest and its strongest severity."""
    width, height = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (640, 480)
    inputs = Inputs(photo(width, height), " ".join(["something", "else"] * (WORDS // 2)))
    print(f"ms an item: image {width}x{height}, text of {WORDS} words")
    for name, corruption in CORRUPTIONS.items():
        if corruption.apply is not None:
            severities = corruption.severities or (None,)
            ends = dict.fromkeys((severities[0], severities[-1]))
            found = ", ".join(f"{milliseconds(name, end, inputs):6.2f}" for end in ends)
            print(f"{name:20} {found}")


if __name__ == "__main__":
    main()
