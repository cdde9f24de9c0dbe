"""Property: what ``check`` finds usable a run takes, and what it refuses a run refuses alike."""

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import image_files
import mme_files
import pytest
import scripted_vlm
import torch
from checked import look
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Turn
from steelyard.harness.data import card
from steelyard.harness.data.images import store_of
from steelyard.harness.evaluation.recorded import export_items
from steelyard.harness.models import classifier, classifier_config
from steelyard.harness.models.classifier import Classifier
from steelyard.harness.training.train_data import classifier_data

MAX_BAD = 0.4
"""Some folders have more faults, so that both sides refuse."""
TRAIN, TEST = 6, 3


STATES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "page": lambda path: path.write_bytes(image_files.FILES["page"]),
    "empty": lambda path: path.write_bytes(b""),
}
STATE = st.one_of(
    st.sampled_from(sorted(STATES)).map(lambda name: STATES[name]),
    image_files.CONTENTS.map(lambda content: lambda path: path.write_bytes(content)),
)
"""Brings an image file into a state."""


def write_food(root: Path) -> Path:
    for split, count in (("train", TRAIN), ("test", TEST)):
        rows = [
            (f"{dish}_{n}.jpg", f"a {dish}", dish) for dish in ("pie", "tea") for n in range(count)
        ]
        (root / "texts").mkdir(parents=True, exist_ok=True)
        with (root / "texts" / f"{split}_titles.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        for name, _, dish in rows:
            mme_files.picture(root / "images" / split / dish / name)
    return root


def write_memes(root: Path) -> Path:
    number = 0
    for split, count in (("train", TRAIN), ("dev_seen", TEST), ("test_seen", TEST)):
        rows = []
        for _ in range(count):
            number += 1
            mme_files.picture(root / "img" / f"{number:05}.png")
            row = {"id": f"{number:05}", "img": f"img/{number:05}.png", "label": number % 2}
            rows.append(json.dumps({**row, "text": f"meme {number}"}) + "\n")
        (root / f"{split}.jsonl").write_text("".join(rows))
    return root


def write_pairs(root: Path) -> Path:
    number = 0
    for split, count in (("train", TRAIN), ("val", TEST), ("test", TEST)):
        rows = []
        for _ in range(count):
            number += 1
            mme_files.picture(root / "images" / f"{number}.png")
            row = {"id": f"{number}", "image": f"{number}.png", "question": "is it red ?"}
            rows.append(json.dumps({**row, "answer": "yes", "choices": ["yes", "no"]}) + "\n")
        (root / f"{split}.jsonl").write_text("".join(rows))
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "food101": write_food,
    "hateful_memes": write_memes,
    "instruct": write_pairs,
    "pope": scripted_vlm.pope,
    "mme": lambda root: mme_files.write(root, {"existence": 3, "color": 3}),
}
SUFFIXES = {".jpg", ".png"}


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a sound folder, named like its task."""
    root: Path = LAYOUTS[request.param](tmp_path_factory.mktemp("layouts") / request.param)
    assert not look(root, root.name)["problems"]
    return root


@pytest.fixture(scope="module")
def model() -> Classifier:
    config = classifier_config.configure("tiny", {})
    return classifier.build("tiny", config, ("a", "b"), False, ["a pie", "a meme"], seed=1)


def train_and_score(task: str, root: Path, model: Classifier) -> Corpus:
    """Do what a run does: read the data, prepare and take a batch of training, score."""
    corpus = tasks.load(task, root, max_bad=MAX_BAD)
    store_of.cache_clear()  # folders of several examples have one name
    images = store_of(corpus.root, "train")

    def turn(example: Example) -> Turn:
        image = images.get(example.image)[0] if example.image else None
        return tasks.training_turn(task, corpus, example, image)

    examples = corpus.splits.get("train", ())
    if corpus.classes:
        data = classifier_data(model, examples, turn)
        assert torch.isfinite(model.predict(data.gather(range(len(data))))).all()
    assert all(turn(example).inputs.image for example in examples)
    with tempfile.TemporaryDirectory() as folder:
        count = export_items(tasks.parse_variant(task), corpus, "test", None, Path(folder))
    assert count == len(corpus.splits["test"])
    return corpus


def compare(
    changes: Sequence[tuple[int, Callable[[Path], object]]], layout: Path, model: Classifier
) -> None:
    """Bring some images of a folder into other states; then ask ``check``, and do as a run."""
    task = layout.name
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, XDG_CACHE_HOME=f"{folder}/cache"),
    ):
        root = Path(shutil.copytree(layout, Path(folder) / task))
        paths = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
        for path, change in {paths[number % len(paths)]: c for number, c in changes}.items():
            change(path)
        content = look(root, task, MAX_BAD)
        try:
            corpus = train_and_score(task, root, model)
        except UserError as error:
            refusal = str(error).replace(f"{root}/", "")
            assert content["problems"] and refusal == content["problems"][0]
            assert "\n" not in refusal and any(path.name in refusal for path in paths)
            return
        assert not content["problems"]
        rows = content["sections"]["Skipped rows"]["rows"]
        assert Counter((row["split"], row["item"], row["reason"]) for row in rows) == Counter(
            (row.split, row.id, row.reason) for row in corpus.skipped
        )
        assert content["card"] == card.identity(card.core(corpus))


CHANGES = st.lists(st.tuples(st.integers(0, 99), STATE), min_size=1, max_size=5)
FOLDERS = settings(max_examples=8, derandomize=True, deadline=None)


@FOLDERS
@given(changes=CHANGES)
def test_check_and_run_take_the_same_images(
    changes: list[tuple[int, Callable[[Path], object]]], layout: Path, model: Classifier
) -> None:
    compare(changes, layout, model)


@pytest.mark.heavy
@settings(FOLDERS, max_examples=200)
@given(changes=CHANGES)
def test_check_and_run_take_the_same_of_many_images(
    changes: list[tuple[int, Callable[[Path], object]]], layout: Path, model: Classifier
) -> None:
    compare(changes, layout, model)


def test_exif_that_cannot_be_written_again_ends_no_run(tmp_path: Path, model: Classifier) -> None:
    root = write_food(tmp_path / "food101")
    exif = Image.Exif()
    exif[0x112] = 6
    exif[0x9204] = "text where a fraction belongs"
    for path in root.rglob("*.jpg"):
        Image.new("RGB", (8, 6)).save(path, exif=exif.tobytes())
    assert not look(root, "food101")["problems"]
    assert train_and_score("food101", root, model).skipped == ()
