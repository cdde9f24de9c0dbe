"""Loader of Hateful Memes: both phases' file names, splits in use, unlabelled and bad rows."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example
from steelyard.tasks import hateful_memes


def ids(corpus: Corpus, split: str) -> list[str]:
    return [example.id for example in corpus.splits[split]]


def meme_rows(start: int, count: int) -> list[dict[str, object]]:
    return [
        {"id": f"{n:05}", "img": f"img/{n:05}.png", "label": n % 2, "text": f"words {n}"}
        for n in range(start, start + count)
    ]


def write_lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def memes(tmp_path: Path) -> Path:
    """Second phase; as in the official files, the two dev files share items."""
    for name, start, count in (
        ("train", 0, 20),
        ("dev_seen", 20, 4),
        ("dev_unseen", 22, 4),
        ("test_seen", 30, 6),
        ("test_unseen", 40, 8),
    ):
        rows = meme_rows(start, count)
        write_lines(tmp_path / f"{name}.jsonl", rows)
        for row in rows:
            path = tmp_path / str(row["img"])
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (24, 24), "red").save(path)
    return tmp_path


@pytest.fixture
def memes_phase_1(memes: Path) -> Path:
    (memes / "dev_seen.jsonl").rename(memes / "dev.jsonl")
    rows = [{key: row[key] for key in ("id", "img", "text")} for row in meme_rows(30, 6)]
    write_lines(memes / "test.jsonl", rows)
    for name in ("dev_unseen", "test_seen", "test_unseen"):
        (memes / f"{name}.jsonl").unlink()
    return memes


def test_memes_default_is_seen(memes: Path) -> None:
    corpus = hateful_memes.load(memes)
    assert corpus.classes == ("not_hateful", "hateful")
    sizes = {split: len(rows) for split, rows in corpus.splits.items()}
    assert sizes == {"train": 20, "val": 4, "test": 6, "dev_unseen": 4, "test_unseen": 8}
    assert corpus.splits["train"][3] == Example("00003", memes / "img/00003.png", "words 3", (1,))
    assert corpus.notes == {
        "train": "train.jsonl",
        "val": "dev_seen.jsonl",
        "test": "test_seen.jsonl",
        "phase": "2",
    }


def test_memes_unseen(memes: Path) -> None:
    corpus = hateful_memes.load(memes, val="unseen", test="unseen")
    assert ids(corpus, "test") == [f"{n:05}" for n in range(40, 48)]
    assert corpus.notes["test"] == "test_unseen.jsonl"
    assert corpus.notes["val"] == "dev_unseen.jsonl"
    assert len(corpus.splits["test_seen"]) == 6


def test_memes_integer_ids_find_images_by_img(memes: Path) -> None:
    rows = [{**row, "id": int(str(row["id"]))} for row in meme_rows(30, 6)]
    write_lines(memes / "test_seen.jsonl", rows)
    test = hateful_memes.load(memes).splits["test"]
    assert (test[0].id, test[0].image) == ("30", memes / "img/00030.png")


def test_memes_phase_1_test_has_no_labels(memes_phase_1: Path) -> None:
    text_of_error = r"6 of 6 rows of test\.jsonl have no label as in the .* first phase .* test=dev"
    with pytest.raises(UserError, match=text_of_error):
        hateful_memes.load(memes_phase_1)


def test_memes_phase_1_has_no_unseen_files(memes_phase_1: Path) -> None:
    with pytest.raises(UserError, match=r"first phase .* no unseen files: use val=seen"):
        hateful_memes.load(memes_phase_1, test="unseen")


def test_memes_still_packed(memes: Path) -> None:
    (memes / "img").rename(memes / "elsewhere")
    (memes / "img.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"images in .* are packed: unpack img\.tar\.gz there"):
        hateful_memes.load(memes)


def test_memes_phase_1_scored_on_dev(memes_phase_1: Path) -> None:
    corpus = hateful_memes.load(memes_phase_1, test="dev")
    assert ids(corpus, "test") == [f"{n:05}" for n in range(20, 24)]
    assert sorted(ids(corpus, "train") + ids(corpus, "val")) == [f"{n:05}" for n in range(20)]
    assert len(corpus.splits["val"]) == 2
    assert corpus.notes["test"] == "dev.jsonl"
    assert corpus.notes["phase"] == "1"
    assert "test_seen" not in corpus.splits
    assert Counter(row.reason for row in corpus.skipped) == {"no label": 6}


def test_memes_phase_1_with_labels(memes_phase_1: Path) -> None:
    write_lines(memes_phase_1 / "test.jsonl", meme_rows(30, 6))
    assert hateful_memes.load(memes_phase_1).notes["test"] == "test.jsonl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "label 2, allowed are 0, 1"),
        ({"label": True}, "label True"),
        ({"label": "1"}, "label '1'"),
        ({"img": None}, "expected an 'id' and"),
        ({"id": None}, "expected an 'id' and"),
        ({"text": 5}, "'text' must be a string"),
    ],
)
def test_memes_bad_row_names_its_line(memes: Path, change: dict[str, object], message: str) -> None:
    rows = meme_rows(30, 6)
    rows[2] |= change
    write_lines(memes / "test_seen.jsonl", rows)
    with pytest.raises(UserError, match=rf"test_seen\.jsonl:3: {message}"):
        hateful_memes.load(memes)


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"id": 1,', "not valid JSON"), ("[1]", "expected an object, found list")],
)
def test_memes_bad_line(memes: Path, line: str, message: str) -> None:
    path = memes / "train.jsonl"
    path.write_text("\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"train\.jsonl:3: {message}"):
        hateful_memes.load(memes)


def test_memes_empty_text_is_absent(memes: Path) -> None:
    rows = meme_rows(30, 6)
    rows[0]["text"] = ""
    del rows[1]["text"]
    write_lines(memes / "test_seen.jsonl", rows)
    test = hateful_memes.load(memes).splits["test"]
    assert [row.text for row in test[:3]] == [None, None, "words 32"]


def test_memes_unusual_line_separator_inside_a_text(memes: Path) -> None:
    rows = meme_rows(30, 6)
    rows[0]["text"] = "one\u2028two"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (memes / "test_seen.jsonl").write_text(text, encoding="utf-8")
    assert hateful_memes.load(memes).splits["test"][0].text == "one\u2028two"


@pytest.mark.parametrize("option", ["val", "test"])
def test_memes_unknown_split(memes: Path, option: str) -> None:
    with pytest.raises(UserError, match=f"Unknown {option} split .* 'unsen'.*'unseen'"):
        hateful_memes.load(memes, **{option: "unsen"})  # type: ignore[arg-type]


def test_memes_missing_file_says_where(memes: Path) -> None:
    (memes / "dev_seen.jsonl").unlink()
    with pytest.raises(UserError) as error:
        hateful_memes.load(memes)
    assert "dev_seen.jsonl or dev.jsonl" in str(error.value)
    assert str(memes) in str(error.value)


def test_memes_extra_split_may_be_incomplete(memes: Path) -> None:
    for n in range(40, 47):
        (memes / f"img/{n:05}.png").unlink()
    corpus = hateful_memes.load(memes)
    assert ids(corpus, "test_unseen") == ["00047"]
    assert len(corpus.skipped) == 7
    with pytest.raises(UserError, match="7 of 8 rows of test cannot be used"):
        hateful_memes.load(memes, test="unseen")


def test_a_test_split_of_one_class_is_refused_before_anything_is_trained(memes: Path) -> None:
    path = memes / "test_seen.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:5]:
        row["label"] = 0
    write_lines(path, rows)  # the last is hateful
    (memes / rows[5]["img"]).write_bytes(b"")
    fault = (
        r"^No usable row of test is 'hateful', .*: 00035 \(image unreadable: img/00035.png: empty"
    )
    with pytest.raises(UserError, match=fault):
        hateful_memes.load(memes, max_bad=0.2)
    write_lines(path, rows[:5])
    with pytest.raises(UserError, match=r"^No usable row of test is 'hateful', .* add some\.$"):
        hateful_memes.load(memes)
