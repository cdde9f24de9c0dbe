"""Conversion to the official layout: tables of the hub, saved data sets, archives, faults."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from checked import published
from PIL import Image
from pyarrow import parquet

from steelyard import tasks
from steelyard.harness.core import folders
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import cache_folder
from steelyard.harness.data import tables
from steelyard.harness.datacheck import annotations
from steelyard.harness.datacheck import convert as conversion
from steelyard.harness.datacheck.convert import DataCopy
from steelyard.harness.runs.options import parse_roots
from steelyard.tasks import pope
from steelyard.tasks._shared import official


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (40 * number, 90, 20)).save(buffer, "JPEG")
    return buffer.getvalue()


def rows(kinds: tuple[str, ...] = pope.KINDS) -> list[dict[str, Any]]:
    """Four questions a kind about two images, as the hub's copy has them."""
    return [
        {
            "id": str(number),
            "question_id": str(number + 1),
            "question": f"Is there a thing {number} in the image?",
            "answer": ("yes", "no")[number % 2],
            "image_source": f"COCO_val2014_{number // 2:012}",
            "image": {"bytes": jpeg(number // 2), "path": None},
            "category": kind,
        }
        for kind in kinds
        for number in range(4)
    ]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Write a folder as on the hub: two shards, and one kind again as a configuration."""
    root, table = tmp_path / "hub", pa.Table.from_pylist(rows())
    for folder in ("data", "Full"):
        (root / folder).mkdir(parents=True)
    parquet.write_table(table.slice(0, 7), root / "data" / "test-00000-of-00002.parquet")
    parquet.write_table(table.slice(7), root / "data" / "test-00001-of-00002-ab12.parquet")
    again = pa.Table.from_pylist(rows(("popular",)))
    parquet.write_table(again, root / "Full" / "popular-00000-of-00001.parquet")
    return root


def convert(path: Path, to: Path, task: str = "pope") -> int:
    """Convert a local copy; return the number of rows reported."""
    counts = [0]
    conversion.convert(task, DataCopy(path.name, path), to, counts.append)
    return counts[-1]


# --- Tables ----------------------------------------------------------------------------------


def test_a_hub_copy_becomes_the_official_tree(hub: Path, tmp_path: Path) -> None:
    to = tmp_path / "made" / "pope"
    assert convert(hub, to) == 16 == tables.count(hub)
    assert set(folders.walk(to)) == {
        "SHA256SUMS",
        "source.json",
        *(f"coco/coco_pope_{kind}.json" for kind in pope.KINDS),
        *(f"val2014/COCO_val2014_{number:012}.jpg" for number in range(2)),
    }
    corpus = tasks.load("pope", to)
    assert [row.id for row in corpus.splits["test"]] == [
        f"{kind}/{number}" for kind in pope.KINDS for number in range(1, 5)
    ]
    assert [row.answers for row in corpus.splits["test"][:2]] == [("yes",), ("no",)]
    # Pictures keep their bytes.
    assert (to / "val2014" / "COCO_val2014_000000000001.jpg").read_bytes() == jpeg(1)
    assert json.loads((to / "source.json").read_text()) == {
        "task": "pope",
        "source": "hub",
        "revision": "",
    }
    assert annotations.broken_sums(to, folders.walk(to)) == []
    assert list(to.parent.iterdir()) == [to]


def test_configurations_and_splits_are_read_from_paths(tmp_path: Path) -> None:
    table = pa.table({"a": [1]})
    paths = {
        "data/test-00000-of-00001.parquet": ("default", "test"),
        "instructions/testdev_balanced-00000-of-00002-1a2b.parquet": (
            "instructions",
            "testdev_balanced",
        ),
        "images/train/0000.parquet": ("images", "train"),
        "validation.parquet": ("default", "validation"),
        "hub___pope/0.0.0/pope-test.parquet": ("hub___pope", "test"),
    }
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, tmp_path / path)
    keys = [(row[official.CONFIG], row[official.SPLIT]) for _, row in tables.rows(tmp_path)]
    assert sorted(keys) == sorted(paths.values())


def test_saved_data_sets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(rows())
    datasets.DatasetDict({"test": table}).save_to_disk(tmp_path / "both")
    table.save_to_disk(tmp_path / "one")
    for name in ("both", "one"):
        assert convert(tmp_path / name, tmp_path / f"{name}-made") == 12
        _, row = next(tables.rows(tmp_path / name))
        assert (row[official.CONFIG], row[official.SPLIT]) == ("default", "test")
    trees = [folders.walk(tmp_path / f"{name}-made") for name in ("both", "one")]
    assert trees[0].keys() == trees[1].keys() and tables.count(tmp_path / "one") is None


def test_a_single_table_is_a_copy_too(hub: Path, tmp_path: Path) -> None:
    assert convert(hub / "Full" / "popular-00000-of-00001.parquet", tmp_path / "made") == 4
    assert {row.subset for row in tasks.load("pope", tmp_path / "made").splits["test"]} == {
        "popular"
    }


# --- Archives and trees that are official already ----------------------------------------------


def packed(folder: Path, archive: Path, inside: str) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, f"{inside}{path.relative_to(folder)}")
    else:
        with tarfile.open(archive, "w:gz") as file:
            file.add(folder, inside.rstrip("/"))
    return archive


@pytest.mark.parametrize("name", ["archive.zip", "archive.tar.gz"])
@pytest.mark.parametrize("inside", ["upmc/food/", "./"])
def test_an_archive_is_unpacked_to_its_official_tree(
    tmp_path: Path, own_cache: Path, name: str, inside: str
) -> None:
    food = published(tmp_path / "food")
    archive = packed(food, tmp_path / name, inside)
    convert(archive, tmp_path / "made", "food101")
    source, result = folders.walk(food), folders.walk(tmp_path / "made")
    assert result.keys() - {"SHA256SUMS", "source.json"} == source.keys()
    first = tasks.load("food101", tmp_path / "made")
    assert first.revision == tasks.load("food101", food).revision


def test_what_cannot_be_converted_says_so_and_leaves_nothing(
    hub: Path, tmp_path: Path, own_cache: Path
) -> None:
    food = published(tmp_path / "food")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table")
    packed(tmp_path / "empty", tmp_path / "other.zip", "")
    for path, task, message in (
        ("food", "food101", r"food has the official layout already: give it as --data-root"),
        ("empty", "pope", r"No \*\.parquet .* and no official layout of pope at"),
        ("broken.zip", "food101", r"broken\.zip: cannot be unpacked"),
        ("other.zip", "food101", r"other\.zip has no files in the official layout of food101"),
        ("broken.parquet", "pope", r"broken\.parquet: not a complete parquet file"),
        ("hub", "chair", r"Tables of chair cannot be converted; its official files: cocodataset"),
        ("hub", "mme", r"The copy has a category 'popular', which MME does not have"),
    ):
        with pytest.raises(UserError, match=message):
            convert(tmp_path / path, tmp_path / "made", task)
    assert food.is_dir()
    before = {path.name for path in tmp_path.iterdir()}
    assert not any(name.startswith((".made", "made")) for name in before)


def test_a_folder_that_holds_something_is_left_alone(hub: Path, tmp_path: Path) -> None:
    to = tmp_path / "made"
    to.mkdir()
    convert(hub, to)  # an empty one is filled
    with pytest.raises(UserError, match="made exists already"):
        convert(hub, to)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file exists already"):
        convert(hub, tmp_path / "file")


def test_an_interrupted_conversion_leaves_nothing(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.convert("pope", DataCopy("hub", hub), tmp_path / "made", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_a_copy_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    for name in ("../outside", "/outside", "a/../../outside"):
        row = {
            **rows(("random",))[0],
            "image_source": str(tmp_path / name) if name[0] == "/" else name,
        }
        with pytest.raises(UserError, match="outside of its folder"):
            pope.write_official(iter([row]), tmp_path / "made")
    assert not (tmp_path / "outside.jpg").exists()


def test_a_copy_without_columns_or_bytes_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column category; its columns are label, text\."):
        pope.write_official(iter([{"text": "?", "label": "yes"}]), tmp_path)
    bare = {**rows()[0], "image": {"bytes": None, "path": "x.jpg"}}
    with pytest.raises(UserError, match=r"no bytes of the image COCO_val2014_0+\.jpg"):
        pope.write_official(iter([bare]), tmp_path)


MMHAL = {
    "question_type": "attribute",
    "image_src": "https://example.org/1_o.jpg",
    "question": "Which colour?",
    "gt_answer": "Brown.",
}

# --- The hub, without the network --------------------------------------------------------------


@pytest.fixture
def downloaded(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[str, ...]]]:
    """``snapshot_download`` of the files of ``hub``; returns names and patterns of the requests."""
    import huggingface_hub

    requests: list[tuple[str, ...]] = []
    fetched = tmp_path / "fetched" / hub.name

    def snapshot_download(name: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        assert repo_type == "dataset"
        requests.append((name, *allow_patterns))
        for path in filter(Path.is_file, hub.rglob("*")):
            inner = path.relative_to(hub)
            if any(fnmatch(str(inner), pattern) for pattern in allow_patterns):
                (fetched / inner).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, fetched / inner)
        return str(fetched)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    yield requests


def test_a_hub_id_as_data_root_is_converted_once(
    downloaded: list[tuple[str, ...]], own_cache: Path, hub: Path
) -> None:
    roots = [parse_roots(["pope=org/POPE"], ["pope", "vqa"])["pope"] for _ in range(2)]
    assert roots == [cache_folder() / "official" / "pope-org--POPE"] * 2
    assert downloaded == [("org/POPE", *tables.PATTERNS)]
    assert len(tasks.load("pope", roots[0]).splits["test"]) == 12
    assert json.loads((roots[0] / "source.json").read_text())["revision"] == hub.name


def test_without_the_hub_one_line_says_so(own_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"'org/POPE' is no folder here, and it cannot be downloaded .* out of reach or HF",
    ):
        parse_roots(["org/POPE"], ["pope"])
    with pytest.raises(UserError, match="no folder at /nowhere/POPE"):
        parse_roots(["/nowhere/POPE"], ["pope"])
    with pytest.raises(UserError, match="is no folder, no archive, and no hub id"):
        conversion.find("pope", "./POPE")
    assert not own_cache.exists()


def test_official_files_on_the_hub_are_taken_as_they_are(
    downloaded: list[tuple[str, ...]], own_cache: Path, tmp_path: Path, hub: Path
) -> None:
    shutil.rmtree(hub)
    published(hub)
    conversion.convert("food101", conversion.find("food101", "org/food"), tmp_path / "made", print)
    assert [patterns for _, *patterns in downloaded] == [[*tables.PATTERNS], ["*"]]
    assert tasks.load("food101", tmp_path / "made").classes[0] == "apple"


@pytest.mark.parametrize("name", ["train.json", "data/train.jsonl", "llava_instruct_4.json"])
def test_rows_in_json_on_the_hub_are_read(
    downloaded: list[tuple[str, ...]], own_cache: Path, hub: Path, name: str
) -> None:
    shutil.rmtree(hub)
    (hub / "images").mkdir(parents=True)
    (hub / "images" / "1.jpg").write_bytes(jpeg(1))
    (hub / "dataset_infos.json").write_text("{}")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]
    rows = hub / name
    rows.parent.mkdir(exist_ok=True)
    rows.write_text(json.dumps([{"image": "1.jpg", "conversations": turns}]))
    (root,) = parse_roots(["instruct=org/rows"], ["instruct"]).values()
    (item,) = tasks.load("instruct", root).splits["train"]
    assert item.answers == ("A cup.",) and item.image is not None


def test_of_a_known_copy_only_what_is_needed_is_fetched(
    downloaded: list[tuple[str, ...]], tmp_path: Path, hub: Path
) -> None:
    shutil.rmtree(hub)
    (hub / "images").mkdir(parents=True)
    (hub / "images" / "1_o.jpg").write_bytes(jpeg(1))
    (hub / "response_template.json").write_text(json.dumps([MMHAL]))
    (hub / "test_data.zip").write_bytes(b"the same again")
    conversion.convert("mmhal", conversion.find("mmhal", "org/MMHal"), tmp_path / "made", print)
    assert [patterns for _, *patterns in downloaded] == [["response_template.json", "images/*"]]
    assert not (tmp_path / "made" / "test_data.zip").exists()
    assert len(tasks.load("mmhal", tmp_path / "made").splits["test"]) == 1


def test_another_copy_may_have_other_names(
    downloaded: list[tuple[str, ...]], tmp_path: Path, hub: Path
) -> None:
    shutil.rmtree(hub)
    (hub / "data").mkdir(parents=True)
    row = {**MMHAL, "image": {"bytes": jpeg(1), "path": None}}
    table = pa.Table.from_pylist([row])
    parquet.write_table(table, hub / "data" / "train-00000-of-00001.parquet")
    conversion.convert("mmhal", conversion.find("mmhal", "org/other"), tmp_path / "made", print)
    assert [patterns[0] for _, *patterns in downloaded] == ["response_template.json", "*.parquet"]
    (item,) = tasks.load("mmhal", tmp_path / "made").splits["test"]
    assert item.image is not None and item.image.name == "1_o.jpg"


def test_a_home_folder_in_a_pair_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "POPE").mkdir()
    assert parse_roots(["pope=~/POPE"], ["pope", "vqa"]) == {"pope": tmp_path / "POPE"}
