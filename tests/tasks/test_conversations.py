"""Forms of training rows: one content in each of them is one data set, run and record."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.data import card
from steelyard.harness.runs.options import parse_roots
from steelyard.tasks import instruct
from steelyard.tasks._shared import conversations, questions

Row = dict[str, Any]
COLOURS = ("red", "green", "blue")
PROMPT = f"Which colour?{questions.SHORT}"


def picture(colour: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    for colour in COLOURS:
        (root / "images" / f"{colour}.png").write_bytes(picture(colour))


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# Three short questions about an image, and one text without an image.


def native(root: Path) -> None:
    rows: list[Row] = [
        {"image": f"images/{colour}.png", "question": "Which colour?", "answer": colour}
        for colour in COLOURS
    ]
    text = {"image": None, "question": "Say hello.", "answer": "hello", "kind": "conversation"}
    write_images(root)
    write_lines(root / "train.jsonl", [*rows, text])


def llava(root: Path) -> None:
    rows: list[Row] = [
        {
            "id": "000123",  # LLaVA's own mix repeats ids
            "image": f"{colour}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{PROMPT}"},
                {"from": "gpt", "value": colour},
            ],
        }
        for colour in COLOURS
    ]
    text = [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "hello"}]
    write_images(root)
    (root / "llava.json").write_text(json.dumps([*rows, {"id": "1", "conversations": text}]))


def sharegpt(root: Path) -> None:
    rows: list[Row] = [
        {
            "messages": [
                {"role": "user", "content": f"<image>{PROMPT}"},
                {"role": "assistant", "content": colour},
            ],
            "images": [f"images/{colour}.png"],
        }
        for colour in COLOURS
    ]
    text = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "hello"}]
    write_images(root)
    (root / "train.json").write_text(json.dumps([*rows, {"messages": text, "images": []}]))


def trl_rows() -> list[Row]:
    return [
        {"prompt": [{"role": "user", "content": PROMPT}],
         "completion": [{"role": "assistant", "content": colour}],
         "image": {"bytes": picture(colour), "path": None}}
        for colour in COLOURS
    ] + [{"prompt": [{"role": "user", "content": "Say hello."}],
          "completion": [{"role": "assistant", "content": "hello"}], "image": None}]  # fmt: skip


def trl_parquet(root: Path) -> None:
    (root / "data").mkdir(parents=True)
    path = root / "data" / "train-00000-of-00001.parquet"
    parquet.write_table(pa.Table.from_pylist(trl_rows()), path)


def binary_parquet(root: Path) -> None:
    """Bytes in the column itself, as pandas and DuckDB write them."""
    root.mkdir(parents=True)
    rows = [{**row, "image": row["image"] and row["image"]["bytes"]} for row in trl_rows()]
    parquet.write_table(pa.Table.from_pylist(rows), root / "train.parquet")


def saved(root: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "images": [row.pop("image")] if row["image"] else []} for row in trl_rows()]
    features = datasets.Dataset.from_list(rows[:1]).features
    features["images"] = datasets.List(datasets.Image(decode=False))
    datasets.Dataset.from_list(rows, features=features).save_to_disk(root)


FORMS = (native, llava, sharegpt, trl_parquet, binary_parquet, saved)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_equal_content_is_one_revision_and_card(
    form: Callable[[Path], None], tmp_path: Path, own_cache: Path
) -> None:
    native(tmp_path / "native")
    form(tmp_path / "form")
    first, other = (instruct.load(tmp_path / name) for name in ("native", "form"))
    assert len(other.splits["train"]) == 4
    assert other.revision == first.revision
    assert other.split_revisions == first.split_revisions  # name the run
    assert card.identity(card.core(other)) == card.identity(card.core(first))
    turns = [
        [tasks.training_turn("instruct", corpus, row, None) for row in corpus.splits["train"]]
        for corpus in (first, other)
    ]
    assert turns[0] == turns[1]
    assert turns[1][0].inputs.prompt == PROMPT and turns[1][3].inputs.prompt == "Say hello."


def test_a_hub_copy_in_the_local_cache(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    native(tmp_path / "native")
    hub = tmp_path / "hub" / "datasets--me--pairs"
    trl_parquet(hub / "snapshots" / "0123abcd")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = parse_roots(["me/pairs"], ["instruct"])["instruct"]
    assert instruct.load(root).revision == instruct.load(tmp_path / "native").revision


TURN = {"role": "user", "content": "Which?"}
RIGHT, WRONG = ({"role": "assistant", "content": text} for text in ("red", "blue"))
PAIR = ("Which?", "red", "blue", "conversation", (), 0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Which?", "chosen": "red", "rejected": "blue"}, PAIR),
        ({"prompt": [TURN], "chosen": [RIGHT], "rejected": [WRONG]}, PAIR),
        ({"chosen": [TURN, RIGHT], "rejected": [TURN, WRONG]}, PAIR),
        ({"conversations": [{"from": "human", "value": "Which?"}],
          "chosen": {"from": "gpt", "value": "red"},
          "rejected": {"from": "gpt", "value": "blue"}}, PAIR),
        ({"conversations": [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "red"}],
          "rejected": "blue"}, PAIR),
        ({"question": "Which?", "answer": "red", "rejected": "blue", "kind": "conversation"}, PAIR),
        ({"messages": [{"role": "system", "content": "Be kind."}, TURN, RIGHT, TURN, WRONG]},
         ("Which?", "red", "", "conversation", (), 1)),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "text": None},
                                                  {"type": "text", "text": "Which?"}]}],
          "completion": [RIGHT]}, ("Which?", "red", "", "conversation", (), 0)),
    ],
)  # fmt: skip
def test_forms(row: Row, expected: tuple[Any, ...]) -> None:
    assert conversations.parse("x:1", row, images=1) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "Which?", "image": "x.png"}, "x:1: no question and answer; it has text. Known"),
        ({"messages": [TURN]}, "no question and answer"),
        ({"messages": [{"role": "tool", "content": ""}]}, "role 'tool', allowed are human, user"),
        ({"messages": ["Which?"]}, "expected a message, found 'Which"),
        ({"messages": [{"role": "user", "content": 3}]}, "must be text or parts, found 3"),
        ({"prompt": "Which?", "completion": "red", "label": False}, "'label' is false"),
        ({"prompt": [TURN, RIGHT, TURN], "chosen": [RIGHT], "rejected": [WRONG]}, "a pair needs"),
        ({"prompt": "Which?", "chosen": "red", "rejected": [WRONG, TURN]}, "a pair needs"),
        (
            {"chosen": [TURN, RIGHT], "rejected": [{"role": "user", "content": "Why?"}, WRONG]},
            "a pair needs",
        ),
        ({"prompt": "Which?", "chosen": "red", "rejected": "red"}, "'rejected' is the right"),
        ({"prompt": "<image>", "completion": "red"}, "the question is empty"),
    ],
)
def test_what_is_no_row(row: Row, message: str) -> None:
    with pytest.raises(UserError, match=message):
        conversations.parse("x:1", row, images=1)


def test_later_turns_are_counted_in_the_card(tmp_path: Path) -> None:
    rows = [{"messages": [TURN, RIGHT, TURN, WRONG] * 2}, {"messages": [TURN, WRONG]}]
    write_lines(tmp_path / "train.jsonl", rows)
    corpus = instruct.load(tmp_path)
    (long, _) = corpus.splits["train"]
    assert corpus.notes == {"later turns left out": f"3, of 1 items: {long.id}"}


def test_equal_rows_have_ids_of_their_own(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"messages": [TURN, RIGHT]}] * 3)
    first, *copies = (row.id for row in instruct.load(tmp_path).splits["train"])
    assert copies == [f"{first}-2", f"{first}-3"]
