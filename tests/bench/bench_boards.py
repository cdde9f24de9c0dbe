"""Time and memory of a rebuild of boards from many records.

Usage: ``python bench_boards.py [RECORDS] [ITEMS]``, by default 10,000 records of 200 items: two
tasks, one scored by AUROC, twenty seeds, three variants. The records are written first and not
counted. The rebuild is ``steelyard leaderboard --jobs 2`` on two cores, twice, and the bytes of
both have to be equal.
"""

import filecmp
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from board_factory import make_run
from timing import arguments, run_command

TASKS = {"one": "accuracy", "two": "auroc"}
SEEDS = 20
VARIANTS = {"clean": 0.0, "image-blank": 0.2, "text-blank": 0.1}
LIMITS = 20.0, 2.0
"""Seconds and GB that a rebuild of 10,000 records of 200 items may take."""


def write_records(root: Path, records: int, items: int) -> int:
    """Write entries of different skill on every task and seed; return the number of records."""
    rng = np.random.default_rng(0)
    entries = records // (len(TASKS) * SEEDS)
    for task, metric in TASKS.items():
        difficulty = rng.random(items)
        for entry in range(entries):
            label, skill = "joint" if entry == 0 else f"entry {entry}", 0.4 + 0.5 * entry / entries
            for seed in range(SEEDS):
                noise = {name: 0.1 * rng.standard_normal(items) for name in VARIANTS}
                right = {
                    name: (difficulty + noise[name] < skill - loss).astype(float)
                    for name, loss in VARIANTS.items()
                }
                folder = root / task / f"{entry // 25}"
                # All confidences of these records are equal, which is an AUROC of one half.
                scores = dict.fromkeys(right, 0.5) if metric == "auroc" else None
                make_run(folder, label, right, seed=seed, task=task, metric=metric, recorded=scores)
    return entries * len(TASKS) * SEEDS


def main(records: int, items: int) -> None:
    """Write the records, rebuild twice, print the costs."""
    command = str(Path(sys.executable).with_name("steelyard"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        with patch("os.fsync"):  # waiting for the disk ten thousand times is not measured
            count = write_records(root / "runs", records, items)
        for name in ("first", "second"):
            words = [command, "leaderboard", str(root / "runs"), "--out", str(root / name)]
            cost = run_command([*words, "--jobs", "2"], cores=2)
            print(f"{name} rebuild of {count} records, {items} items, {len(VARIANTS)} variants: "
                  f"{cost.wall:.1f} s, {cost.cpu:.1f} CPU s on two cores, {cost.peak_gb:.2f} GB at "
                  f"most (limits: {LIMITS[0]:g} s, {LIMITS[1]:g} GB)", flush=True)  # fmt: skip
        names = sorted(path.name for path in (root / "first").iterdir())
        same, differ, broken = filecmp.cmpfiles(root / "first", root / "second", names, False)
        print(f"{len(same)} equal files, {len(differ) + len(broken)} differ")
        if differ or broken:
            sys.exit(1)


if __name__ == "__main__":
    main(*arguments(__doc__, records=10_000, items=200))
