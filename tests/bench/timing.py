"""Timing, printing and arguments that the benches share.

Times are CPU seconds of this one-thread process, unless named wall. Work that is compared runs in
turns, so that a busy machine slows all of it alike.
"""

import argparse
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

from steelyard.harness.core.seeds import seed_for

Work = Callable[[], object]


def arguments(doc: str | None, **defaults: int) -> list[int]:
    """Parse optional positive numbers by position; ``doc`` is the help text."""
    parser = argparse.ArgumentParser(description=doc)
    for name, default in defaults.items():
        parser.add_argument(name, nargs="?", type=int, default=default)
    return list(vars(parser.parse_args()).values())


def cpu_seconds(work: Work) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each call, by name; names take turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(cpu_seconds(work))
    return times


class Comparison(NamedTuple):
    """Median CPU seconds of two pieces of work, and the median of their ratios."""

    first: float
    second: float
    ratio: float


def compare(first: Work, second: Work, rounds: int = 7) -> Comparison:
    """Call both once to warm up, then time them in turns."""
    first()
    second()
    times = in_turns({"first": first, "second": second}, rounds)
    ratios = [a / b for a, b in zip(times["first"], times["second"], strict=True)]
    return Comparison(*map(statistics.median, (times["first"], times["second"], ratios)))


class CommandCost(NamedTuple):
    """Cost of a command and its children."""

    wall: float
    cpu: float
    peak_gb: float
    """Peak memory of all processes together; each counts the pages that it shares."""


def run_command(words: Sequence[str], cores: int = 0, **environment: str) -> CommandCost:
    """Run a command, on so many cores if given; exit as it did, with its output, if it failed."""
    pinned = set(sorted(os.sched_getaffinity(0))[: cores or None])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=lambda: os.sched_setaffinity(0, pinned),
    )
    peak = 0.0
    while True:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid)
            sizes = [p.memory_info().rss for p in (family, *family.children(recursive=True))]
            peak = max(peak, sum(sizes) / 2**30)
        try:
            output, _ = process.communicate(timeout=0.4)  # looking takes time from the command
            break
        except subprocess.TimeoutExpired:
            continue
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(output)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return CommandCost(wall, cpu, peak)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture of smooth random colours, which compresses as a photo does."""
    rng = np.random.default_rng(seed_for("photo", seed))
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)
