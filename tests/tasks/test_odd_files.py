"""Files of users as other systems leave them, in every task's official layout."""

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import layouts
import pytest

from steelyard.harness.core.errors import UserError
from steelyard.harness.datacheck import report

TASKS = sorted(layouts.FILES)
LITTER = ("._{}", ".DS_Store", "Thumbs.db", "desktop.ini", "~${}", ".~lock.{}#",
          ".ipynb_checkpoints/{}", "__MACOSX/._{}", "__MACOSX/{}")  # fmt: skip
JSON = [task for task in TASKS if task not in ("food101", "mme")]
Edit = Callable[[bytes], bytes]


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def each_file(task: str, root: Path) -> Iterator[Path]:
    """Yield each annotation file; it is as it was again afterwards."""
    layouts.write(task, root)
    for name in layouts.FILES[task]:
        content = (root / name).read_bytes()
        yield root / name
        (root / name).write_bytes(content)


def refusal(task: str, root: Path) -> str:
    """Return the one line of the error, or the reasons why rows are left out."""
    with pytest.raises(UserError) as error:
        layouts.load(task, root)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000
    return message


# --- Encodings and line ends -----------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.replace(b"\n", b"\r"),
        lambda content: content + b"\n \n\n",
        lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n",
    ],
    ids=["mark", "crlf", "cr", "blank", "all"],
)
def test_marks_and_line_ends_of_other_systems_change_nothing(
    task: str, tmp_path: Path, edit: Edit
) -> None:
    revision = layouts.load(task, layouts.write(task, tmp_path / "plain")).revision
    for path in each_file(task, tmp_path / "odd"):
        path.write_bytes(edit(path.read_bytes()))
        assert layouts.load(task, tmp_path / "odd").revision == revision, path.name


@pytest.mark.parametrize(
    ("piece", "reason"),
    [(b"\xe8", "byte 0xe8 is not UTF-8"), (b"\xed\xa0\xbd", "byte 0xed is not"), (b"\0", "NUL")],
    ids=["latin-1", "surrogate", "nul"],
)
def test_what_is_no_text_is_named_by_file_and_line(
    task: str, tmp_path: Path, piece: bytes, reason: str
) -> None:
    for path in each_file(task, tmp_path):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + piece + content[middle:])
        line = content.count(b"\n", 0, middle) + 1
        assert re.search(rf"{re.escape(path.name)}:{line}: .*{reason}", refusal(task, tmp_path))


def test_utf16_is_named(task: str, tmp_path: Path) -> None:
    for path in each_file(task, tmp_path):
        text = path.read_text()
        path.write_text(text, "utf-16")
        assert f"{path.name}:1: the file is in UTF-16" in refusal(task, tmp_path)
        path.write_text(text, "utf-16-le")  # without a mark
        assert f"{path.name}:1: a NUL byte" in refusal(task, tmp_path)


# --- What lies beside ------------------------------------------------------------------------


def test_what_systems_leave_beside_files_is_no_data(task: str, tmp_path: Path) -> None:
    revision = layouts.load(task, layouts.write(task, tmp_path)).revision
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        for name in LITTER:
            litter = path.parent / name.format(path.name)
            litter.parent.mkdir(exist_ok=True)
            litter.write_bytes(b"\0\5\26\7 Mac OS X \xff")
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        (folder / ".ipynb_checkpoints").mkdir(exist_ok=True)
    assert layouts.load(task, tmp_path).revision == revision


# --- JSON ------------------------------------------------------------------------------------


def test_halves_of_emoji_and_escaped_nul_are_replaced(tmp_path: Path) -> None:
    count = 0
    for task in JSON:
        for path in each_file(task, tmp_path / task):
            text = path.read_text()
            path.write_text(
                re.sub(r'"(words|plot|what|Is it|is it|which)', r'"\\ud83d\\u0000\1', text)
            )
            texts = layouts.texts(layouts.load(task, tmp_path / task))
            "".join(texts).encode()
            count += any("\ufffd\ufffd" in text for text in texts)
    assert count >= 10


