"""The stock ``lmms-eval`` command on our tasks and a finished run's model gives our own scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.seeds import seed_for


def write_food101(root: Path) -> None:
    """Three classes in the layout of UPMC Food-101, with noise for photos."""
    rng = np.random.default_rng(seed_for("stock cli"))
    (root / "texts").mkdir(parents=True)
    for split, count in (("train", 20), ("test", 7)):
        rows = []
        for name in ("apple_pie", "bibimbap", "churros"):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                file = f"{name}_{number}.png"
                pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / file)
                rows.append(f"{file},{name} recipe {number},{name}\n")
        (root / "texts" / f"{split}_titles.csv").write_text("".join(rows))


@pytest.mark.slow
def test_the_stock_command_scores_a_run_as_we_do(tmp_path: Path) -> None:
    from steelyard.harness import classifier
    from steelyard.harness.classifier_config import configure
    from steelyard.harness.evaluate import evaluate

    write_food101(tmp_path / "data" / "food101")
    corpus = tasks.load("food101", tmp_path / "data" / "food101")
    texts = [example.text for example in corpus.splits["train"] if example.text]
    model = classifier.build("tiny", configure("tiny", {}), corpus.classes, False, texts, 0)
    classifier.save(model, tmp_path / "run" / "weights")
    ours = evaluate(model, tasks.parse_variant("food101"), corpus)

    command = [
        *(str(Path(sys.executable).parent / "lmms-eval"), "--model", "steelyard"),
        *("--model_args", f"run={tmp_path / 'run'}", "--batch_size", "8"),
        *("--include_path", str(Path(tasks.__file__).parent), "--tasks", "steelyard_food101"),
        *("--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **offline, "STEELYARD_DATA": str(tmp_path / "data")}
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    # The command exits with 0 whatever happens: only its files tell.
    found = list((tmp_path / "out").rglob("*_results.json"))
    assert len(found) == 1, ran.stdout[-2000:] + ran.stderr[-2000:]
    theirs = json.loads(found[0].read_text())["results"]["steelyard_food101"]
    assert theirs["accuracy,none"] == ours.scores[0].value
    (log,) = (tmp_path / "out").rglob("*_samples_steelyard_food101.jsonl")
    items = [json.loads(line)["item"] for line in log.read_text().splitlines()]
    confidence = {item["id"]: item["confidence"] for item in items}
    # Another batch size may change the last digits of a sum.
    assert confidence == pytest.approx(ours.items.set_index("id")["confidence"].to_dict(), 1e-5)
