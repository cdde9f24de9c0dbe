"""Data cards: near-duplicates and leaks by hand, the hash, caching, the page."""

import json
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from checked import look, picture, published, questions
from PIL import Image
from rich.console import Console
from rich.markdown import Markdown

from steelyard import tasks
from steelyard.harness.core import folders
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.files import cache_folder
from steelyard.harness.data import card, image_scan
from steelyard.harness.datacheck import card_page, duplicates, report
from steelyard.harness.runs import provenance


@pytest.fixture
def food(own_cache: Path, tmp_path: Path) -> Path:
    return published(tmp_path / "food")


@pytest.fixture
def pope(own_cache: Path, tmp_path: Path) -> Path:
    return questions(tmp_path / "pope")


# --- Images, near-duplicates and leaks --------------------------------------------------------


def test_near_pairs_by_hand() -> None:
    base = bytes([0b10101010] * 16)
    near = bytes([0b10101001] * 3 + [0b10101010] * 13)  # six bits apart
    far = bytes([0b10101001] * 4 + [0b10101010] * 12)  # eight
    flat = bytes(16)
    pairs = duplicates.near_pairs([flat, base, far, flat, near])
    assert pairs.tolist() == [[1, 4], [2, 4]]
    assert duplicates.near_pairs([flat, flat]).tolist() == []


def test_near_pairs_are_those_of_a_full_search() -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (300, duplicates.BITS), np.uint8)
    for index in range(0, 300, 3):  # a third are others with up to nine bits flipped
        bits[index] = bits[index + 1]
        flipped = rng.choice(duplicates.BITS, rng.integers(0, 10), replace=False)
        bits[index, flipped] ^= 1
    hashes = [np.packbits(row).tobytes() for row in bits]
    full = [
        [left, right]
        for left in range(300)
        for right in range(left + 1, 300)
        if (bits[left] != bits[right]).sum() <= duplicates.NEAR
    ]
    assert duplicates.near_pairs(hashes).tolist() == full and 40 < len(full) < 100


def leaky(root: Path) -> Corpus:
    """Test items with a copy, a near copy, the same file, a new image and none; some same texts."""
    first, second, new = (picture(root / f"{name}.png") for name in ("one", "two", "new"))
    copy = root / "copy.png"
    copy.write_bytes(first.read_bytes())
    with Image.open(second) as image:
        image.save(root / "near.jpg", quality=90)
    train = [
        Example("a", first, "Apple  Pie", (0,)),
        Example("b", second, "ramen", (1,)),
        Example("c", first, "apple pie", (0,)),
    ]
    test = [
        Example("d", copy, "apple pie", (0,)),
        Example("e", root / "near.jpg", "soup", (1,)),
        Example("f", second, None, (1,)),
        Example("g", new, "RAMEN", (1,)),
        Example("h", None, "", (1,)),
    ]
    splits = {"train": tuple(train), "test": tuple(test)}
    return Corpus("toy", root, ("pie", "soup"), False, splits, "r")


def test_leaks_and_repeats_by_hand(tmp_path: Path) -> None:
    corpus = leaky(tmp_path)
    images = image_scan.scan(duplicates.used_images(corpus))
    near = duplicates.near_duplicates(images)
    assert [{path.name for path in pair} for pair in near] == [{"two.png", "near.jpg"}]
    (row,) = duplicates.leaks(corpus, images, near)
    assert row == duplicates.Leak(
        first="train",
        second="test",
        items=5,
        id=0,
        image=2,  # d by its bytes, f by its file
        near_duplicate=1,  # e
        text=2,  # d and g
        image_and_text=1,  # d
        examples=["d", "f", "e"],
    )
    assert duplicates.repeated(corpus, images) == {"train": 1, "test": 0}
    picture(tmp_path / "stray.png")
    counts = duplicates.count_images(tmp_path, folders.walk(tmp_path), images, near)
    assert [tuple(count) for count in counts] == [
        ("image files", 5, "smallest 64 x 64, middle 64 x 64, largest 64 x 64"),
        ("missing or unreadable", 0, ""),
        ("duplicates (same bytes)", 2, "one.png = copy.png"),
        ("near-duplicates", 2, "two.png = near.jpg"),
        ("named by no row", 1, "stray.png"),
    ]


# --- The card --------------------------------------------------------------------------------


def test_the_card_depends_on_the_data_and_not_on_its_path(food: Path, tmp_path: Path) -> None:
    before = look(food, "food101")
    elsewhere = tmp_path / "moved" / "food"
    elsewhere.parent.mkdir()
    food.rename(elsewhere)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1, 1))
    after = look(elsewhere, "food101")
    assert after == before
    assert str(tmp_path) not in json.dumps(before) + card_page.markdown(before)
    # An image that changes, its size in bytes staying, changes the card alone.
    image = next((elsewhere / "images").rglob("*.jpg"))
    content = bytearray(image.read_bytes())
    content[-3] ^= 1
    image.write_bytes(content)
    changed = look(elsewhere, "food101")
    assert changed["core"]["revision"] == before["core"]["revision"]
    assert changed["card"] != before["card"]


