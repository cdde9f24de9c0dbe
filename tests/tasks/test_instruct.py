"""Training pool: prompts and answers to train on, kinds, and exact match."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.data import card
from steelyard.tasks import instruct
from steelyard.tasks._shared import questions

ROWS: list[dict[str, Any]] = [
    {"image": "images/x.png", "question": "how many?", "answer": "2", "kind": "count"},
    {"image": "images/x.png", "question": "is it?", "answer": "yes", "choices": ["yes", "no"]},
    {"image": None, "question": "what is red and blue?", "answer": "purple", "kind": "colour"},
    {
        "image": "images/x.png",
        "question": questions.CAPTION,
        "answer": "A cup.",
        "kind": "caption",
    },
]


def digest_of(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def write(root: Path, splits: tuple[str, ...] = ("train", "val"), **change: Any) -> Path:
    (root / "images").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(root / "images" / "x.png")
    for split in splits:
        rows = [{"id": f"{split}{n}", **row} for n, row in enumerate(ROWS)]
        rows[0] |= change
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_turns(tmp_path: Path) -> None:
    corpus = instruct.load(write(tmp_path))
    assert set(corpus.splits) == {"train", "val"}
    image = Image.new("RGB", (8, 8))
    count, closed, blind, caption = (
        tasks.training_turn("instruct", corpus, example, image)
        for example in corpus.splits["train"]
    )
    suffix = "\nAnswer the question using a single word or phrase."
    assert (count.inputs.prompt, count.inputs.text) == (f"how many?{suffix}", "how many?")
    assert (count.answer, count.choices, count.inputs.image) == ("2", (), image)
    assert (closed.answer, closed.choices) == ("yes", ("yes", "no"))
    assert blind.inputs.prompt == f"what is red and blue?{suffix}"
    assert (caption.inputs.prompt, caption.inputs.text) == (questions.CAPTION, None)
    assert (caption.answer, caption.choices) == ("A cup.", ())


def test_examples(tmp_path: Path) -> None:
    train = instruct.load(write(tmp_path)).splits["train"]
    assert [example.subset for example in train] == ["count", "question", "colour", "caption"]
    assert train[2].image is None and train[2].cluster == ""
    # The image's content, so that its name makes no difference.
    assert train[0].cluster == train[1].cluster == digest_of(tmp_path / "images" / "x.png")


def test_captions_have_no_share_of_the_accuracy(tmp_path: Path) -> None:
    corpus = instruct.load(write(tmp_path, ("train", "val", "test")))
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    replies = ["Two.", "no", "purple", "A cup."]
    results = [
        instruct.process_results(doc, [answer]) for doc, answer in zip(docs, replies, strict=True)
    ]
    assert [result["accuracy"] for result in results] == [(1, 1), (0, 1), (1, 1), (0, 0)]
    assert results[2]["item"]["cluster"] == "test2"  # no image: the item stands alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, r"1 of 4 rows of val .*val.jsonl:1 \(malformed: 'answer' must be"),
        ({"choices": [1]}, "'choices' must be a list of strings"),
        ({"kind": 3.5}, "'kind' must be"),
        ({"rejected": "2"}, "'rejected' is the right answer"),
        ({"question": "<image><image> which?"}, "2 <image> in the text, and 1 image"),
        ({"images": ["images/x.png", "images/x.png"]}, "several images: 2, and a row can have one"),
        ({"id": "val1"}, "occur more than once in val"),
        ({"id": "train1"}, "in both train and val"),
        ({"image": "images/gone.png"}, "1 of 4 rows of val cannot be used.*gone.png"),
    ],
)
def test_malformed_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, ("train",))
    write(tmp_path, ("val",), **change)
    with pytest.raises(UserError, match=message):
        instruct.load(tmp_path)


def test_a_row_names_its_image_or_none(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "val.jsonl").write_text('{"question": "which?", "answer": "a", "img": "x.png"}\n')
    with pytest.raises(UserError, match=r"val.jsonl:1 \(malformed: no 'image'; write null"):
        instruct.load(tmp_path)


def test_files_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No train\.jsonl, train\.json or table"):
        instruct.load(tmp_path)
    assert set(instruct.load(write(tmp_path, ("test",))).splits) == {"test"}
    (tmp_path / "test.jsonl").rename(tmp_path / "my_pairs.json")
    assert set(instruct.load(tmp_path).splits) == {"train"}  # the only file
    (tmp_path / "my_pairs.json").rename(tmp_path / "dev.json")
    assert set(instruct.load(write(tmp_path, ("train",))).splits) == {"train", "val"}
    write(tmp_path, ("val",))
    with pytest.raises(UserError, match=r"has dev\.json and val\.jsonl: keep one"):
        instruct.load(tmp_path)


def test_broken_rows_are_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, ("train",)) / "train.jsonl"
    several = json.dumps({**ROWS[0], "id": "7", "image": ["x.png", "x.png"]})
    path.write_text(path.read_text() + '{"question": \n[3]\n' + several + "\n")
    with pytest.raises(UserError, match="3 of 7 rows of train cannot be used"):
        instruct.load(tmp_path)
    corpus = instruct.load(tmp_path, max_bad=0.5)
    assert [row.id for row in corpus.skipped] == [f"train.jsonl:{line}" for line in (5, 6, 7)]
    assert card.core(corpus)["skipped"] == {"train": {"malformed": 2, "several images": 1}}
