"""Splits that a run needs: checked before training, scored when they come, and named by content."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from steelyard import tasks
from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.data.reading import with_classes
from steelyard.harness.records import record
from steelyard.harness.records.record import Record

TITLES = "texts/{}_titles.csv"


def copy_of(world: Path, to: Path, split: str) -> Path:
    """Copy one split of the generated food101."""
    shutil.copytree(world / "food101" / "images" / split, to / "images" / split)
    (to / "texts").mkdir(exist_ok=True)
    shutil.copy(world / "food101" / TITLES.format(split), to / TITLES.format(split))
    return to


def steelyard(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refusal(*words: object) -> str:
    result = steelyard(*words)
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def options(data: Path, runs: Path) -> list[object]:
    return ["--data-root", data, "--runs", runs, "--track", "data", "--budget", 640, "--seeds", 0]


def only_record(runs: Path) -> Record:
    (folder,) = record.find(runs)
    return record.read(folder)


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with training data alone, and ``runs`` with a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    copy_of(world, folder / "data", "train")
    assert steelyard("train", "joint", *options(folder / "data", folder / "runs")).exit_code == 0
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copied")


def test_a_split_that_is_not_there_is_an_error_before_training(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    words = options(trained / "data", tmp_path / "runs")
    for extra in ([], ["--dry-run"]):
        message = refusal("run", "joint", *words, *extra)
        assert "food101 has no test split to score, only train, val" in message
        assert "'steelyard train'" in message
    held_out = copy_of(world, tmp_path / "held", "test")
    assert "food101 has no val split" in refusal(
        "run", "majority", *options(held_out, tmp_path / "runs"), "--split", "val"
    )
    assert "food101 has no training items" in refusal(
        "run", "joint", *options(held_out, tmp_path / "runs"), "--dry-run"
    )
    assert not (tmp_path / "runs").exists()


def test_test_items_that_come_later_are_scored_by_the_run_that_is_there(
    world: Path, copied: Path
) -> None:
    before = only_record(copied / "runs")
    assert before.scores == ()
    weights = copied / "runs" / before.id / "training.json"
    age = weights.stat().st_mtime_ns
    copy_of(world, copied / "data", "test")
    words = (*options(copied / "data", copied / "runs"), "--corruption", "image-blank")
    assert steelyard("run", "joint", *words).exit_code == 0
    after = only_record(copied / "runs")
    assert after.id == before.id and weights.stat().st_mtime_ns == age
    assert {score.variant for score in after.scores} == {"clean", "image-blank"}


def test_other_test_items_replace_scores_and_keep_the_weights(world: Path, copied: Path) -> None:
    copy_of(world, copied / "data", "test")
    words = (*options(copied / "data", copied / "runs"), "--corruption", "image-blank")
    assert steelyard("run", "joint", *words).exit_code == 0
    first = only_record(copied / "runs")
    table = copied / "data" / TITLES.format("test")
    *rows, last = table.read_text().splitlines()
    table.write_text("\n".join(rows) + "\n")
    name = last.split(",")[0]
    (image,) = (copied / "data" / "images" / "test").glob(f"*/{name}")
    image.unlink()
    assert steelyard("run", "joint", *words).exit_code == 0
    second = only_record(copied / "runs")
    assert second.id == first.id
    assert {s.n for s in first.scores} == {s.n + 1 for s in second.scores}


def test_a_finished_run_is_scored_on_a_set_with_a_test_split_alone(
    world: Path, copied: Path, tmp_path: Path
) -> None:
    (folder,) = record.find(copied / "runs")
    held_out = copy_of(world, tmp_path / "held", "test")
    words = ("evaluate", folder, "food101@image-blank", "--data-root")
    assert steelyard(*words, held_out).exit_code == 0
    scored = record.read(folder)
    assert {score.variant for score in scored.scores} == {"image-blank"}
    # What it was trained on stays known.
    assert scored.provenance["data"]["sizes"].keys() == {"train", "val", "test"}
    assert scored.provenance["data"]["splits"]["train"] == scored.spec.data["revision"]
    assert steelyard("validate", folder).exit_code == 0
    # The same test items beside the training items are the same; others are not.
    assert steelyard(*words, copy_of(world, copied / "data", "test")).exit_code == 0
    title = held_out / TITLES.format("test")
    with title.open(newline="") as file:
        (name, text, label), *rows = csv.reader(file)
    with title.open("w", newline="") as file:
        csv.writer(file).writerows([(name, f"{text} again", label), *rows])
    assert "does not match the record" in refusal(*words, held_out)


def test_check_accepts_a_set_to_score(world: Path, tmp_path: Path, own_cache: Path) -> None:
    held_out = copy_of(world, tmp_path / "held", "test")
    out = tmp_path / "card"
    assert steelyard("check", "food101", "--data-root", held_out, "--out", out).exit_code == 0
    content = json.loads((out / "card.json").read_text())
    states = {row["path"]: row["state"] for row in content["sections"]["Expected layout"]["rows"]}
    assert {states[path] for path in states if "train" in path}.isdisjoint({"found"})
    assert any("No training items" in warning for warning in content["warnings"])


def test_labels_are_those_of_the_model(world: Path, tmp_path: Path) -> None:
    classes = tasks.load("food101", world / "food101").classes
    held_out = copy_of(world, tmp_path / "held", "test")
    table = held_out / TITLES.format("test")
    rows = [row for row in table.read_text().splitlines() if not row.endswith(classes[0])]
    shutil.rmtree(held_out / "images" / "test" / classes[0])
    table.write_text("\n".join(rows) + "\n")
    fewer = tasks.load("food101", held_out)
    assert fewer.classes == classes[1:]
    aligned = with_classes(fewer, classes)
    for row, other in zip(fewer.splits["test"], aligned.splits["test"], strict=True):
        assert fewer.classes[row.labels[0]] == classes[other.labels[0]]
    with pytest.raises(UserError, match="classes that the model does not know: " + classes[-1]):
        with_classes(fewer, classes[:-1])


def test_older_records_have_one_revision_of_all_splits(
    world: Path, copied: Path, tmp_path: Path
) -> None:
    (folder,) = record.find(copied / "runs")
    new = record.read(folder)
    data = {key: value for key, value in new.provenance["data"].items() if key != "splits"}
    record.write(replace(new, provenance={**new.provenance, "data": data}), folder)
    words = ("evaluate", folder, "food101@image-blank", "--data-root")
    data_with_test = copy_of(world, copied / "data", "test")
    assert "does not match the record" in refusal(*words, data_with_test)
    # Nothing is recorded of a test split, and nothing is trained.
    assert steelyard(*words, copy_of(world, tmp_path / "held", "test")).exit_code == 0
