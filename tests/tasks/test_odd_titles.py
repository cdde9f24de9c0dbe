"""Tables of Food-101's titles as they are published and as users change them."""

from pathlib import Path

import layouts
import pytest

from steelyard import tasks
from steelyard.harness.core.errors import UserError


def food(root: Path, count: int = 60) -> tuple[Path, list[str]]:
    """Write the layout, and return the titles of train and its rows without their line ends."""
    layouts.write("food101", root)
    for name in ("pie", "soup"):
        image = root / f"images/train/{name}/{name}_0.jpg"
        for number in range(count):
            (image.parent / f"{name}_{number}.jpg").write_bytes(image.read_bytes())
    path, text = root / "texts/train_titles.csv", layouts.titles("train", count)
    path.write_text(text)
    return path, text.splitlines()


def loaded(root: Path) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return the titles of train and val by id, and the reasons of skipped rows."""
    corpus = tasks.load("food101", root)
    rows = [*corpus.splits["train"], *corpus.splits["val"]]
    return {row.id: row.text for row in rows}, {row.id: row.reason for row in corpus.skipped}


OPEN = "malformed: a quotation mark is left open"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        # The mark closes at none, at a quotation within a title, at one around a word, at an inch.
        ({40: 'pie_40.jpg,"Best pie,pie'}, 41),
        ({40: 'pie_40.jpg,"Best pie,pie', 44: 'pie_44.jpg,My "quick" pie,pie'}, 41),
        ({40: 'pie_40.jpg,"Best pie,pie', 43: 'pie_43.jpg,"Quick" pie,pie'}, 41),
        ({40: 'pie_40.jpg,"Best pie,pie', 41: 'pie_41.jpg,pan of 5",pie'}, 41),
        ({40: 'pie_40.jpg,"Best pie,pie', 42: 'pie_42.jpg,"Sweet, sour",pie'}, 41),
        ({119: 'soup_59.jpg,"Best soup,soup'}, 120),
        ({0: 'pie_0.jpg,"Best pie,pie'}, 1),
    ],
)
def test_an_open_quotation_mark_costs_its_own_row(
    tmp_path: Path, changes: dict[int, str], line: int
) -> None:
    path, rows = food(tmp_path)
    path.write_text("\n".join(changes.get(n, row) for n, row in enumerate(rows)) + "\n")
    titles, skipped = loaded(tmp_path)
    assert skipped == {f"texts/train_titles.csv:{line}": OPEN}
    assert len(titles) == 119 and not any("\n" in (title or "") for title in titles.values())
    for number in set(changes) - {line - 1}:
        assert titles[f"train/pie/pie_{number}"] in (
            'My "quick" pie',
            "Quick pie",
            'pan of 5"',
            "Sweet, sour",
        )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("pie_40.jpg,Pie, with cream,pie", "malformed: 4 cells, and 3 in other rows"),
        ("pie_40.jpg,pie", "malformed: 2 cells, and 3 in other rows"),
        ("pie_40.jpg,Best pie,", "no class"),
    ],
)
def test_a_row_that_cannot_be_read_is_counted_once(tmp_path: Path, row: str, reason: str) -> None:
    path, rows = food(tmp_path)
    path.write_text("\n".join([*rows[:40], row, *rows[41:]]))
    titles, skipped = loaded(tmp_path)
    assert skipped == {"texts/train_titles.csv:41": reason} and len(titles) == 119


def test_pages_name_their_photos_and_cells_may_span_lines(tmp_path: Path) -> None:
    path, rows = food(tmp_path)
    titles, _ = loaded(tmp_path)
    pages = [row.replace(".jpg,", ".txt,") if n % 3 else row for n, row in enumerate(rows)]
    path.write_text("\n".join(pages))
    assert loaded(tmp_path) == (titles, {})
    rows[5] = 'pie_5.jpg,"two\nlines, ""quoted"", three",pie'
    path.write_text("\n".join(rows))
    titles, skipped = loaded(tmp_path)
    assert titles["train/pie/pie_5"] == 'two\nlines, "quoted", three' and not skipped


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train_titles\.csv: no usable row"),
        ("image_path,text,label\n", r"train_titles\.csv: no usable row"),
        ("image_path;text;label\npie_0.jpg;Pie;pie\n", r"csv:1: cells are separated by ';'"),
        ("pie_0.jpg\tPie\tpie\n", r"csv:1: cells are separated by '\\t'"),
        (
            "image,text,text,label\npie_0.jpg,Pie,Soup,pie\n",
            r"csv:1: the header has two columns 'text'",
        ),
        (
            "soup_0.jpg,Soup,soup\npie_0.jpg,Pie,pie\npie_0.jpg,Other,pie\n",
            r"more than once in \w+ \(1\): train/pie/pie_0",
        ),
        (
            "soup_0.jpg,Soup,soup\npie_0.jpg,Pie,pie\npie_0.txt,Other,pie\n",
            r"more than once in \w+ \(1\): train/pie/pie_0",
        ),
    ],
)
def test_tables_that_are_no_table(tmp_path: Path, text: str, message: str) -> None:
    path, _ = food(tmp_path, 1)
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        tasks.load("food101", tmp_path, max_bad=0.9)


def test_a_title_of_a_million_characters_is_read(tmp_path: Path) -> None:
    path, rows = food(tmp_path, 4)
    rows[1] = f"pie_1.jpg,{'x' * 1_000_000},pie"
    path.write_text("\n".join(rows))
    titles, skipped = loaded(tmp_path)
    assert titles["train/pie/pie_1"] == "x" * 1_000_000 and not skipped


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_whose_accents_are_written_in_two_ways_is_refused(
    tmp_path: Path, split: str
) -> None:
    path, rows = food(tmp_path)
    path.write_text("\n".join(rows).replace(",pie", ",cr\xeape") + "\n")
    other = tmp_path / f"texts/{split}_titles.csv"
    other.write_text(other.read_text() + "pie_0.jpg,Thin,cre\u0302pe\n")
    with pytest.raises(UserError, match=r"The class 'cre\u0302pe' is written .*in one way"):
        tasks.load("food101", tmp_path)
