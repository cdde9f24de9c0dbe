"""How long boards take to rebuild from many records, and how much memory.

Usage: ``python bench_boards.py [RECORDS] [ITEMS]``, 10,000 records of 200 items unless told
otherwise: two tasks, one scored by AUROC, twenty seeds, three variants each. The records
are written first and not counted; the rebuild is ``steelyard leaderboard`` on two cores at most,
itself and a helper, twice, and the bytes of the two have to agree. Memory is that of all its
processes together, pages that they share counted for each of them.
"""

import filecmp
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
from board_factory import make_run

TASKS = {"one": "accuracy", "two": "auroc"}
SEEDS = 20
VARIANTS = {"clean": 0.0, "image-blank": 0.2, "text-blank": 0.1}
LIMITS = 20.0, 2.0
"""Seconds and GB that a rebuild of 10,000 records of 200 items may take."""


def write_records(root: Path, records: int, items: int) -> int:
    """Entries of different skill on every task and seed; returns how many records there are."""
    rng = np.random.default_rng(0)
    entries = records // (len(TASKS) * SEEDS)
    for task, metric in TASKS.items():
        hard = rng.random(items)
        for entry in range(entries):
            label, skill = "joint" if entry == 0 else f"entry {entry}", 0.4 + 0.5 * entry / entries
            for seed in range(SEEDS):
                right = {
                    variant: (hard + 0.1 * rng.standard_normal(items) < skill - loss).astype(float)
                    for variant, loss in VARIANTS.items()
                }
                folder = root / task / f"{entry // 25}"
                # All confidences of these records are alike, which is an AUROC of one half.
                told = dict.fromkeys(right, 0.5) if metric == "auroc" else None
                make_run(folder, label, right, seed=seed, task=task, metric=metric, recorded=told)
    return entries * len(TASKS) * SEEDS


def rebuild(runs: Path, out: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak GB of one rebuild."""
    command = [str(Path(sys.executable).with_name("steelyard")), "leaderboard", str(runs)]
    cores = sorted(os.sched_getaffinity(0))[:2]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    started = subprocess.Popen(
        [*command, "--out", str(out), "--jobs", "2"],
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    peak = 0.0
    while started.poll() is None:
        peak = max(peak, held(psutil.Process(started.pid)))
        time.sleep(0.4)  # looking takes time from the rebuild
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if started.returncode:
        sys.exit(started.returncode)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, peak


def held(process: psutil.Process) -> float:
    """GB that a process and all it started hold now."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    return total / 2**30


def main() -> None:
    """Write the records, rebuild twice, print what it took."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    items = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        with patch("os.fsync"):  # waiting for the disk ten thousand times is no part of this
            made = write_records(root / "runs", records, items)
        for name in ("first", "second"):
            wall, cpu, peak = rebuild(root / "runs", root / name)
            print(f"{name} rebuild of {made} records, {items} items, {len(VARIANTS)} variants: "
                  f"{wall:.1f} s, {cpu:.1f} CPU s on two cores, {peak:.2f} GB at most "
                  f"(wanted: {LIMITS[0]:g} s, {LIMITS[1]:g} GB)", flush=True)  # fmt: skip
        names = sorted(path.name for path in (root / "first").iterdir())
        same, differ, broken = filecmp.cmpfiles(root / "first", root / "second", names, False)
        print(f"{len(same)} files, {len(differ) + len(broken)} of them differ")
        if differ or broken:
            sys.exit(1)


if __name__ == "__main__":
    main()
