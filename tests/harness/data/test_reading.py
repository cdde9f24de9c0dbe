"""Shared parts of loaders: broken images, thresholds, id checks, carving and the data revision."""

import gzip
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from steelyard.harness.core import readers
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data import reading

Splits = dict[str, list[Example]]


def revision(classes: Sequence[str], splits: Mapping[str, Sequence[Example]]) -> str:
    total, _ = reading.revisions(classes, splits, ())
    return total


def build(
    root: Path, splits: Splits, skipped: tuple[Skipped, ...] = (), max_bad: float = 0.01
) -> Corpus:
    return reading.build_corpus(
        "toy",
        root,
        ("no", "yes"),
        splits,
        multi_label=False,
        skipped=skipped,
        notes={},
        max_bad=max_bad,
    )


def rows(prefix: str, count: int) -> list[Example]:
    return [Example(f"{prefix}{n}", None, "words", (n % 2,)) for n in range(count)]


def pictured(root: Path, prefix: str, count: int) -> list[Example]:
    """Examples with a small noisy JPEG each."""
    examples = [replace(row, image=root / f"{row.id}.jpg") for row in rows(prefix, count)]
    for example in examples:
        assert example.image is not None
        Image.effect_noise((64, 64), 80).convert("RGB").save(example.image)
    return examples


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.fixture
def splits() -> Splits:
    return {"train": rows("a", 6), "val": rows("b", 4), "test": rows("c", 4)}


# --- Images and thresholds -------------------------------------------------------------------


def test_missing_and_damaged_images_are_counted_and_named(tmp_path: Path, splits: Splits) -> None:
    splits["test"] = pictured(tmp_path, "c", 8)
    (tmp_path / "c1.jpg").unlink()
    truncate(tmp_path / "c2.jpg", 0.6)
    (tmp_path / "c5.jpg").write_text("<html>not found</html>", encoding="utf-8")
    (tmp_path / "c6.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        build(tmp_path, splits, max_bad=0.49)
    message = str(error.value)
    assert "4 of 8 rows of test cannot be used" in message
    assert "c1 (image missing: c1.jpg), c2 (image unreadable: c2.jpg: " in message
    assert "c5 (image unreadable" in message
    assert "c6" not in message
    assert "--max-bad 0.5 (now 0.49)" in message

    corpus = build(tmp_path, splits, max_bad=0.5)
    assert [row.id for row in corpus.splits["test"]] == ["c0", "c3", "c4", "c7"]
    assert [(row.id, row.split) for row in corpus.skipped] == [
        ("c1", "test"),
        ("c2", "test"),
        ("c5", "test"),
        ("c6", "test"),
    ]


def test_rows_the_loader_skipped_count_too(tmp_path: Path, splits: Splits) -> None:
    skipped = (Skipped("c9", "test", "no label"),)
    with pytest.raises(UserError, match=r"1 of 5 rows of test .* c9 \(no label\)\. .* 0\.2 "):
        build(tmp_path, splits, skipped)
    assert build(tmp_path, splits, skipped, max_bad=0.2).skipped == skipped


def test_the_share_is_that_of_one_split(tmp_path: Path, splits: Splits) -> None:
    splits["train"] = rows("a", 1000)
    with pytest.raises(UserError, match="1 of 5 rows of val"):
        build(tmp_path, splits, (Skipped("b9", "val", "no label"),), max_bad=0.1)


def test_extra_split_may_be_incomplete_or_vanish(tmp_path: Path, splits: Splits) -> None:
    extra = pictured(tmp_path, "d", 3)
    for name in ("d0.jpg", "d1.jpg"):
        (tmp_path / name).unlink()
    corpus = build(tmp_path, {**splits, "test_unseen": extra})
    assert [row.id for row in corpus.splits["test_unseen"]] == ["d2"]
    (tmp_path / "d2.jpg").unlink()
    corpus = build(tmp_path, {**splits, "test_unseen": extra})
    assert list(corpus.splits) == ["train", "val", "test"]
    assert len(corpus.skipped) == 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_empty_split(tmp_path: Path, splits: Splits, split: str) -> None:
    splits[split] = []
    with pytest.raises(UserError, match=f"No row in {split}"):
        build(tmp_path, splits)
    with pytest.raises(UserError, match=rf"No usable row in {split}: 1 .* x \(no text\)"):
        build(tmp_path, splits, (Skipped("x", split, "no text"),), max_bad=0.99)


@pytest.mark.parametrize("max_bad", [-0.1, 1.0, float("nan")])
def test_max_bad_is_a_share(tmp_path: Path, splits: Splits, max_bad: float) -> None:
    with pytest.raises(UserError, match="--max-bad"):
        build(tmp_path, splits, max_bad=max_bad)


# --- Ids -------------------------------------------------------------------------------------


def test_repeated_ids(splits: Splits) -> None:
    splits["train"] += splits["train"][:4]
    (problem,) = reading.id_problems(splits)
    assert "in train (4): a0, a1, a2, .... Remove" in problem


@pytest.mark.parametrize(
    ("first", "second"),
    [("train", "val"), ("train", "test"), ("val", "test"), ("train", "test_unseen")],
)
def test_no_item_in_two_splits(splits: Splits, first: str, second: str) -> None:
    splits["test_unseen"] = rows("d", 2)
    splits[second] = [*splits[second], splits[first][1]]
    (problem,) = reading.id_problems(splits)
    assert f"both {first} and {second} (1): {splits[first][1].id}." in problem


def test_extra_splits_may_share_items_with_val_and_each_other(splits: Splits) -> None:
    splits |= {"dev_unseen": splits["val"][:2], "other": splits["val"][:1]}
    assert reading.id_problems(splits) == []


def test_what_is_refused_carries_all_problems_and_what_was_read(
    tmp_path: Path, splits: Splits
) -> None:
    splits["train"] += splits["train"][:1]
    splits["test"] = pictured(tmp_path, "c", 4)
    (tmp_path / "c1.jpg").unlink()
    splits["val"] = []
    with pytest.raises(reading.RefusedData) as error:
        build(tmp_path, splits)
    repeated, empty, missing = error.value.problems
    assert str(error.value) == repeated and "more than once in train (1): a0." in repeated
    assert empty == "No row in val: check that its files are complete."
    assert "1 of 4 rows of test cannot be used: c1 (image missing: c1.jpg)" in missing
    read = error.value.corpus
    assert {name: len(rows) for name, rows in read.splits.items()} == {"train": 7, "test": 3}
    assert [row.image for row in read.skipped] == [tmp_path / "c1.jpg"]


# --- Carving ---------------------------------------------------------------------------------


def test_carve_is_stratified_disjoint_and_independent_of_order() -> None:
    examples = rows("item", 60)
    rest, carved = reading.carve(examples, 0.1)
    assert Counter(row.labels for row in carved) == {(0,): 3, (1,): 3}
    assert sorted((*rest, *carved), key=examples.index) == examples
    assert set(reading.carve(examples[::-1], 0.1)[1]) == set(carved)
    # A fixed choice: another one would silently change every published split.
    assert [row.id for row in carved] == [f"item{n}" for n in (2, 21, 25, 28, 46, 51)]


def test_carve_takes_one_of_a_small_class_and_leaves_a_single_item() -> None:
    pair, single = rows("a", 3)[::2], rows("alone", 2)[1:]
    rest, carved = reading.carve([*pair, *single], 0.1)
    assert [row.labels for row in carved] == [(0,)]
    assert single[0] in rest


# --- Revision --------------------------------------------------------------------------------


def test_revision_follows_the_content(splits: Splits) -> None:
    classes = ("no", "yes")
    same = revision(classes, splits)
    first, *rest = splits["test"]
    for changed in (
        replace(first, id="other"),
        replace(first, text="other"),
        replace(first, text=None),
        replace(first, labels=(1,)),
    ):
        assert revision(classes, {**splits, "test": [changed, *rest]}) != same
    assert revision(classes[::-1], splits) != same
    assert revision(classes, {**splits, "test": [*rest, first]}) != same
    assert revision(classes, dict(reversed(splits.items()))) == same


def test_revision_notices_another_image_but_not_another_folder(
    tmp_path: Path, splits: Splits
) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    folder.mkdir()
    splits["test"] = pictured(folder, "c", 2)
    before = build(folder, splits).revision
    folder.rename(elsewhere)
    splits["test"] = [replace(row, image=elsewhere / f"{row.id}.jpg") for row in rows("c", 2)]
    assert build(elsewhere, splits).revision == before
    Image.new("RGB", (9, 9)).save(elsewhere / "c1.jpg")
    assert build(elsewhere, splits).revision != before


def test_content_is_that_of_the_images_in_order(tmp_path: Path, splits: Splits) -> None:
    splits["test"] = pictured(tmp_path, "c", 2)
    corpus = build(tmp_path, splits)
    assert build(tmp_path, {"test": rows("c", 2)}).content == ""
    assert build(tmp_path, {**splits, "test": splits["test"][::-1]}).content != corpus.content
    # Another picture of as many bytes: the revision cannot tell, the content can.
    corpora = []
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "c1.jpg", "BMP")
        corpora.append(build(tmp_path, splits))
    red, blue = corpora
    assert red.revision == blue.revision and red.content != blue.content


