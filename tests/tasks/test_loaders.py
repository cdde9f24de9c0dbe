"""Loaders: layouts met in the wild and bad inputs, on tiny images made here."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from paths import SHARED
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example
from steelyard.tasks import food101, hateful_memes, mm_imdb

REAL_FOOD = SHARED / "food101_mini"
DISHES = ("apple_pie", "ramen", "sushi")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), "red").save(path)


def sizes(corpus: Corpus) -> dict[str, int]:
    return {split: len(rows) for split, rows in corpus.splits.items()}


def ids(corpus: Corpus, split: str) -> list[str]:
    return [example.id for example in corpus.splits[split]]


# --- Food-101 --------------------------------------------------------------------------------


def food_rows(per_class: int, title: str = "Best {} recipe") -> list[list[str]]:
    # The same file names in every class: only the class tells them apart.
    return [[f"{n}.jpg", title.format(dish), dish] for dish in DISHES for n in range(per_class)]


def write_titles(root: Path, split: str, rows: Sequence[Sequence[str]]) -> None:
    path = root / "texts" / f"{split}_titles.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def food(tmp_path: Path) -> Path:
    for split, count in (("train", 10), ("test", 2)):
        rows = food_rows(count)
        write_titles(tmp_path, split, rows)
        for file, _, dish in rows:
            picture(tmp_path / "images" / split / dish / file)
    return tmp_path


def test_food_without_header(food: Path) -> None:
    corpus = food101.load(food)
    assert corpus.classes == DISHES
    assert not corpus.multi_label
    assert sizes(corpus) == {"train": 27, "val": 3, "test": 6}
    assert corpus.splits["test"][2] == Example(
        "test/ramen/0", food / "images/test/ramen/0.jpg", "Best ramen recipe", (1,)
    )
    assert corpus.notes == {
        "text": "titles",
        "val": "10% of each class of train, by hash of the id",
    }
    assert corpus.skipped == ()


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (["Image_path", "text", "label"], (0, 1, 2)),
        (["class", "title", "file_name"], (2, 1, 0)),
    ],
)
def test_food_with_header_is_the_same_data(
    food: Path, header: list[str], order: tuple[int, int, int]
) -> None:
    plain = food101.load(food)
    for split, count in (("train", 10), ("test", 2)):
        rows = [[row[index] for index in order] for row in food_rows(count)]
        write_titles(food, split, [header, *rows])
    assert food101.load(food).revision == plain.revision


def test_food_unknown_header(food: Path) -> None:
    write_titles(food, "train", [["what", "ever", "label"], *food_rows(10)])
    with pytest.raises(UserError, match=r"train_titles\.csv:1: .*image_path"):
        food101.load(food)


def test_food_short_row_names_its_line(food: Path) -> None:
    rows = food_rows(10)
    rows[4] = rows[4][:2]
    write_titles(food, "train", rows)
    with pytest.raises(UserError, match=r"train_titles\.csv:5 \(malformed: 2 cells, and 3 in"):
        food101.load(food)


def test_food_quoted_title_may_span_lines_and_an_empty_one_is_absent(food: Path) -> None:
    rows = food_rows(2)
    rows[0][1], rows[1][1], rows[2][1] = 'two\nlines, "quoted"', "  ", "not\u2028two rows"
    write_titles(food, "test", rows)
    test = food101.load(food).splits["test"]
    assert [row.text for row in test[:3]] == ['two\nlines, "quoted"', None, "not\u2028two rows"]
    assert len(test) == 6


def test_food_file_column_may_hold_a_path_and_the_file_a_byte_order_mark(food: Path) -> None:
    plain = food101.load(food)
    rows = [[f"images/test/{dish}/{file}", title, dish] for file, title, dish in food_rows(2)]
    rows[0][0] = "0.jpg"
    write_titles(food, "test", rows)
    path = food / "texts/test_titles.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert food101.load(food).revision == plain.revision


def test_food_row_without_class_is_skipped(food: Path) -> None:
    rows = food_rows(2)
    rows[3][2] = ""
    write_titles(food, "test", rows)
    corpus = food101.load(food, max_bad=0.2)
    assert [(row.split, row.reason) for row in corpus.skipped] == [("test", "no class")]
    assert len(corpus.splits["test"]) == 5


def test_food_images_without_a_row_are_listed(food: Path) -> None:
    picture(food / "images/test/ramen/more.jpg")
    with pytest.raises(UserError, match=r"1 of 7 rows of test .*test/ramen/more \(no row in test_"):
        food101.load(food)
    corpus = food101.load(food, max_bad=0.2)
    assert [row.id for row in corpus.skipped] == ["test/ramen/more"]
    assert len(corpus.splits["test"]) == 6


def test_food_rows_without_an_image_are_listed(food: Path) -> None:
    (food / "images/test/sushi/1.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 6 .*image missing: images/test/sushi/1\.jpg"):
        food101.load(food)
    assert len(food101.load(food, max_bad=0.2).splits["test"]) == 5


def test_food_class_unknown_in_train(food: Path) -> None:
    write_titles(food, "test", [*food_rows(2), ["0.jpg", "Tacos", "tacos"]])
    with pytest.raises(UserError, match=r"are not in train: tacos"):
        food101.load(food)


def test_food_not_utf8(food: Path) -> None:
    path = food / "texts/test_titles.csv"
    path.write_bytes(b"0.jpg,cr\xe8me,ramen\n")
    with pytest.raises(UserError, match=r"test_titles\.csv:1: byte 0xe8 is not UTF-8"):
        food101.load(food)


def test_food_pages(food: Path) -> None:
    for split in ("train", "test"):
        for image in (food / "images" / split).glob("*/*.jpg"):
            page = food / "texts_txt" / image.parent.name / f"{image.stem}.txt"
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_bytes(b"All about \xff" + image.parent.name.encode())
    (food / "texts_txt/sushi/9.txt").unlink()
    (food / "texts_txt/apple_pie/1.txt").write_text("\n", encoding="utf-8")
    (food / "texts/train_titles.csv").unlink()
    corpus = food101.load(food, max_bad=0.1, text="pages")
    assert [row.text for row in corpus.splits["test"][:2]] == ["All about \ufffdapple_pie", None]
    assert [(row.id, row.reason) for row in corpus.skipped] == [("train/sushi/9", "no page text")]
    assert corpus.notes["text"] == "pages"


def test_food_pages_without_their_folder(food: Path) -> None:
    with pytest.raises(UserError, match="texts_txt"):
        food101.load(food, text="pages")


def test_food_unknown_option_value(food: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'titles'"):
        food101.load(food, text="title")


@pytest.mark.real
def test_food_real_subset() -> None:
    if not REAL_FOOD.is_dir():
        pytest.skip("no shared/data/food101_mini beside the repository")
    corpus = food101.load(REAL_FOOD)
    assert len(corpus.classes) == 10
    assert sizes(corpus) == {"train": 720, "val": 80, "test": 200}
    assert set(Counter(row.labels for row in corpus.splits["val"]).values()) == {8}
    assert corpus.skipped == ()


# --- MM-IMDb ---------------------------------------------------------------------------------

FILMS: dict[str, tuple[str, list[str], list[str] | None]] = {
    "0000001": ("train", ["Comedy", "Drama", "News"], ["short", "the longest plot", "middling"]),
    "0000002": ("train", ["Western"], ["only"]),
    "0000003": ("dev", ["Drama"], []),
    "0000004": ("test", ["Horror", "Drama"], [" ", "first of two", "second"]),
    "0000005": ("test", ["Adult"], None),
}


def write_films(root: Path, annotations: str, images: str) -> Path:
    split: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for id, (name, genres, plots) in FILMS.items():
        split[name].append(id)
        content = {"genres": genres, "title": id} | ({} if plots is None else {"plot": plots})
        path = root / annotations / f"{id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        picture(root / images / f"{id}.jpeg")
    (root / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return root


@pytest.fixture
def films(tmp_path: Path) -> Path:
    return write_films(tmp_path, "dataset", "dataset")


def test_films(films: Path) -> None:
    corpus = mm_imdb.load(films)
    # Frequency order, only what train has; Horror is in test alone.
    assert corpus.classes == ("Drama", "Comedy", "Western")
    assert corpus.multi_label
    assert corpus.splits["train"][0] == Example(
        "0000001", films / "dataset/0000001.jpeg", "the longest plot", (0, 1)
    )
    assert corpus.splits["val"][0].text is None
    assert [row.labels for row in corpus.splits["test"]] == [(0,), ()]
    assert corpus.notes == {"plot": "longest", "genres ignored": "Adult (1), Horror (1), News (1)"}


@pytest.mark.parametrize(
    ("annotations", "images"), [("labels", "images"), ("annotations", "images"), (".", ".")]
)
def test_films_layouts_are_the_same_data(
    tmp_path: Path, films: Path, annotations: str, images: str
) -> None:
    second = write_films(tmp_path / "other", annotations, images)
    assert mm_imdb.load(second).revision == mm_imdb.load(films).revision


def test_films_first_plot(films: Path) -> None:
    assert mm_imdb.load(films, plot="first").splits["train"][0].text == "short"


def test_films_without_a_plot_have_their_outline(films: Path) -> None:
    content = {"genres": ["Drama"], "plot": [], "plot outline": "What there is."}
    (films / "dataset/0000003.json").write_text(json.dumps(content), encoding="utf-8")
    assert mm_imdb.load(films).splits["val"][0].text == "What there is."


def test_films_posters_of_other_formats(films: Path) -> None:
    (films / "dataset/0000003.jpeg").rename(films / "dataset/0000003.jpg")
    assert mm_imdb.load(films).splits["val"][0].image == films / "dataset/0000003.jpg"


def test_films_all_plots(films: Path) -> None:
    corpus = mm_imdb.load(films, plot="all")
    assert ids(corpus, "train") == ["0000001#0", "0000001#1", "0000001#2", "0000002#0"]
    assert [(row.id, row.text) for row in corpus.splits["test"]] == [
        ("0000004#0", "first of two"),
        ("0000004#1", "second"),
        ("0000005#0", None),
    ]


def test_films_unknown_plot(films: Path) -> None:
    with pytest.raises(UserError, match="Known: all, first, longest"):
        mm_imdb.load(films, plot="shortest")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object, found list"),
        ({"train": [], "dev": []}, "'test' must be a list of film ids"),
        ({"train": [1], "dev": [1]}, "'train' must be a list of film ids"),
    ],
)
def test_films_bad_split_file(films: Path, content: object, message: str) -> None:
    (films / "split.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=rf"split\.json: {message}"):
        mm_imdb.load(films)


def test_films_without_annotation_or_genres_are_skipped(films: Path) -> None:
    (films / "dataset/0000002.json").unlink()
    (films / "dataset/0000004.json").write_text('{"genres": []}', encoding="utf-8")
    corpus = mm_imdb.load(films, max_bad=0.5)
    assert [(row.id, row.split) for row in corpus.skipped] == [
        ("0000002", "train"),
        ("0000004", "test"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"genres": "Drama"}', "'genres' must be a list"),
        ('{"genres": ["Drama"], "plot": [1]}', "'plot' must be a list"),
        ("[]", "expected an object"),
        ('{\n"genres": \n', ":3: not valid JSON"),
    ],
)
def test_films_bad_annotation(films: Path, content: str, message: str) -> None:
    (films / "dataset/0000002.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"0000002\.json.*{message}"):
        mm_imdb.load(films)


# --- All three ---------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [food101.load, hateful_memes.load, mm_imdb.load])
def test_missing_root(tmp_path: Path, load: Callable[[Path], Corpus]) -> None:
    with pytest.raises(UserError, match=r"No data folder at .*absent"):
        load(tmp_path / "absent")


@pytest.mark.parametrize("load", [food101.load, hateful_memes.load, mm_imdb.load])
def test_empty_root(tmp_path: Path, load: Callable[[Path], Corpus]) -> None:
    with pytest.raises(UserError, match=r"No (texts/train_titles|train|split)\.\w+ in "):
        load(tmp_path)
