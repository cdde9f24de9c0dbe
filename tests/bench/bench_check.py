"""How long ``steelyard check`` takes on a large folder, the first and the second time.

``python bench_check.py [IMAGES]`` writes IMAGES (100,000) pictures of 64 pixels in the layout
of UPMC Food-101, checks them twice with a cache of its own, adds one picture, checks again, and
prints wall and CPU seconds of each. With other work on the machine only the CPU seconds tell.
"""

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-c", "from steelyard.harness.cli.main import main; main()"]
CLASSES = [f"dish_{number:03}" for number in range(101)]
TRAIN_SHARE = 0.75
TITLES = ("how to make {}", "{} for dinner", "a simple recipe", "what to cook tonight")


def write(root: Path, images: int) -> None:
    """Coarse noise that differs from picture to picture, and titles of which half name the dish."""
    rng = np.random.default_rng(0)
    (root / "texts").mkdir(parents=True)
    train = int(TRAIN_SHARE * images)
    for split, count in (("train", train), ("test", images - train)):
        rows = []
        for dish in CLASSES:
            (root / "images" / split / dish).mkdir(parents=True)
        for number in range(count):
            dish = CLASSES[number % len(CLASSES)]
            name = f"{dish}_{number}.jpg"
            grid = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(grid).resize((64, 64), Image.Resampling.BICUBIC)
            picture.save(root / "images" / split / dish / name, quality=90)
            rows.append((name, TITLES[number % len(TITLES)].format(dish), dish))
        with (root / "texts" / f"{split}_titles.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def timed(label: str, root: Path, cache: Path) -> None:
    """Run the command as a user does and print what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "check", "food101", "--data-root", str(root), "--out", str(cache / "card")],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{label}: {wall:.1f} s wall, {cpu:.1f} s CPU", flush=True)


def main(images: int) -> None:
    """Write, check twice, change a little, check again."""
    with tempfile.TemporaryDirectory() as scratch:
        root, cache = Path(scratch) / "food101", Path(scratch) / "cache"
        start = time.process_time()
        write(root, images)
        print(f"{images:,} images written: {time.process_time() - start:.0f} s CPU", flush=True)
        timed("first check", root, cache)
        timed("second check", root, cache)
        card = json.loads((cache / "card" / "card.json").read_text(encoding="utf-8"))
        assert card["sections"]["Images"]["rows"][0]["images"] == images and not card["problems"], (
            card["problems"]
        )
        Image.new("RGB", (64, 64)).save(root / "images" / "train" / CLASSES[0] / "unused.jpg")
        timed("check after one image was added", root, cache)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
