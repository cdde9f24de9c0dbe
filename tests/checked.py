"""Folders to check and to convert, and the check itself without its terminal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steelyard.harness.core.seeds import seed_for
from steelyard.harness.datacheck.report import check
from steelyard.tasks.world import build


def picture(path: Path, cells: int = 6) -> Path:
    """Smooth noise of 64 pixels, another for every file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed_for(path.name)).integers(0, 256, (cells, cells, 3), np.uint8)
    Image.fromarray(grid).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return path


def look(root: Path, task: str, max_bad: float = 0.01, **options: str) -> dict[str, Any]:
    """The data card of a folder."""
    made, _ = check(task, root, options, max_bad, lambda doing: None)
    return made


def published(root: Path) -> Path:
    """A generated food101 of 240 and 80 items that does not say that it is generated."""
    build.write("food101", root, train=240, test=80, size=24)
    for name in (build.MARKER, "truth.jsonl"):
        (root / name).unlink()
    return root


def questions(root: Path) -> Path:
    """Forty questions of POPE about twenty images: of two objects each, one is there."""
    rows = []
    for number in range(40):
        name = f"COCO_val2014_{number // 2:012}.jpg"
        thing, label = (("dog", "yes"), ("boat", "no"))[number % 2]
        asked = f"Is there a {thing} in the image?"
        rows.append({"question_id": number, "image": name, "text": asked, "label": label})
        if number % 2:
            picture(root / "val2014" / name)
    path = root / "coco" / "coco_pope_random.json"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root