FAULTS = {
    "a key twice": lambda text: re.sub(r'("\w+": )("[^"]*"|\d+)', r"\1\2, \1\2", text, count=1),
    "NaN": lambda text: re.sub(r": (\"[^\"]*\"|\d+)", ": NaN", text, count=1),
    "Infinity": lambda text: re.sub(r": (\"[^\"]*\"|\d+)", ": -Infinity", text, count=1),
    "trailing comma": lambda text: text.replace("}", ",}", 1),
    "cut off": lambda text: text.rstrip()[:-1],
    "a second document": lambda text: text.rstrip() + '{"id": 1}',
    "nested": lambda text: "[" * 100_000,
    "many digits": lambda text: re.sub(r": (\"[^\"]*\"|\d+)", f": {'9' * 5000}", text, count=1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_json_are_named_by_file_and_line(tmp_path: Path, fault: str) -> None:
    for task in JSON:
        for path in each_file(task, tmp_path / task):
            if (
                path.suffix == ".txt"
                or (faulty := FAULTS[fault](path.read_text())) == path.read_text()
            ):
                continue
            path.write_text(faulty)
            assert re.search(
                rf"{re.escape(path.name)}:\d+ ?[:(]", refusal(task, tmp_path / task)
            ), path


FORMS = ("hateful_memes", "pope", "hallusionbench", "mmhal", "naturalbench", "prior_conflict",
         "chair", "vqa", "vqav2", "textvqa", "instruct")  # fmt: skip


@pytest.mark.parametrize("task", FORMS)
def test_rows_may_be_a_list_or_lines_or_pretty(task: str, tmp_path: Path) -> None:
    revision = layouts.load(task, layouts.write(task, tmp_path)).revision
    for name, text in layouts.FILES[task].items():
        rows = json.loads(text) if text[0] == "[" else [json.loads(t) for t in text.splitlines()]
        if len(rows) == 1 and len(keys := [*rows[0]]) == 1:
            rows = rows[0][keys[0]]
        for form in (json.dumps(rows), json.dumps(rows, indent=1), layouts.lines(rows)):
            (tmp_path / name).write_text(form)
            assert layouts.load(task, tmp_path).revision == revision, form[:30]


# --- Rows that cannot be ---------------------------------------------------------------------

ODD: list[Any] = [None, True, 7, 1.5, -1, "", "  ", "007", "\ud83d", "a\u2028b", "../x", "a\nb",
                  "x" * 5000, [], {}, ["a"], [None], [[]], {"a": 1}, [{"answer": None}],
                  [{"role": []}], [{"type": "text"}]]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value within a value of JSON."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], odd)
    return copy


@pytest.mark.parametrize("task", JSON)
def test_values_of_other_types_are_read_or_named(task: str, tmp_path: Path) -> None:
    layouts.write(task, tmp_path)
    draw = random.Random(task)
    for name, text in layouts.FILES[task].items():
        if name.endswith(".txt"):
            continue
        in_lines = text.count("\n") > 1
        content = [json.loads(line) for line in text.splitlines()] if in_lines else json.loads(text)
        cases = [(place, odd) for place in places(content) for odd in ODD]
        for place, odd in draw.sample(cases, 25):
            rows = replaced(content, place, odd)
            in_rows = in_lines and isinstance(rows, list)
            (tmp_path / name).write_text(layouts.lines(rows) if in_rows else json.dumps(rows))
            try:
                "".join(layouts.texts(layouts.load(task, tmp_path))).encode()
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 1500, (name, place, odd)
        (tmp_path / name).write_text(text)


@pytest.mark.usefixtures("own_cache")
def test_check_refuses_what_a_run_refuses(task: str, tmp_path: Path) -> None:
    draw = random.Random(task)
    for path in each_file(task, tmp_path):
        content = path.read_bytes()
        for piece in draw.sample([b'"', b"\n", b"\\", b"{", b",", b"\0", b"a", content[:30]], 2):
            index = draw.randrange(len(content))
            path.write_bytes(content[:index] + piece + content[index + draw.randrange(3) :])
            try:
                layouts.load(task, tmp_path, 0.5)
                is_refused = False
            except UserError:
                is_refused = True
            data_card, _ = report.check(task, tmp_path, {}, 0.5, lambda _: None)
            assert bool(data_card["problems"]) == is_refused, (path, index, piece)


# --- Ids and names ---------------------------------------------------------------------------


def test_ids_that_look_alike_stay_apart_and_equal_ones_are_refused(tmp_path: Path) -> None:
    layouts.write("pope", tmp_path)
    path = tmp_path / "coco/coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ids = ["7", "007", " 7", "7.0"]
    path.write_text(
        layouts.lines([row | {"question_id": id} for row, id in zip(rows, ids, strict=True)])
    )
    items = layouts.load("pope", tmp_path).splits["test"]
    assert [item.id for item in items] == [f"random/{id}" for id in ids]
    path.write_text(
        layouts.lines(
            [row | {"question_id": id} for row, id in zip(rows, [7, "7", 8, 9], strict=True)]
        )
    )
    assert "more than once in test (1): random/7" in refusal("pope", tmp_path)


@pytest.mark.parametrize(
    ("task", "file", "key"),
    [
        ("amber", "data/annotations.json", ""),
        ("vqa", "v2_mscoco_val2014_annotations.json", "annotations"),
        ("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json", "questions"),
        ("textvqa", "TextVQA_0.5.1_val.json", "data"),
        ("hallusionbench", "HallusionBench.json", ""),
    ],
)
def test_a_row_that_occurs_twice_is_refused(tmp_path: Path, task: str, file: str, key: str) -> None:
    layouts.write(task, tmp_path)
    content = json.loads((tmp_path / file).read_text())
    rows = content[key] if key else content
    rows.append(rows[0])
    (tmp_path / file).write_text(json.dumps(content))
    assert re.search(
        r"row 4: .* is that of .*row 1: keep one|more than once", refusal(task, tmp_path)
    )


@pytest.mark.parametrize(
    "name",
    [
        "my%20photo%231.jpg",
        " my photo#1.jpg ",
        "my photo#1.JPG",
        "sub\\my photo#1.jpg",
        "sub/my photo#1.jpg",
    ],
)
@pytest.mark.parametrize("task", ["hateful_memes", "pope", "prior_conflict", "instruct", "chair"])
def test_names_of_images_may_be_written_as_other_systems_do(
    tmp_path: Path, task: str, name: str
) -> None:
    layouts.write(task, tmp_path)
    folder = {"hateful_memes": ".", "instruct": "."}.get(task, "images")
    image = tmp_path / folder / ("sub" if "sub" in name else "") / "my photo#1.jpg"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes((tmp_path / layouts.IMAGES.get(task, ["images/a.jpg"])[0]).read_bytes())
    file = next(iter(layouts.FILES[task]))
    key = "img" if task == "hateful_memes" else "image"
    rows = [json.loads(line) for line in layouts.FILES[task][file].splitlines()]
    (tmp_path / file).write_text(layouts.lines([rows[0] | {key: name}, *rows[1:]]))
    corpus = layouts.load(task, tmp_path)
    assert image in [row.image for rows in corpus.splits.values() for row in rows]


def test_accents_may_be_separate_characters(tmp_path: Path) -> None:
    layouts.write("pope", tmp_path)
    (tmp_path / "images/a.jpg").rename(tmp_path / "images/cre\u0300me.jpg")
    path = tmp_path / "coco/coco_pope_random.json"
    path.write_text(path.read_text().replace("a.jpg", "cr\u00e8me.jpg"))
    assert len(layouts.load("pope", tmp_path).splits["test"]) == 4


def test_a_file_whose_name_is_no_text_is_left_out_and_named(tmp_path: Path) -> None:
    layouts.write("mme", tmp_path)
    for suffix in (".jpg", ".txt"):
        copy = os.fsencode(tmp_path / "existence") + b"/\xe8" + suffix.encode()
        Path(os.fsdecode(copy)).write_bytes((tmp_path / f"existence/a{suffix}").read_bytes())
    corpus = layouts.load("mme", tmp_path, max_bad=0.5)
    assert [row.id for row in corpus.skipped] == [f"existence/\ufffd/{n}" for n in (1, 2)]
    assert {row.reason for row in corpus.skipped} == {"the file's name is not UTF-8"}
    (tmp_path / "existence/a.png").write_bytes((tmp_path / "existence/a.jpg").read_bytes())
    assert "has a.jpg and a.png: keep one" in refusal("mme", tmp_path)


def test_numbers_and_single_answers_may_be_text(tmp_path: Path) -> None:
    layouts.write("vqa", tmp_path)
    revision = layouts.load("vqa", tmp_path).revision
    for name, text in layouts.FILES["vqa"].items():
        (tmp_path / name).write_text(re.sub(r'_id": (\d+)', r'_id": "\1"', text))
        assert layouts.load("vqa", tmp_path).revision == revision
    layouts.write("textvqa", tmp_path)
    path = tmp_path / "TextVQA_0.5.1_val.json"
    path.write_text(path.read_text().replace('["red", "red", "red"]', '"red"'))
    assert [item.answers for item in layouts.load("textvqa", tmp_path).splits["test"]] == [
        ("red",)
    ] * 3
