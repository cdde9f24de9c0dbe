"""Time and memory of boards and of validation of many records.

Usage: ``python bench_boards.py [RECORDS] [ITEMS]``, by default 10,000 records of 200 items: two
tasks, one scored by AUROC, twenty seeds, three variants. Every further 10,000 records are two more
tasks. The records are written first and not counted. ``steelyard leaderboard --jobs 2`` builds the
boards on two cores: without one run and without a memo, again, with that run, and of packed runs.
The last two have to give the bytes of a build without a memo.
"""

import filecmp
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
from board_factory import make_run
from timing import arguments, run_command

from steelyard.harness.records.record import ITEMS, RECORD, checksum

TASKS = {"one": "accuracy", "two": "auroc"}
SEEDS = 20
VARIANTS = {"clean": 0.0, "image-blank": 0.2, "text-blank": 0.1}
TREE = 10_000
"""Records that are made; more are copies under further tasks."""
VALIDATE = """
import sys; from pathlib import Path; from steelyard.leaderboards.validate import validate
validate(Path(sys.argv[1]))
"""
LIMITS = {"first": 10.0, "one new run": 3.0}
"""Seconds on two idle cores that boards of 10,000 records of 200 items may take."""


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


def write_copy(runs: Path, copy: Path) -> None:
    """Write the records of a tree once more, under tasks of the copy's name."""
    for path in runs.glob(f"*/*/*/{RECORD}"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for part in (content["spec"], *content["scores"]):
            part["task"] += f" {copy.name}"
        content["seal"] = checksum(content)
        folder = copy / path.parent.relative_to(runs)
        folder.mkdir(parents=True)
        (folder / RECORD).write_text(json.dumps(content), encoding="utf-8")
        os.link(path.parent / ITEMS, folder / ITEMS)


def different(first: Path, second: Path) -> Iterator[str]:
    """Yield the names of files that differ between two folders, or are in one of them."""
    comparison = filecmp.dircmp(first, second)
    yield from (*comparison.left_only, *comparison.right_only)
    yield from filecmp.cmpfiles(first, second, comparison.common_files, shallow=False)[1]


def main(records: int, items: int) -> None:
    """Write the records, build the boards, print the costs."""
    command = str(Path(sys.executable).with_name("steelyard"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        runs = root / "runs"
        with patch("os.fsync"):  # waiting for the disk ten thousand times is not measured
            count = write_records(runs / "0", min(records, TREE), items)
        for number in range(1, records // TREE):
            write_copy(runs / "0", runs / str(number))

        def measure(name: str, *words: str, cache: str = "cache") -> None:
            cost = run_command(words, cores=2, XDG_CACHE_HOME=str(root / cache))
            limit = f" (limit: {LIMITS[name]:g} s)" if name in LIMITS and records == TREE else ""
            print(f"{name}: {cost.wall:.1f} s{limit}, {cost.cpu:.1f} CPU s, {cost.peak_gb:.2f} GB "
                  "at most", flush=True)  # fmt: skip

        def board(name: str, folder: Path, cache: str = "cache") -> None:
            words = ("leaderboard", str(folder), "--out", str(root / name), "--jobs", "2")
            measure(name, command, *words, cache=cache)

        print(f"{count * max(1, records // TREE)} records, {items} items, {len(VARIANTS)} variants")
        new = next((runs / "0" / "one").glob("*/0007"))
        shutil.move(new, root / "new")
        board("first", runs)
        board("nothing new", runs)
        shutil.move(root / "new", new)
        board("one new run", runs)
        board("all, no memo", runs, cache="empty")
        measure("pack", command, "pack", str(runs), "--out", str(root / "store"))
        board("packed", root / "store", cache="another")
        # Not the command, which ends with code 1: these records are no real runs.
        for folder in (runs, root / "store"):
            measure(f"validate {folder.name}", sys.executable, "-c", VALIDATE, str(folder))
        for name in ("one new run", "packed"):
            if names := sorted(different(root / "all, no memo", root / name)):
                sys.exit(f"{name}: other bytes in {', '.join(names)}")


if __name__ == "__main__":
    main(*arguments(__doc__, records=TREE, items=200))