def test_revision_follows_all_that_a_question_says() -> None:
    plain = Example("a", None, "why?", (), answers=("so",))
    changed = [
        replace(plain, answers=("not so",)),
        replace(plain, choices=("so",)),
        replace(plain, subset="count"),
        replace(plain, cluster="b"),
        replace(plain, facts={"prior": ("so",)}),
        replace(plain, facts={"objects": ("so",)}),
    ]
    revisions = {revision((), {"test": [example]}) for example in (plain, *changed)}
    assert len(revisions) == 7


def test_revision_of_data_without_questions_is_what_it_was() -> None:
    # Published records hold such revisions: another one would make their data look foreign.
    assert revision(("no", "yes"), {"train": rows("a", 2)}) == "7c6e697181638c40"


# --- Sets made for evaluation, and packed files ----------------------------------------------


def test_a_set_may_have_only_a_test_split(splits: Splits, tmp_path: Path) -> None:
    corpus = build(tmp_path, {"test": splits["test"]})
    assert set(corpus.splits) == {"test"}
    with pytest.raises(UserError, match="No row in val"):
        build(tmp_path, {"test": splits["test"], "val": []})


def test_packed_files_are_read_and_broken_ones_named(tmp_path: Path) -> None:
    content = b'{"a": 1}\r\n{"a": 2}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    plain, packed = (list(readers.read_rows(tmp_path / f"a.jsonl{s}")) for s in ("", ".gz"))
    assert [row for _, row in plain] == [row for _, row in packed] == [{"a": 1}, {"a": 2}]
    assert packed[1][0].endswith("a.jsonl.gz:2")
    truncate(tmp_path / "a.jsonl.gz", 0.5)
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: cannot be read"):
        list(readers.read_rows(tmp_path / "a.jsonl.gz"))