def test_core_by_hand(tmp_path: Path) -> None:
    corpus = leaky(tmp_path)
    skipped = (Skipped("x", "test", "no label"), Skipped("y", "test", "image missing: y.png"))
    core = card.core(replace(corpus, skipped=skipped, notes={"text": "titles"}))
    assert core["splits"]["train"] == {
        "items": 3,
        "images": 2,
        "without image": 0,
        "without text": 0,
        "subsets": {},
        "labels": {"pie": 2, "soup": 1},
    }
    assert core["splits"]["test"]["without image"] == 1
    assert core["splits"]["test"]["without text"] == 2
    assert core["skipped"] == {"test": {"image missing": 1, "no label": 1}}
    assert card.identity(core) == card.identity(json.loads(json.dumps(core)))
    relabelled = replace(corpus.splits["train"][0], labels=(1,))
    changed = {**corpus.splits, "train": (relabelled, *corpus.splits["train"][1:])}
    cores = [card.core(replace(corpus, splits=splits)) for splits in (corpus.splits, changed)]
    assert card.identity(cores[0]) != card.identity(cores[1])


def test_answers_that_occur_once_are_not_listed() -> None:
    answers = ["yes"] * 3 + ["no"] * 2 + ["a man on a horse", "two dogs"]
    examples = tuple(Example(str(n), None, "?", (), answers=(a,)) for n, a in enumerate(answers))
    core = card.core(Corpus("toy", Path(), (), False, {"test": examples}, "r"))
    assert core["splits"]["test"]["labels"] == {"yes": 3, "no": 2, "(other answers)": 2}


def test_records_carry_the_card(food: Path) -> None:
    corpus = tasks.load("food101", food)
    provenance_data = provenance.describe_task(corpus, "test")
    assert provenance_data["data"]["card"] == look(food, "food101")["card"]


def test_a_card_is_rebuilt_only_after_a_change(food: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = look(food, "food101")

    def refuse(*args: object) -> Corpus:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "load", refuse)
        assert look(food, "food101") == before
    picture(food / "images" / "test" / "apple" / "new.jpg")
    assert look(food, "food101")["sections"]["Images"] != before["sections"]["Images"]
    assert look(food, "food101", text="pages")["problems"]
    for path in cache_folder().rglob(card.JSON):
        path.write_text("{broken")
    data_card = look(food, "food101")
    assert data_card["card"] == card.identity(card.core(tasks.load("food101", food, max_bad=0.5)))


def test_without_a_cache_the_card_is_built_and_not_stored(food: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    steps: list[str] = []
    data_card, _ = report.check("food101", food, {}, 0.01, steps.append)
    assert data_card["problems"] == [] and "not cached" in steps[-1]


def test_what_is_asked_wrongly_is_no_finding(food: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--max-bad"):
        look(food, "food101", max_bad=2)
    with pytest.raises(UserError, match="data option of food101 'plot'"):
        look(food, "food101", plot="first")
    with pytest.raises(UserError, match="No data folder"):
        look(tmp_path / "nowhere", "food101")


def test_a_card_cannot_be_written_where_a_file_is(pope: Path, tmp_path: Path) -> None:
    data_card = look(pope, "pope")
    with pytest.raises(UserError, match="Could not write"):
        card.write(pope / "coco" / "coco_pope_random.json", data_card, "")
    card.write(tmp_path / "out", data_card, card_page.markdown(data_card))
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == data_card


def test_page_and_terminal_say_the_same(pope: Path) -> None:
    data_card = look(pope, "pope")
    page = card_page.markdown(data_card)
    assert "usable: test 40" in page and data_card["card"] in page
    assert "| yes | 20 (50.0%) |" in page
    assert "| test | 40 | 20 | 0 | 0 | 0 | 0 |" in page
    # The object alone gives every answer away.
    assert "| test |  | 40 | 50.0% | 100.0% |" in page
    console = Console(width=250, record=True, file=StringIO())
    console.print(Markdown(page))
    text = console.export_text()
    cells = [
        cell for line in page.splitlines() if line.startswith("| ") for cell in line.split(" | ")
    ]
    for cell in cells:
        plain = cell.strip("| ").replace("\\", "")
        assert plain in text or set(plain) == {"-"}, cell


def test_long_tables_are_cut_and_markup_is_escaped(pope: Path) -> None:
    data_card = look(pope, "pope")
    rows = [{"split": "test", "item": f"_{n}_", "reason": "a|b *c* <d>"} for n in range(20)]
    data_card["sections"]["Skipped rows"]["rows"] = rows
    page = card_page.markdown(data_card, card_page.TERMINAL_ROWS)
    assert page.count("| test | \\_") == 15 and "5 more rows in card.json." in page
    console = Console(width=250, record=True, file=StringIO())
    console.print(Markdown(page))
    assert "_14_" in (text := console.export_text()) and "a|b *c* <d>" in text
