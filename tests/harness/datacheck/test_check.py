"""steelyard check on sound and broken folders: layout, annotation files, images, items."""

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from checked import look, picture, published, questions
from command import Command
from paths import SHARED
from PIL import Image

from steelyard import tasks
from steelyard.harness.core import folders
from steelyard.harness.core.examples import Corpus
from steelyard.harness.datacheck import annotations, card_page
from steelyard.harness.datacheck import layout as tree


def states(data_card: Mapping[str, Any]) -> dict[str, str]:
    return {row["path"]: row["state"] for row in rows(data_card, "Expected layout")}


def rows(data_card: Mapping[str, Any], section: str) -> list[dict[str, Any]]:
    return list(data_card["sections"][section]["rows"])


def image_count(data_card: Mapping[str, Any], kind: str) -> int:
    (count,) = (row["images"] for row in rows(data_card, "Images") if row["kind"] == kind)
    return int(count)


@pytest.fixture
def food(own_cache: Path, tmp_path: Path) -> Path:
    return published(tmp_path / "food")


@pytest.fixture
def pope(own_cache: Path, tmp_path: Path) -> Path:
    return questions(tmp_path / "pope")


# --- The tree --------------------------------------------------------------------------------


def test_the_tree_of_a_sound_folder_is_found(food: Path) -> None:
    data_card = look(food, "food101")
    by_path = {path: state for path, state in states(data_card).items() if "texts_txt" not in path}
    assert set(by_path.values()) == {"found"} and len(by_path) == 4
    assert data_card["problems"] == [] and data_card["core"] is not None
    assert {"path": "images/train/apple/*.jpg  (15)"} in rows(data_card, "Files")
    assert {"path": "texts/test_titles.csv"} in rows(data_card, "Files")


def test_a_tree_one_folder_down_is_pointed_at(food: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    food.rename(outer / "UPMC")
    data_card = look(outer, "food101")
    assert data_card["problems"] == [
        "No texts/train_titles.csv in the data folder: check the data folder and its layout."
    ]
    assert states(data_card)["texts/train_titles.csv"] == "elsewhere"
    assert "subfolder UPMC" in card_page.markdown(data_card)
    # All images of the folder are scanned if no item can be read.
    assert (
        image_count(data_card, "image files") == 320
        and data_card["core"] is data_card["card"] is None
    )


def test_states_by_hand() -> None:
    layout = (
        "train.jsonl (first phase: dev.jsonl)\nsplit.json\ndataset/0106714.json\nimg/08291.png\n"
        "posters/a.jpg\nlabels.csv"
    )
    files: dict[str, tuple[int, int]] = dict.fromkeys(
        ("dev.jsonl", "deep/split.json.gz", "dataset/1.json", "img/x/1.png", "img/x/2.png"), (1, 1)
    )
    states = [(row.state, row.where) for row in tree.expected(layout, files)]
    assert states == [
        ("found", "dev.jsonl"),
        ("elsewhere", "deep/split.json.gz"),
        ("found", "1 .json in dataset"),
        ("found", "2 images in img"),
        ("elsewhere", "2 images, most in img/x"),
        ("missing", ""),
    ]
    assert tree.expected(layout, files)[0].note == "first phase: dev.jsonl"


def test_a_walk_follows_links_once_and_skips_what_is_hidden(tmp_path: Path) -> None:
    root, shelf = tmp_path / "root", tmp_path / "shelf"
    picture(shelf / "a.png")
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "config").touch()
    (root / "val2014").symlink_to(shelf)
    (root / "loop").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    assert list(folders.walk(root)) == ["val2014/a.png"]


def test_a_large_tree_is_summarised_in_few_lines() -> None:
    paths = [f"images/class_{kind}/{n}.jpg" for kind in range(50) for n in range(20)]
    lines = tree.summary(dict.fromkeys([*paths, "a.csv"], (1, 1)))
    assert lines[0] == "a.csv" and lines[1] == "images/class_0/*.jpg  (20)"
    assert lines[-1] == "images/*/  (46 more folders)" and len(lines) == 6
    assert tree.summary({}) == ["nothing"]


def test_names_that_are_no_text_are_escaped(pope: Path) -> None:
    odd = os.fsencode(pope / "val2014") + b"/\xff[b].jpg"
    Image.new("RGB", (8, 8)).save(os.fsdecode(odd), "JPEG")
    data_card = look(pope, "pope")
    assert image_count(data_card, "named by no row") == 1
    assert rows(data_card, "Images")[-1]["examples"] == "val2014/\\udcff[b].jpg"
    assert data_card["problems"] == [] and "udcff" in card_page.markdown(data_card)


