"""Time of ``steelyard check`` on a large folder, the first and the second time.

``python bench_check.py [IMAGES]`` writes IMAGES (100,000) pictures of 64 pixels in the layout
of UPMC Food-101, checks them twice with an empty cache at first, adds one picture and checks again.
On a busy machine only the CPU seconds are meaningful.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from timing import arguments, cpu_seconds, run_command

COMMAND = [sys.executable, "-c", "from steelyard.harness.cli.main import main; main()"]
CLASSES = [f"dish_{number:03}" for number in range(101)]
TRAIN_FRACTION = 0.75
TITLES = ("how to make {}", "{} for dinner", "a simple recipe", "what to cook tonight")


def write(root: Path, images: int) -> None:
    """Write different pictures of coarse noise, and titles of which half name the dish."""
    rng = np.random.default_rng(0)
    (root / "texts").mkdir(parents=True)
    train = int(TRAIN_FRACTION * images)
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


def main(images: int) -> None:
    """Write, check twice, add a picture, check again."""
    with tempfile.TemporaryDirectory() as scratch:
        root, cache = Path(scratch) / "food101", Path(scratch) / "cache"
        words = ["check", "food101", "--data-root", str(root), "--out", str(cache / "card")]

        def check(label: str) -> None:
            cost = run_command([*COMMAND, *words], XDG_CACHE_HOME=str(cache))
            print(f"{label}: {cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU", flush=True)

        seconds = cpu_seconds(lambda: write(root, images))
        print(f"{images:,} images written: {seconds:.0f} s CPU", flush=True)
        check("first check")
        check("second check")
        card = json.loads((cache / "card" / "card.json").read_text(encoding="utf-8"))
        splits = card["sections"]["Splits"]["rows"]
        assert sum(split["images"] for split in splits) == images and not card["problems"]
        Image.new("RGB", (64, 64)).save(root / "images" / "train" / CLASSES[0] / "unused.jpg")
        check("check after one image was added")


if __name__ == "__main__":
    main(*arguments(__doc__, images=100_000))
