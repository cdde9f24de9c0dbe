"""Images that a model's processor refuses: named, counted, and no end of the other items."""

import json
from pathlib import Path
from typing import Any

import pytest
import scripted_vlm
import stock_data
import tiny_vlms
import vlm_toys
from command import Command
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records import record
from steelyard.harness.training.train_data import vlm_data


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.make("qwen2_vl", tmp_path_factory.mktemp("qwen") / "model")


def test_a_banner_is_refused_before_anything_is_scored(
    steelyard: Command, qwen: Path, tmp_path: Path
) -> None:
    root = scripted_vlm.pope(tmp_path / "pope")
    Image.new("RGB", (1204, 5)).save(root / "val2014" / "COCO_val2014_000000000003.jpg")
    words = ("evaluate", str(qwen), "pope", "--data-root", str(root), "--out", str(tmp_path / "r"))
    done = steelyard(*words)
    assert done.code == 2 and not (tmp_path / "r").exists()
    assert "random/3 (image refused: val2014/COCO_val2014_000000000003.jpg: 1204 x 5" in done.stderr
    assert "allow it with --max-bad 0.17" in done.stderr
    done = steelyard(*words, "--max-bad", "0.17")
    assert done.code == 0 and "1 row skipped (test/random/3: image refused" in done.stdout
    (folder,) = record.find(tmp_path / "r")
    scored = record.read(folder).provenance["scored"]["pope"]["data"]
    assert (scored["skipped"], scored["sizes"]) == (1, {"test": 5})


def instruct(root: Path) -> Path:
    """Write questions of which one of each split shows a column of 2 x 900 pixels."""
    (root / "images").mkdir(parents=True)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        rows = []
        for number in range(count):
            name = f"{split}{number}.png"
            picture = Image.new("RGB", (2, 900)) if number == 1 else stock_data.picture(name)
            picture.save(root / "images" / name)
            row = {"id": name, "image": name, "question": "is there a fish ?", "answer": "no"}
            rows.append(json.dumps({**row, "choices": ["yes", "no"]}) + "\n")
        (root / f"{split}.jsonl").write_text("".join(rows))
    return root


def test_a_column_is_left_out_of_training_and_counted(
    steelyard: Command, qwen: Path, tmp_path: Path
) -> None:
    root, runs = instruct(tmp_path / "pairs"), tmp_path / "runs"
    words = ("run", "sft", "--backbone", str(qwen), "--backbone-set", "tune=full", "--backbone-set",
             "batch_size=2", "--backbone-set", "micro_batch_size=2", "--task", "instruct",
             "--data-root", str(root), "--budget", "3e8", "--seeds", "0", "--runs", str(runs),
             "--corruption", "image-blank", "--device", "cpu")  # fmt: skip
    done = steelyard(*words)
    assert done.code == 2 and "train1.png (image refused: images/train1.png: 2 x 900" in done.stderr
    done = steelyard(*words, "--max-bad", "0.25")
    assert done.code == 0, done.stderr
    (folder,) = record.find(runs)
    data = record.read(folder).provenance["data"]
    assert data["skipped"] == 3 and data["sizes"] == {"test": 3, "train": 11, "val": 3}


@pytest.fixture
def picky(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vlm:
    """Return a model whose processor refuses an ordinary shape."""
    model = vlm_toys.build(str(qwen), tmp_path)
    process = model.processor.image_processor.__class__.preprocess

    def refuse(self: Any, images: Any, **options: Any) -> Any:
        if any(image.size == (40, 36) for row in images for image in row):
            raise RuntimeError("no such shape\nand more")
        return process(self, images, **options)

    monkeypatch.setattr(model.processor.image_processor.__class__, "preprocess", refuse)
    return model


FAULT = r"the processor refuses its image of 40 x 36 \(RuntimeError: no such shape\): leave it out"


def test_what_the_processor_refuses_later_is_named_in_scoring(picky: Vlm, tmp_path: Path) -> None:
    root = scripted_vlm.pope(tmp_path / "pope")
    Image.new("RGB", (40, 36)).save(root / "val2014" / "COCO_val2014_000000000004.jpg")
    corpus = tasks.load("pope", root)
    fault = rf"^pope, item random/4 \(.*000004.jpg\): {FAULT}"
    with pytest.raises(UserError, match=fault):
        evaluate(picky, tasks.parse_variant("pope"), corpus)
    with pytest.raises(UserError, match=r"^pope@image-adversarial:1, item random/4 "):
        evaluate(picky, tasks.parse_variant("pope@image-adversarial:1"), corpus)
    rows = stock_data.pope(6)
    rows[5]["image"] = Image.new("RGB", (40, 36))
    stock = tasks.load("stock/pope", stock_data.write(tmp_path / "stock", rows))
    with pytest.raises(UserError, match=rf"^stock/pope, item 5: {FAULT}"):
        evaluate(picky, tasks.parse_variant("stock/pope"), stock)


def test_what_the_processor_refuses_later_is_named_in_training(picky: Vlm) -> None:
    turns = vlm_toys.turns(4)
    shape = Image.new("RGB", (40, 36))
    inputs = vlm_toys.Inputs(shape, turns[2].inputs.text, turns[2].inputs.prompt)
    turns[2] = vlm_toys.Turn(inputs, turns[2].answer, turns[2].choices)
    examples = tuple(Example(f"id{row}", Path(f"{row}.png"), None) for row in range(4))
    with pytest.raises(UserError, match=rf"^Item id2 \(2.png\): {FAULT}"):
        vlm_data(picky, examples, lambda example: turns[int(example.id[2:])])