# --- Annotation files ------------------------------------------------------------------------


def test_every_broken_line_is_named_though_reading_stops_at_the_first(pope: Path) -> None:
    path = pope / "coco" / "coco_pope_random.json"
    lines = path.read_text().splitlines()
    lines[2], lines[8] = "{broken", '{"question_id": 9'
    path.write_text("\n".join(lines))
    data_card = look(pope, "pope")
    (problem,) = data_card["problems"]
    assert problem.startswith("coco/coco_pope_random.json:3: not valid JSON")
    (file,) = rows(data_card, "Annotation files")
    assert [fault.partition(": ")[0] for fault in file["faults"]] == [
        "coco/coco_pope_random.json:3",
        "coco/coco_pope_random.json:9",
    ]
    assert file["rows"] == 38
    assert any(
        warning.startswith("coco/coco_pope_random.json:9") for warning in data_card["warnings"]
    )


def test_rows_are_counted_in_every_form(tmp_path: Path) -> None:
    forms = {
        "list.json": "[1, 2, 3]",
        "lines.json": '{"a": 1}\n{"a": 2}\n',
        "object.json": '{"train": [1, 2], "test": [3], "info": {}}',
        "ids.json": json.dumps({str(n): {} for n in range(9)}),
        "plain.csv": "1.jpg,x,y\n2.jpg,x,y\n",
        "header.csv": "file,title,class\n1.jpg,x,y\n2.jpg,x,y\n",
        "broken.json": '{"a": ',
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
    by_path = {
        file.path: file for file in annotations.examine(tmp_path, folders.walk(tmp_path), {})
    }
    assert {name: file.rows for name, file in by_path.items()} == {
        "list.json": 3,
        "lines.json": 2,
        "object.json": {"train": 2, "test": 1},
        "ids.json": 9,
        "plain.csv": 2,
        "header.csv": 2,
        "broken.json": None,
    }
    assert by_path["broken.json"].faults == ["broken.json:1: not valid JSON (Expecting value)."]
    assert by_path["list.json"].sha256 == hashlib.sha256(b"[1, 2, 3]").hexdigest()


def test_official_files_differ_from_subsets_and_edits(tmp_path: Path) -> None:
    text = '{"label": "yes"}\n{"label": "no"}\n'
    digest = hashlib.sha256(text.encode()).hexdigest()
    official = {"a.jsonl": {"rows": 2, "label": {"yes": 1, "no": 1}, "sha256": digest}}

    def state(content: str) -> str:
        (tmp_path / "a.jsonl").write_text(content)
        return annotations.examine(tmp_path, folders.walk(tmp_path), official)[0].official

    assert state(text) == "the official file"
    assert state(text.replace(": ", ":")) == "official size, other bytes"
    assert state(text.replace("no", "yes")) == "official size, but another count of label (yes 2)"
    assert state('{"label": "yes"}\n') == "differs from the official size (1, not 2): subset?"


def test_published_files_are_recognised() -> None:
    shared = SHARED / "official_json"
    if not shared.is_dir():
        pytest.skip("no shared/data beside the repository")
    by_name = {}
    for task, folder in (
        ("pope", "pope"),
        ("hallusionbench", "hallusionbench"),
        ("amber", "amber"),
    ):
        root = shared / folder
        for row in annotations.examine(root, folders.walk(root), tasks.info(task).official):
            by_name[row.path.removesuffix(".gz")] = row.official
    identical = [name for name, state in by_name.items() if state == "the official file"]
    assert sorted(identical) == [
        "HallusionBench.json",
        "coco_pope_adversarial.json",
        "coco_pope_popular.json",
        "coco_pope_random.json",
        "safe_words.txt",
    ]
    # AMBER's files lie there without the spaces of the published ones.
    rest = {name: state for name, state in by_name.items() if name not in identical and state}
    assert set(rest.values()) == {"official size, other bytes"} and len(rest) == 4


def test_declared_checksums_are_checked(pope: Path) -> None:
    annotations.write_sums(pope, ["coco/coco_pope_random.json"])
    assert look(pope, "pope")["problems"] == []
    path = pope / "coco" / "coco_pope_random.json"
    path.write_text(path.read_text().replace("dog", "cat"))
    (problem,) = look(pope, "pope")["problems"]
    assert problem.startswith("coco/coco_pope_random.json: its sha256 is ")
    assert "SHA256SUMS declares" in problem
    path.rename(path.with_name("my_pope_random.json"))
    assert look(pope, "pope")["problems"] == [
        "coco/coco_pope_random.json: declared in SHA256SUMS and missing."
    ]


# --- Items that are broken -------------------------------------------------------------------


def test_faulty_and_unused_images_are_listed(food: Path) -> None:
    folder = food / "images" / "test" / "apple"
    first, second = sorted(folder.iterdir())[:2]
    first.unlink()
    second.write_text("no image")
    picture(food / "images" / "train" / "stray.jpg")
    data_card = look(food, "food101")
    (problem,) = data_card["problems"]
    assert problem.startswith("2 of 80 rows of test cannot be used")
    assert {(row["item"], row["reason"]) for row in rows(data_card, "Skipped rows")} == {
        (f"test/apple/{first.stem}", f"image missing: images/test/apple/{first.name}"),
        (
            f"test/apple/{second.stem}",
            f"image unreadable: images/test/apple/{second.name}: not an image",
        ),
    }
    assert image_count(data_card, "missing or unreadable") == 2
    assert data_card["core"]["splits"]["test"]["items"] == 78
    assert data_card["core"]["skipped"] == {"test": {"image missing": 1, "image unreadable": 1}}
    assert rows(data_card, "Images")[-1]["examples"] == "images/train/stray.jpg"
    assert look(food, "food101", max_bad=0.05)["problems"] == []


def test_all_problems_are_listed(food: Path) -> None:
    table = food / "texts" / "test_titles.csv"
    first = table.read_text().splitlines()[0]
    table.write_text(table.read_text() + f"{first}\nnone.jpg,words,apple\n")
    data_card = look(food, "food101")
    assert len(data_card["problems"]) == 2
    assert "more than once in test (1)" in data_card["problems"][0]
    assert "cannot be used" in data_card["problems"][1]
    assert data_card["core"]["splits"]["test"]["items"] == 81


def test_a_loader_that_fails_does_not_end_the_report(
    food: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(*args: object, **options: object) -> Corpus:
        raise KeyError("genres")

    monkeypatch.setattr(tasks, "load", trip)
    data_card = look(food, "food101")
    assert data_card["problems"] == ["The loader stopped with KeyError: 'genres'"]
    assert image_count(data_card, "image files") == 320


def test_a_file_whose_time_and_size_were_set_back_is_read_again(tmp_path: Path) -> None:
    root = questions(tmp_path / "pope")
    assert not look(root, "pope")["problems"]
    path = next(root.rglob("*.jpg"))
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (problem,) = look(root, "pope")["problems"]
    assert path.name in problem


def test_the_last_lines_name_what_is_missing_left_out_or_leaked(
    steelyard: Command, food: Path
) -> None:
    for name, first in (("train", "a tart"), ("test", "A  Tart")):
        path = food / "texts" / f"{name}_titles.csv"
        rows = [*csv.reader(path.read_text().splitlines())]
        titles = [first, *(f"{name} {number}" for number in range(1, len(rows)))]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(
                (row[0], title, row[2]) for row, title in zip(rows, titles, strict=True)
            )
    pictures = sorted((food / "images" / "test" / "apple").iterdir())
    pictures[2].unlink()
    copied = next((food / "images" / "train" / "apple").iterdir())
    pictures[3].write_bytes(copied.read_bytes())
    done = steelyard("check", "food101", "--data-root", str(food), "--max-bad", "0.05")
    assert done.code == 0
    *_, closing = done.stdout.partition("\nusable: ")
    assert "Rows of test left out: 1 of 80 (image missing" in closing
    assert "Items of test whose text is in train too: 1 of 79" in closing
    assert "Items of test whose image is in train too: 1 of 79" in closing
    assert "Not found: texts_txt/apple_pie/apple_pie_0.txt (with text=pages)." in closing


def test_a_folder_of_ones_own_has_no_licence_of_ours(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "What?", "answer": "a cup"}\n')
    data_card = look(tmp_path, "instruct")
    assert data_card["sections"]["Licence"]["text"].startswith("that of your own data")
    assert any("No test items" in line for line in card_page.closing(data_card))
