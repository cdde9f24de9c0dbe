"""Readers of text, JSON, CSV and YAML on what is no such text; loaders are tested with tasks."""

from pathlib import Path
from typing import Any

import pytest

from steelyard.harness.core import readers
from steelyard.harness.core.errors import UserError, brief
from steelyard.harness.core.files import import_file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "a": 2}', "x:2: an object has the key 'a' twice."),
        ('[{"a": 1}, {"a": {"b": 1,\n\n"b": 2}}]', "x:3: an object has the key 'b' twice."),
        ('{"NaN": "NaN",\n"a": NaN}', "x:2: NaN is no number of JSON."),
        ("[1,\n-Infinity]", "x:2: -Infinity is no number of JSON."),
        ('{"a": 1}\n{"a": 2}', "x:2: not valid JSON (Extra data)."),
        ("[1,\n2,\n]", "x:3: not valid JSON (Expecting value)."),
        ("{'a': 1}", "x:1: not valid JSON (Expecting property name enclosed in double quotes)."),
        ("", "x:1: not valid JSON (Expecting value)."),
    ],
)
def test_a_fault_of_json_has_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        readers.parse_json(text, "x")
    assert str(error.value) == message


def test_half_a_surrogate_pair_and_nul_are_replaced_and_pairs_are_read() -> None:
    content = readers.parse_json(r'{"\ud83d": ["\ud83d\ude00", "a\u0000b", "\ude00"], "b": 1}', "x")
    assert content == {"\ufffd": ["\U0001f600", "a\ufffdb", "\ufffd"], "b": 1}


def test_rows_of_a_list_of_lines_and_within_an_object() -> None:
    faults: list[tuple[str, str]] = []

    def read(text: str, key: str = "", path: str = "x.json") -> list[tuple[str, Any]]:
        return list(readers.json_rows(text, path, lambda *fault: faults.append(fault), key))

    rows = [{"a": 1}, {"a": 2}]
    numbered = [(f"x.json: row {number}", row) for number, row in enumerate(rows, start=1)]
    assert read('[{"a": 1}, {"a": 2}]') == numbered
    assert read('{"b": [{"a": 1},\n {"a": 2}]}', "b") == numbered
    assert read('{\n"b": [{"a": 1}, {"a": 2}]}', "b") == numbered
    assert read('{"a": 1}\n\n{"a": 2}\n') == [("x.json:1", rows[0]), ("x.json:3", rows[1])]
    # The separator U+2028 ends no line.
    assert read('{"a": "b\u2028c"}') == [("x.json:1", {"a": "b\u2028c"})]
    assert not faults
    text = '{"a": 1}\n{"a": \n[3]\n{"a": 2}\n\u2028\n \t\r\n'
    assert read(text) == [("x.json:1", rows[0]), ("x.json:4", rows[1])]
    assert faults == [
        ("x.json:2", "not valid JSON (Expecting value)"),
        ("x.json:3", "expected an object, found list"),
        ("x.json:5", "not valid JSON (Expecting value)"),
    ]


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("a,b\n1,2\n", [("x:1", ["a", "b"], ""), ("x:2", ["1", "2"], "")]),
        ('a,"b\nc, d"\n\n , \n1,2', [("x:1", ["a", "b\nc, d"], ""), ("x:5", ["1", "2"], "")]),
        ("a,b\n1,2,3\n4,5", [("x:1", ["a", "b"], ""),
                             ("x:2", ["1", "2", "3"], "3 cells, and 2 in other rows"),
                             ("x:3", ["4", "5"], "")]),
        ('a.jpg,"b\nc.png,d"\ne.jpg,f', [("x:1", ["a.jpg", '"b'], "a quotation mark is left open"),
                                        ("x:2", ["c.png", 'd"'], ""), ("x:3", ["e.jpg", "f"], "")]),
        ("", []),
    ],
)  # fmt: skip
def test_rows_of_cells(text: str, cells: list[tuple[str, list[str], str]]) -> None:
    assert [tuple(row) for row in readers.csv_rows(text, "x")] == cells


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: 2\na: 3", "3: not valid YAML (the key 'a' twice)"),
        (b"a: 1\nb: [1", "not valid YAML ("),
        (b"a: 1\nb: caf\xe9", ":2: byte 0xe9 is not UTF-8"),
        (b"a: 1\nb: \0", ":2: a NUL byte"),
        (b'a: "\\ud83d"', ":1: not valid YAML ("),
        (b"a: 1\n---\nb: 2", ":2: not valid YAML ("),
        (b"a: !!python/name:os.system x", ":1: not valid YAML ("),
    ],
)
def test_a_fault_of_yaml_has_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        readers.read_yaml(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_yaml_is_text_with_marks_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(b'\xef\xbb\xbfa: &x {b: 007}\r\nc: {<<: *x, d: "\\0"}\r\n')
    assert readers.read_yaml(path) == {"a": {"b": "007"}, "c": {"b": "007", "d": "\ufffd"}}


def test_messages_have_one_line_and_short_words() -> None:
    assert str(UserError(f"a\nb: {'x' * 999} is long")) == f"a\\nb: {'x' * 300}... is long"
    assert brief("short words stay") == "short words stay"


@pytest.mark.parametrize("content", [b"a = 1\ndef (", b"b = '\xe8'", b"a = 1\n\0", b"\xff\xfea\0"])
def test_a_file_that_is_no_python_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.py:\d: not valid Python \("):
        import_file(tmp_path / "mine.py")
