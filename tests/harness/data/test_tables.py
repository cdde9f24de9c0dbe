"""Tables of users: texts that are none, missing numbers, columns twice, cut files, odd rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from steelyard.harness.core.errors import UserError
from steelyard.harness.data import tables
from steelyard.harness.datacheck.convert import convert, find
from steelyard.tasks import instruct


def write(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    return [row for _, row in tables.rows(folder)]


def no_text(count: int, at: int, content: bytes) -> pa.Array:
    """Texts of which one has bytes that are not UTF-8, as other writers leave them."""
    values = [b"text"] * count
    values[at] = content
    return pa.array(values, pa.binary()).view(pa.string())


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("content", [b"caf\xe9", b"half \xed\xa0\xbd"])
def test_a_text_that_is_none_is_named_by_its_row(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    write(tmp_path / f"train{suffix}", pa.table({"text": no_text(200, 130, content)}))
    with pytest.raises(UserError, match=rf"train\{suffix}: row 131: a text is not UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_missing_numbers_are_none_and_columns_have_names_of_their_own(
    tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"train{suffix}", pa.table({"label": [1.0, float("nan"), None]}))
    assert [row["label"] for row in read(tmp_path)] == [1.0, None, None]
    columns = [pa.array(["a"]), pa.array(["b"])]
    write(path, pa.Table.from_arrays(columns, names=["text", "text"]))
    with pytest.raises(UserError, match=rf"train\{suffix}: two columns 'text'"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("cut", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"{}" * 99])
def test_what_is_no_table_is_named(
    tmp_path: Path, suffix: str, cut: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / f"train{suffix}", pa.table({"text": ["some text"] * 500}))
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(UserError, match=rf"train\{suffix}: not a complete {suffix[1:]} file"):
        read(tmp_path)


def test_litter_beside_tables_is_none(tmp_path: Path) -> None:
    write(tmp_path / "data/train.parquet", pa.table({"text": ["a"]}))
    for name in ("._train.parquet", ".ipynb_checkpoints/train.parquet", "__MACOSX/a.parquet"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"\0\5\26\7")
    assert len(read(tmp_path)) == 1 and tables.count(tmp_path) == 1


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("vqav2", {"question_id": "x", "image_id": 1, "question": "?", "image": None}),
        ("naturalbench", {"Index": None}),
        ("pope", {"category": "random", "question_id": 1, "question": "?", "answer": None,
                  "image_source": "a", "image": {"bytes": b"1"}}),
        ("hateful_memes", {"id": 1, "img": {"bytes": b"1"}, "text": "a", "label": "perhaps"}),
        ("scienceqa", {"image": None, "question": "?", "choices": None, "answer": 0, "hint": ""}),
        ("food101", {"image": {"bytes": b"1"}, "title": "a", "label": 7}),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_converted_is_named(
    tmp_path: Path, task: str, row: dict[str, Any]
) -> None:
    write(tmp_path / "copy/data/train-00000-of-00001.parquet", pa.Table.from_pylist([row]))
    with pytest.raises(UserError, match=r"00001\.parquet: row 1: ") as error:
        convert(task, find(task, str(tmp_path / "copy")), tmp_path / "made", lambda _: None)
    assert "\n" not in str(error.value) and not (tmp_path / "made").exists()


def test_a_table_of_ones_own_is_read_with_its_odd_rows_left_out(
    tmp_path: Path, own_cache: Path
) -> None:
    rows = [{"question": f"what is {n}?", "answer": "red", "image": None} for n in range(5)]
    rows[3]["answer"] = " "
    write(tmp_path / "train.parquet", pa.Table.from_pylist(rows))
    corpus = instruct.load(tmp_path, max_bad=0.5)
    assert len(corpus.splits["train"]) == 4
    assert [row.reason.partition(",")[0] for row in corpus.skipped] == [
        "malformed: 'answer' must be a string or a number"
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv", "a.jsonl", "a.json"])
def test_one_file_of_any_form_has_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = [{"id": "1", "answer": "yes, two\nlines"}, {"id": "2", "answer": "caf\xe9"}]
    path = tmp_path / name
    if path.suffix in tables.SUFFIXES:
        write(path, pa.Table.from_pylist(rows))
    else:
        lines = '{"id": "1", "answer": "yes, two\\nlines"}', '{"id": "2", "answer": "caf\xe9"}'
        path.write_text({
            ".csv": 'id,answer\n1,"yes, two\nlines"\n2,caf\xe9\n',
            ".jsonl": "\n".join(lines),
            ".json": f"[{', '.join(lines)}]",
        }[path.suffix])  # fmt: skip
    assert [row for _, row in tables.file_rows(path)] == rows


def test_a_broken_row_of_a_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("id,answer\n1,yes\n2\n3,no\n")
    with pytest.raises(UserError, match=r"answers\.csv:3: 1 cells, and 2 in other rows"):
        list(tables.file_rows(path))
    path.write_text("")
    assert list(tables.file_rows(path)) == []
