"""Milliseconds of each corruption on one item: the best of several, on one thread.

Usage: ``python tests/bench/bench_corruptions.py [WIDTH HEIGHT]``, by default a 640x480 photo.
"""

from timing import arguments, cpu_seconds, photo

from steelyard.harness.core.examples import Inputs
from steelyard.tasks.corruptions import CORRUPTIONS, corrupt

REPEATS = 20
WORDS = 100


def milliseconds(name: str, severity: int | None, inputs: Inputs) -> float:
    """Return the fastest of ``REPEATS`` items with different ids."""
    return 1e3 * min(
        cpu_seconds(lambda key=key: corrupt(name, severity, str(key), inputs, lambda rng: inputs))
        for key in range(REPEATS)
    )


def main(width: int, height: int) -> None:
    """Print a line per corruption: its mildest and its strongest severity."""
    inputs = Inputs(photo(width, height), " ".join(["something", "else"] * (WORDS // 2)))
    print(f"ms per item: image {width}x{height}, text of {WORDS} words")
    for name, corruption in CORRUPTIONS.items():
        if corruption.apply is not None:
            severities = corruption.severities or (None,)
            ends = dict.fromkeys((severities[0], severities[-1]))
            times = ", ".join(f"{milliseconds(name, end, inputs):6.2f}" for end in ends)
            print(f"{name:20} {times}")


if __name__ == "__main__":
    main(*arguments(__doc__, width=640, height=480))
