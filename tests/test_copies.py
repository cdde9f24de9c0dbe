"""Copies of Food-101, Hateful Memes and MM-IMDb written as official trees, whatever labels mean."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steelyard.harness.errors import UserError
from steelyard.tasks import food101, hateful_memes, mm_imdb
from steelyard.tasks._official import CONFIG, SPLIT

Row = dict[str, Any]


def image(number: int, path: str | None = None) -> Row:
    """A picture as parquet files of a hub hold it."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": path}


def rows_of(split: str, *rows: Row) -> list[Row]:
    return [{CONFIG: "default", SPLIT: split, **row} for row in rows]


# --- Food-101 --------------------------------------------------------------------------------


def dishes(split: str, named: bool = True) -> list[Row]:
    return rows_of(
        split,
        *(
            {
                "image": image(n, f"{dish}_{n}.jpg" if named else None),
                "title": f'The "best",\n{dish} {n}',
                "label": dish.replace("_", " "),
            }
            for dish in ("apple_pie", "ramen")
            for n in range(4)
        ),
    )


@pytest.mark.parametrize("named", [True, False])
def test_food(tmp_path: Path, named: bool) -> None:
    rows = [*dishes("train", named), *dishes("test", named)]
    food101.write_official(iter(rows), tmp_path)
    corpus = food101.load(tmp_path)
    assert corpus.classes == ("apple_pie", "ramen")
    assert corpus.skipped == ()
    assert len(corpus.splits["test"]) == 8
    first = corpus.splits["test"][0]
    assert first.text == 'The "best", apple_pie 0'
    assert first.image is not None and first.image.parent == tmp_path / "images/test/apple_pie"
    assert (first.image.name == "apple_pie_0.jpg") and first.labels == (0,)


def test_food_equal_names_do_not_hide_an_image(tmp_path: Path) -> None:
    rows = [{**row, "image": image(n, "0.jpg")} for n, row in enumerate(dishes("train"))]
    food101.write_official(iter([*rows, *dishes("test")]), tmp_path)
    corpus = food101.load(tmp_path)
    shown = [row.image for split in ("train", "val") for row in corpus.splits[split]]
    reds = {Image.open(path).convert("RGB").getpixel((0, 0)) for path in shown if path}
    assert len(reds) == len(rows) == len(set(shown))


@pytest.mark.parametrize("label", [3, "3", "", None])
def test_food_needs_names_of_classes(tmp_path: Path, label: Any) -> None:
    rows = [{**row, "label": label} for row in dishes("train")]
    with pytest.raises(UserError, match=r"labels a class .*: its name is needed"):
        food101.write_official(iter(rows), tmp_path)


# --- Hateful Memes ---------------------------------------------------------------------------


def memes(split: str, labels: list[Any], first: int = 1) -> list[Row]:
    return rows_of(
        split,
        *(
            {"id": first + n, "image": image(n), "text": f"words {n}", "label": label}
            for n, label in enumerate(labels)
        ),
    )


@pytest.mark.parametrize(
    "labels", [[0, 1], ["0", "1"], [0.0, 1.0], [False, True], ["not-hateful", "Hateful"]]
)
def test_memes_whatever_their_labels_are(tmp_path: Path, labels: list[Any]) -> None:
    rows = [
        *memes("train", labels * 3),
        *memes("validation", labels, first=11),
        *memes("test", [None, -1], first=21),
    ]
    hateful_memes.write_official(iter(rows), tmp_path)
    corpus = hateful_memes.load(tmp_path, test="dev")
    assert [row.labels for row in corpus.splits["test"]] == [(0,), (1,)]
    assert corpus.splits["test"][0].image == tmp_path / "img" / "00011.png"
    assert corpus.notes["phase"] == "1"
    with pytest.raises(UserError, match=r"2 of 2 rows of test\.jsonl have no label .* test=dev"):
        hateful_memes.load(tmp_path)


def test_memes_of_the_second_phase_keep_their_names(tmp_path: Path) -> None:
    rows: list[Row] = []
    for number, split in enumerate(("train", "dev_seen", "test_seen", "test_unseen")):
        found = memes(split, [0, 1], first=10 * number)
        rows += [
            {**row, "id": f"{row['id']:05}", "img": f"img/{row['id']:05}.png"} for row in found
        ]
    hateful_memes.write_official(iter(rows), tmp_path)
    corpus = hateful_memes.load(tmp_path)
    assert corpus.notes["test"] == "test_seen.jsonl" and corpus.notes["phase"] == "2"
    assert [row.id for row in corpus.splits["test_unseen"]] == ["00030", "00031"]


def test_memes_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label 'maybe', which means neither hateful nor not"):
        hateful_memes.write_official(iter(memes("train", ["maybe"])), tmp_path)
    with pytest.raises(UserError, match="a split 'extra', which Hateful Memes does not have"):
        hateful_memes.write_official(iter(memes("extra", [0])), tmp_path)
    pathless = rows_of("train", {"id": 1, "img": "img/00001.png", "label": 0, "text": "words"})
    with pytest.raises(UserError, match=r"no bytes of the picture img/00001\.png"):
        hateful_memes.write_official(iter(pathless), tmp_path / "pathless")


# --- MM-IMDb ---------------------------------------------------------------------------------

HOT = [int(genre in ("Drama", "Comedy")) for genre in mm_imdb.GENRES]


@pytest.mark.parametrize("genres", [["Drama", "Comedy"], "Drama, Comedy", HOT])
def test_films_whatever_their_genres_are(tmp_path: Path, genres: Any) -> None:
    rows: list[Row] = []
    for number, split in enumerate(("train", "validation", "test")):
        film = {"id": 106714 + number, "image": image(number), "genres": genres}
        rows += rows_of(split, {**film, "plot": ["Short.", "The longest plot."]})
    mm_imdb.write_official(iter(rows), tmp_path)
    corpus = mm_imdb.load(tmp_path)
    assert corpus.classes == ("Drama", "Comedy")
    (film,) = corpus.splits["test"]
    assert (film.id, film.text, film.labels) == ("0106716", "The longest plot.", (0, 1))
    assert mm_imdb.load(tmp_path, plot="first").splits["test"][0].text == "Short."


def test_films_without_ids_are_numbered_and_a_plot_may_be_one_text(tmp_path: Path) -> None:
    film = {"image": image(0), "genres": ["War"], "plot": "All of it."}
    rows = [row for split in ("train", "dev", "test") for row in rows_of(split, film)]
    mm_imdb.write_official(iter(rows), tmp_path)
    (film_,) = mm_imdb.load(tmp_path).splits["test"]
    assert (film_.id, film_.text) == ("0000003", "All of it.")


@pytest.mark.parametrize("genres", [[0, 1, 1], [2] * 23])
def test_films_of_other_numbers_are_refused(tmp_path: Path, genres: Any) -> None:
    film = {"image": image(0), "genres": genres, "plot": ""}
    with pytest.raises(UserError, match="expected names, or 23 numbers 0 and 1"):
        mm_imdb.write_official(iter(rows_of("train", film)), tmp_path)
