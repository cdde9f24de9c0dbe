"""Generated data sets in the official layouts of the real ones, so one loader reads both.

``truth.jsonl`` beside the official files says what is true of each item; ``world.json`` is part
of every finished folder, and folders appear only when finished.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.files import publish_folder
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks.world.classification import _food, _memes
from steelyard.tasks.world.language import MOST
from steelyard.tasks.world.questions import SCENE_SETS
from steelyard.tasks.world.scenes import GRID, NEUTRAL, Scene
from steelyard.tasks.world.source import DataSet, Knobs, Row, Source, write_lines, write_text

GENERATOR = 1
"""Version of the content; raised whenever equal arguments would give other files."""
MARKER = "world.json"
TRUTH = "truth.jsonl"
VALIDATION = 300
"""Items of each development file, in the layouts that have one."""
SMALLEST = 16
"""Fewest training or test items: one for each class of food."""


# --- food101: a title that often names the class, a picture that always shows it ---------------


# --- hateful_memes: the label is picture group XOR phrase group --------------------------------
# A kind and a phrase at the same position of their groups meet only in the "unseen" files. Each
# side alone is exactly at chance in a file whose count is a multiple of four.


# --- mm_imdb: some genres show on the poster, some are told by the plot, some are both ----------


@dataclass(frozen=True, slots=True)
class Genre:
    """Where a genre can be found: kinds on the poster, sentences of the plot, or both."""

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


def _movies(folder: Path, counts: Mapping[str, int], sources: Mapping[str, Source]) -> list[Row]:
    truth = []
    split_ids: dict[str, list[str]] = {}
    (folder / "dataset").mkdir()
    number = 1000
    for name, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        source = sources[split]
        split_ids[name] = []
        for _ in range(counts[split]):
            number += 1
            id_ = f"{number:07d}"
            genres, scene = _film(source)
            outside = [OUTSIDE_GENRE] if source.chance("p_outside") else []
            content = {"title": source.fill("The {noun}"), "genres": [*genres, *outside]}
            content["plot"] = _outlines(source, genres)
            source.picture(scene).save(
                folder / "dataset" / f"{id_}.jpeg", quality=95, subsampling=0
            )
            write_text(folder / "dataset" / f"{id_}.json", json.dumps(content))
            split_ids[name].append(id_)
            sides = {
                "shown": [genre for genre in genres if GENRES[genre].kinds],
                "told": [genre for genre in genres if GENRES[genre].sentences],
            }
            item = {"id": id_, "split": name, "scene": scene.symbol, "genres": genres}
            truth.append(item | sides)
    write_text(folder / "split.json", json.dumps(split_ids))
    return truth


def _film(source: Source) -> tuple[list[str], Scene]:
    """One to three genres and a poster that shows those that can be shown."""
    genres = source.shuffled(tuple(GENRES))[: source.rng.integers(1, 4)]
    kinds = [source.pick(GENRES[genre].kinds) for genre in genres if GENRES[genre].kinds]
    return genres, source.scene(kinds or [source.pick(NEUTRAL)])


def _outlines(source: Source, genres: Sequence[str]) -> list[str]:
    """One to three outlines in any order; only the longest tells all that the plot can tell."""
    told = [source.pick(GENRES[genre].sentences) for genre in genres if GENRES[genre].sentences]
    parts = [source.fill(source.pick(OPENINGS)), *told]
    longest = " ".join([*parts, source.pick(ENDINGS)])
    short = source.shuffled(parts)[: source.rng.integers(3)]
    return source.shuffled([longest, *short])


# --- writing -----------------------------------------------------------------------------------


SETS: Mapping[str, DataSet] = {
    "food101": DataSet({"p_color": 0.95, "p_cooc": 0.95, "p_named": 0.75}, _food),
    "hateful_memes": DataSet({"p_color": 0.95, "p_cooc": 0.85}, _memes),
    "mm_imdb": DataSet({"p_color": 0.95, "p_cooc": 0.9, "p_outside": 0.03}, _movies),
    **SCENE_SETS,
}
"""The data sets by the names of their tasks."""


def write(
    task: str,
    root: Path,
    *,
    train: int = 2800,
    test: int = 500,
    seed: int = 0,
    size: int = 48,
    grid: int = GRID,
    objects: int = MOST,
    **knobs: float,
) -> None:
    """Write a generated data set into the new folder ``root``; done already is left alone.

    ``train`` and ``test`` count items, ``size`` is the picture's side in pixels, ``knobs`` replace
    defaults of ``SETS[task].knobs``. Scenes of the question sets have ``grid`` x ``grid`` cells
    and at most ``objects`` objects. ``root`` appears in one step when all is written. Raises
    UserError for a wrong argument, a foreign folder at ``root`` or a full disk.
    """
    _publish(root, _describe(task, train, test, seed, size, grid, objects, knobs))


def ensure(
    task: str,
    cache: Path,
    *,
    train: int = 2800,
    test: int = 500,
    seed: int = 0,
    size: int = 48,
    grid: int = GRID,
    objects: int = MOST,
    **knobs: float,
) -> Path:
    """Folder of the generated data set below ``cache``, written if absent; as ``write``."""
    content = _describe(task, train, test, seed, size, grid, objects, knobs)
    text = json.dumps(content, sort_keys=True)
    root = cache / f"{task}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    _publish(root, content)
    return root


def _describe(
    task: str,
    train: int,
    test: int,
    seed: int,
    size: int,
    grid: int,
    objects: int,
    knobs: Knobs,
) -> Row:
    """All that decides the content of a generated data set, checked."""
    if task not in SETS:
        raise unknown("generated data set", task, SETS)
    if min(train, test) < SMALLEST:
        raise UserError(f"train={train}, test={test}: both must be at least {SMALLEST}.")
    if not 24 <= size <= 512:
        raise UserError(f"size={size}: allowed are 24 to 512 pixels.")
    if task not in SCENE_SETS and (grid, objects) != (GRID, MOST):
        raise UserError(f"grid={grid}, objects={objects}: {task} has {GRID} x {GRID} cells.")
    if not 2 <= grid <= 4 or not 2 <= objects <= grid**2:
        raise UserError(f"grid={grid}, objects={objects}: 2 to 4 cells a side, 2 objects or more.")
    for knob, value in knobs.items():
        if knob not in SETS[task].knobs:
            raise unknown(f"knob of {task}", knob, SETS[task].knobs)
        if not 0 <= value <= 1:
            raise UserError(f"{knob}={value}: a probability from 0 to 1 is needed.")
    arguments = {"task": task, "train": train, "test": test, "seed": seed, "size": size}
    scene = {"grid": grid, "objects": objects}
    return {"generator": GENERATOR, **arguments, **scene, "knobs": {**SETS[task].knobs, **knobs}}


def _publish(root: Path, content: Row) -> None:
    """Generate beside ``root`` and rename, unless the same content is there."""
    if _is_finished(root, content):
        return
    if root.exists():
        raise UserError(
            f"{root} exists and is not this generated data set; delete it or choose another folder."
        )
    with publish_folder(root, lambda: _is_finished(root, content)) as folder:
        folder.mkdir()
        _generate(folder, content)


def _is_finished(root: Path, content: Row) -> bool:
    marker = root / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == _marker_text(content)


def _marker_text(content: Row) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _generate(folder: Path, content: Row) -> None:
    counts = {"train": content["train"], "val": VALIDATION, "test": content["test"]}
    sources = {}
    for split in counts:
        rng = np.random.default_rng(seed_for(content["seed"], content["task"], split))
        grid, most = content["grid"], content["objects"]
        sources[split] = Source(split, content["size"], content["knobs"], rng, grid, most)
    truth = SETS[content["task"]].build(folder, counts, sources)
    write_lines(folder / TRUTH, truth)
    write_text(folder / MARKER, _marker_text(content))
