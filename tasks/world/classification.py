"""Writers of generated Food-101, Hateful Memes and MM-IMDb, in the official layouts."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from steelyard.tasks._shared import official
from steelyard.tasks.world.scenes import FOODS, KINDS, NEUTRAL
from steelyard.tasks.world.source import JsonRow, SceneSource, WorldSet

# --- food101: a title that often names the class, a picture that always shows it ---------------

NAMING_TITLES = (
    "{manner} {food} recipe | {site}",
    "How to make {manner} {food}, step by step - {site}",
    "{site}: {food} for {meal}",
    "{food} - a {manner} {meal}",
)
SILENT_TITLES = (
    "{manner} recipe | {site}",
    "How to make a {manner} {meal}, step by step - {site}",
    "{site}: something for {meal}",
    "A {manner} {meal}",
)


def _write_food(folder: Path, sources: Mapping[str, SceneSource]) -> list[JsonRow]:
    truth = []
    for split in ("train", "test"):
        source, titles = sources[split], []
        for number in range(source.count):
            # In turn, so that classes are equally frequent.
            food = FOODS[number % len(FOODS)]
            is_named = source.chance("p_named")
            template = source.pick(NAMING_TITLES if is_named else SILENT_TITLES)
            title = source.fill(template, food=food)
            scene = source.classified_scene([food])
            name = f"{food}_{number // len(FOODS)}"
            source.save(scene, folder / "images" / split / food / f"{name}.jpg")
            titles.append((f"{name}.jpg", title, food))
            item = {"id": f"{split}/{food}/{name}", "split": split, "scene": scene.symbol}
            truth.append({**item, "class": food, "named": is_named})
        official.write_csv(folder / "texts" / f"{split}_titles.csv", titles)
    return truth


# --- hateful_memes: the label is picture group XOR phrase group --------------------------------
# A kind and a phrase at the same position of their groups occur together only in the "unseen"
# files. Each modality alone is exactly at chance in a file whose count is a multiple of four.

MEME_KINDS = tuple(
    tuple(name for name in FOODS if KINDS[name].place == place) for place in ("bakery", "sea")
)
MEME_PHRASES = (
    ("pure joy", "best day", "sweet dreams", "good vibes"),
    ("pure dread", "worst day", "bad dreams", "grim vibes"),
)
MEME_FILES = {
    "train": ("train", False),
    "dev_seen": ("val", False),
    "dev_unseen": ("val", True),
    "test_seen": ("test", False),
    "test_unseen": ("test", True),
}
"""Split of the scenes, and whether the combinations of kind and phrase are the held-out ones."""


def _write_memes(folder: Path, sources: Mapping[str, SceneSource]) -> list[JsonRow]:
    truth = []
    (folder / "img").mkdir()
    first = 1
    for name, (split, unseen) in MEME_FILES.items():
        source, count = sources[split], sources[split].count
        # Random ids, so that the four memes of a quad are not neighbours in the file.
        ids = (first + source.rng.permutation(count)).tolist()
        # Rounded up to complete quads; ``islice`` cuts the last one.
        quads = chain.from_iterable(_quad(source, unseen) for _ in range(0, count, 4))
        rows = []
        for number, (picture, fact) in zip(ids, islice(quads, count), strict=True):
            id_ = f"{number:05d}"
            picture.save(folder / "img" / f"{id_}.png")
            row = {"id": id_, "img": f"img/{id_}.png", "label": fact["label"], "text": fact["text"]}
            rows.append(row)
            truth.append({"id": id_, "split": name, **fact})
        rows.sort(key=lambda row: str(row["id"]))
        official.write_lines(folder / f"{name}.jsonl", rows)
        first += count
    return truth


def _quad(source: SceneSource, unseen: bool) -> Iterator[tuple[Image.Image, JsonRow]]:
    """Make two pictures times two texts: each picture and each text has one meme of each label."""
    position = int(source.rng.integers(len(MEME_PHRASES[0])))
    phrases = [group[position] for group in MEME_PHRASES]
    texts = [source.fill("{opener} {phrase}", phrase=phrase) for phrase in phrases]
    for kind_group, kinds in enumerate(MEME_KINDS):
        # Step 0 is the held-out combination.
        step = 0 if unseen else int(source.rng.integers(1, len(kinds)))
        scene = source.classified_scene([kinds[(position + step) % len(kinds)]])
        picture = source.picture(scene)
        for phrase_group, (phrase, text) in enumerate(zip(phrases, texts, strict=True)):
            groups = {"kind_group": kind_group, "phrase_group": phrase_group}
            # XOR: neither modality alone tells the label.
            label = kind_group ^ phrase_group
            fact = {"scene": scene.symbol, "phrase": phrase, "text": text, "label": label}
            yield picture, fact | groups


# --- mm_imdb: some genres are in the poster, some in the plot, some in both --------------------


class Genre(NamedTuple):
    """Evidence of a genre: kinds of objects on the poster, sentences of the plot, or both."""

    kinds: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


GENRES: Mapping[str, Genre] = {
    "Western": Genre(kinds=("bread", "mushroom")),
    "Animation": Genre(kinds=("doughnut", "muffin")),
    "Horror": Genre(kinds=("grapes", "mussel")),
    "Comedy": Genre(
        kinds=("banana", "pear"),
        sentences=("One silly prank leads to another.", "Everybody laughs at the wrong moment."),
    ),
    "Sci-Fi": Genre(
        kinds=("fish", "crab"),
        sentences=("A robot has arrived from the future.", "A spaceship waits behind the moon."),
    ),
    "Drama": Genre(
        sentences=("A family secret breaks an old trust.", "The illness of a father changes all."),
    ),
    "Romance": Genre(
        sentences=("Two strangers fall in love.", "A kiss comes just before the wedding."),
    ),
    "Crime": Genre(
        sentences=("A detective looks for the stolen money.", "The bank robbery goes wrong."),
    ),
}
OUTSIDE_GENRE = "News"
"""A genre that is not among the 23 official ones, as some real films have."""
OPENINGS = ("The film follows {who} {where}.", "It begins with {who} {where}.")
ENDINGS = ("Nothing will be the same.", "Then morning comes.", "There is little time left.")


def _write_movies(folder: Path, sources: Mapping[str, SceneSource]) -> list[JsonRow]:
    truth = []
    split_ids: dict[str, list[str]] = {}
    number = 1000
    for name, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        source = sources[split]
        split_ids[name] = []
        for _ in range(source.count):
            number += 1
            id_ = f"{number:07d}"
            genres = source.shuffled(tuple(GENRES))[: source.rng.integers(1, 4)]
            # The poster has an object for each genre that has kinds.
            kinds = [source.pick(GENRES[genre].kinds) for genre in genres if GENRES[genre].kinds]
            scene = source.classified_scene(kinds or [source.pick(NEUTRAL)])
            outside = [OUTSIDE_GENRE] if source.chance("p_outside") else []
            content = {"title": source.fill("The {noun}"), "genres": [*genres, *outside]}
            content["plot"] = _outlines(source, genres)
            source.save(scene, folder / "dataset" / f"{id_}.jpeg")
            official.write_json(folder / "dataset" / f"{id_}.json", content)
            split_ids[name].append(id_)
            item = {"id": id_, "split": name, "scene": scene.symbol, "genres": genres}
            in_image = [genre for genre in genres if GENRES[genre].kinds]
            in_text = [genre for genre in genres if GENRES[genre].sentences]
            truth.append({**item, "shown": in_image, "told": in_text})
    official.write_json(folder / "split.json", split_ids)
    return truth


def _outlines(source: SceneSource, genres: Sequence[str]) -> list[str]:
    """Sample one to three outlines in any order; only the longest has all sentences."""
    sentences = [source.pick(GENRES[name].sentences) for name in genres if GENRES[name].sentences]
    parts = [source.fill(source.pick(OPENINGS)), *sentences]
    longest = " ".join([*parts, source.pick(ENDINGS)])
    # Some plots lack a sentence, so that the loader's choice of plot matters.
    short = source.shuffled(parts)[: source.rng.integers(3)]
    return source.shuffled([longest, *short])


CLASSIFICATION_SETS: Mapping[str, WorldSet] = {
    "food101": WorldSet({"p_color": 0.95, "p_cooc": 0.95, "p_named": 0.75}, _write_food),
    "hateful_memes": WorldSet({"p_color": 0.95, "p_cooc": 0.85}, _write_memes),
    "mm_imdb": WorldSet({"p_color": 0.95, "p_cooc": 0.9, "p_outside": 0.03}, _write_movies),
}
