"""classification."""

import csv
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from PIL import Image

from steelyard.tasks.world.scenes import FOODS, KINDS
from steelyard.tasks.world.source import Row, Source, write_lines

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


def _food(folder: Path, counts: Mapping[str, int], sources: Mapping[str, Source]) -> list[Row]:
    truth = []
    (folder / "texts").mkdir()
    for split in ("train", "test"):
        source, titles = sources[split], []
        for number in range(counts[split]):
            food = FOODS[number % len(FOODS)]
            named = source.chance("p_named")
            title = source.fill(source.pick(NAMING_TITLES if named else SILENT_TITLES), food=food)
            scene = source.scene([food])
            name = f"{food}_{number // len(FOODS)}"
            path = folder / "images" / split / food / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            source.picture(scene).save(path, quality=95, subsampling=0)
            titles.append((path.name, title, food))
            item = {"id": f"{split}/{food}/{name}", "split": split, "scene": scene.symbol}
            truth.append({**item, "class": food, "named": named})
        table = folder / "texts" / f"{split}_titles.csv"
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(titles)
    return truth


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


def _memes(folder: Path, counts: Mapping[str, int], sources: Mapping[str, Source]) -> list[Row]:
    truth = []
    (folder / "img").mkdir()
    first = 1
    for name, (split, unseen) in MEME_FILES.items():
        source, count = sources[split], counts[split]
        # Random ids keep the four memes of a quad from being neighbours in the file.
        ids = (first + source.rng.permutation(count)).tolist()
        quads = chain.from_iterable(_quad(source, unseen) for _ in range(0, count, 4))
        rows = []
        for id_number, (picture, fact) in zip(ids, islice(quads, count), strict=True):
            id_ = f"{id_number:05d}"
            picture.save(folder / "img" / f"{id_}.png")
            official = {"label": fact["label"], "text": fact["text"]}
            rows.append({"id": id_, "img": f"img/{id_}.png", **official})
            truth.append({"id": id_, "split": name, **fact})
        write_lines(folder / f"{name}.jsonl", sorted(rows, key=lambda row: str(row["id"])))
        first += count
    return truth


def _quad(source: Source, unseen: bool) -> Iterator[tuple[Image.Image, Row]]:
    """Two pictures times two texts: each picture and each text has one meme of either label."""
    position = int(source.rng.integers(len(MEME_PHRASES[0])))
    phrases = [group[position] for group in MEME_PHRASES]
    texts = [source.fill("{opener} {phrase}", phrase=phrase) for phrase in phrases]
    for kind_group, kinds in enumerate(MEME_KINDS):
        step = 0 if unseen else int(source.rng.integers(1, len(kinds)))
        scene = source.scene([kinds[(position + step) % len(kinds)]])
        picture = source.picture(scene)
        for phrase_group, (phrase, text) in enumerate(zip(phrases, texts, strict=True)):
            groups = {"kind_group": kind_group, "phrase_group": phrase_group}
            label = kind_group ^ phrase_group
            fact = {"scene": scene.symbol, "phrase": phrase, "text": text, "label": label}
            yield picture, fact | groups
