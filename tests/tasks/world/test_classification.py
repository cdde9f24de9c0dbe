"""The generated data sets: official layouts, ground truth, chance levels and safe writing."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.tasks import food101, hateful_memes, mm_imdb
from steelyard.tasks._shared import official
from steelyard.tasks.world import build
from steelyard.tasks.world.build import SETS, WorldSpec, ensure, write
from steelyard.tasks.world.classification import (
    GENRES,
    MEME_FILES,
    MEME_KINDS,
    MEME_PHRASES,
    OUTSIDE_GENRE,
)
from steelyard.tasks.world.scenes import FOODS, KINDS

TRAIN, TEST = 240, 120
SMALL = WorldSpec("food101", train=32, test=32)
WORLD_SPLIT = {
    "dev": "val",
    "dev_seen": "val",
    "dev_unseen": "val",
    "test_seen": "test",
    "test_unseen": "test",
}
"""World split behind each official one that is named otherwise."""


ITEMS_OF_A_SCENE = {
    **dict.fromkeys(("hateful_memes", "vqa", "vqav2", "gqa", "mme", "naturalbench"), 2),
    "instruct": 3,
    "hallusionbench": 4,
    "pope": 6,
    "amber_discriminative": 7,
    "amber": 8,
}
"""Most items about one scene, where that is more than one: two memes a picture, three files of two
questions in POPE, in AMBER a caption and up to seven questions."""
DRAWN_AGAIN = 0.1
"""Share of a set's scenes that may be drawn anew, as few show what some questions ask for."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, short_validation: None) -> dict[str, Path]:
    cache = tmp_path_factory.mktemp("cache")
    return {task: ensure(WorldSpec(task, TRAIN, TEST), cache) for task in SETS}


@pytest.fixture(scope="module")
def other_sets(tmp_path_factory: pytest.TempPathFactory, short_validation: None) -> dict[str, Path]:
    cache = tmp_path_factory.mktemp("other")
    return {task: ensure(WorldSpec(task, TRAIN, TEST, seed=1), cache) for task in SETS}


def truth(root: Path) -> list[dict[str, Any]]:
    lines = (root / build.TRUTH).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# --- all data sets ---------------------------------------------------------------------------


@pytest.mark.parametrize("task", SETS)
def test_same_arguments_same_bytes(task: str, sets: dict[str, Path], tmp_path: Path) -> None:
    write(WorldSpec(task, TRAIN, TEST), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(sets[task])


@pytest.mark.parametrize("task", SETS)
def test_another_seed_makes_other_items(
    task: str, sets: dict[str, Path], other_sets: dict[str, Path]
) -> None:
    assert truth(sets[task]) != truth(other_sets[task])


@pytest.mark.parametrize("task", SETS)
def test_no_scene_is_in_two_splits_whatever_the_seed(
    task: str, sets: dict[str, Path], other_sets: dict[str, Path]
) -> None:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for root in (sets[task], other_sets[task]):
        scenes: defaultdict[str, list[str]] = defaultdict(list)
        for row in truth(root):
            scenes[WORLD_SPLIT.get(row["split"], row["split"])].append(row["scene"])
        assert len(scenes) > 1
        for split, shown in scenes.items():
            most = ITEMS_OF_A_SCENE.get(task, 1)
            assert len(set(shown)) >= (1 - DRAWN_AGAIN) * len(shown) / most
            for scene in shown:
                splits[scene].add(split)
    assert all(len(names) == 1 for names in splits.values())


@pytest.mark.parametrize("task", ["food101", "mm_imdb"])
def test_no_scene_comes_twice(task: str, sets: dict[str, Path]) -> None:
    scenes = Counter(row["scene"] for row in truth(sets[task]))
    assert set(scenes.values()) == {1}


@pytest.mark.parametrize("task", SETS)
def test_marker_states_what_was_made(task: str, sets: dict[str, Path]) -> None:
    marker = json.loads((sets[task] / build.MARKER).read_text(encoding="utf-8"))
    assert marker["task"] == task and marker["seed"] == 0
    assert (marker["train"], marker["test"], marker["size"]) == (TRAIN, TEST, 48)
    assert marker["knobs"] == SETS[task].parameters


# --- food101 ---------------------------------------------------------------------------------


def test_food_is_read_by_the_loader_of_the_real_data(sets: dict[str, Path]) -> None:
    corpus = food101.load(sets["food101"])
    assert corpus.classes == tuple(sorted(FOODS))
    assert len(corpus.splits["train"]) + len(corpus.splits["val"]) == TRAIN
    assert len(corpus.splits["test"]) == TEST
    facts = {row["id"]: row for row in truth(sets["food101"])}
    for example in corpus.splits["test"]:
        assert corpus.classes[example.labels[0]] == facts[example.id]["class"]
    assert not corpus.skipped


def test_food_titles_name_the_class_in_the_stated_share(sets: dict[str, Path]) -> None:
    corpus = food101.load(sets["food101"])
    titles = {row.id: row.text or "" for rows in corpus.splits.values() for row in rows}
    facts = truth(sets["food101"])
    for row in facts:
        named = {food for food in FOODS if food in titles[row["id"]]}
        assert named == ({row["class"]} if row["named"] else set())
    # Four standard errors of 360 items: 4 sqrt(0.75 * 0.25 / 360) = 0.091
    assert np.mean([row["named"] for row in facts]) == pytest.approx(0.75, abs=0.091)


def test_splitting_leaves_the_priors_as_stated(sets: dict[str, Path]) -> None:
    rows = truth(sets["food101"])
    kinds = [(KINDS[row["class"]], row["class"], row["scene"]) for row in rows]
    coloured = [f"{kind.colour} {name}@" in scene for kind, name, scene in kinds]
    placed = [scene.startswith(f"{kind.place}:") for kind, _, scene in kinds]
    # Four standard errors of 360 items: 4 sqrt(0.95 * 0.05 / 360) = 0.046
    assert np.mean(coloured) == pytest.approx(0.95, abs=0.046)
    assert np.mean(placed) == pytest.approx(0.95, abs=0.046)


def test_food_share_is_a_parameter(tmp_path: Path) -> None:
    root = ensure(replace(SMALL, parameters={"p_named": 1.0}), tmp_path)
    assert all(row["named"] for row in truth(root))
    assert root != ensure(SMALL, tmp_path)


def test_food_picture_always_shows_the_class_and_no_other_food(sets: dict[str, Path]) -> None:
    for row in truth(sets["food101"]):
        assert [food for food in FOODS if f" {food}@" in row["scene"]] == [row["class"]]


# --- hateful_memes ---------------------------------------------------------------------------


def memes(root: Path, name: str) -> list[dict[str, Any]]:
    lines = (root / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_memes_are_read_by_the_loader_of_the_real_data(sets: dict[str, Path]) -> None:
    corpus = hateful_memes.load(sets["hateful_memes"])
    sizes = {split: len(rows) for split, rows in corpus.splits.items()}
    assert sizes == {
        "train": TRAIN,
        "val": build.VALIDATION,
        "dev_unseen": build.VALIDATION,
        "test": TEST,
        "test_unseen": TEST,
    }
    assert corpus.splits["train"][0].id == "00001"
    assert not corpus.skipped


@pytest.mark.parametrize("name", MEME_FILES)
def test_each_side_of_a_meme_alone_is_exactly_at_chance(name: str, sets: dict[str, Path]) -> None:
    root = sets["hateful_memes"]
    labels: defaultdict[tuple[str, object], list[int]] = defaultdict(list)
    for row in memes(root, name):
        labels["picture", (root / row["img"]).read_bytes()].append(row["label"])
        labels["text", row["text"]].append(row["label"])
    for row in truth(root):
        if row["split"] == name:
            labels["kind group", row["kind_group"]].append(row["label"])
            labels["phrase group", row["phrase_group"]].append(row["label"])
    assert all(np.mean(values) == 0.5 for values in labels.values())


def test_a_linear_probe_of_both_sides_does_not_solve_the_memes(sets: dict[str, Path]) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    root = sets["hateful_memes"]
    train, test = memes(root, "train"), memes(root, "test_seen")
    words = CountVectorizer().fit([row["text"] for row in train])

    def features(rows: list[dict[str, Any]]) -> Any:
        small = [np.asarray(Image.open(root / row["img"]).resize((6, 6))) for row in rows]
        counts = words.transform([row["text"] for row in rows]).toarray()
        return np.hstack([np.stack(small).reshape(len(rows), -1) / 255.0, counts])

    probe = LogisticRegression(max_iter=500).fit(features(train), [row["label"] for row in train])
    # Four standard errors above chance: 0.5 + 4 sqrt(0.25 / 120) = 0.68.
    assert probe.score(features(test), [row["label"] for row in test]) < 0.68


def test_both_sides_of_a_meme_together_decide_the_label(sets: dict[str, Path]) -> None:
    facts = {row["id"]: row for row in truth(sets["hateful_memes"])}
    for name in MEME_FILES:
        for row in memes(sets["hateful_memes"], name):
            fact = facts[row["id"]]
            kinds = [
                group
                for group, names in enumerate(MEME_KINDS)
                if any(f" {kind}@" in fact["scene"] for kind in names)
            ]
            phrases = [
                group
                for group, names in enumerate(MEME_PHRASES)
                if any(phrase in row["text"] for phrase in names)
            ]
            assert len(kinds) == len(phrases) == 1
            assert row["label"] == (kinds[0] != phrases[0])


def test_unseen_memes_combine_kinds_and_phrases_that_seen_ones_never_do(
    sets: dict[str, Path],
) -> None:
    combos: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in truth(sets["hateful_memes"]):
        kind = next(food for food in FOODS if f" {food}@" in row["scene"])
        combos[row["split"]].add((kind, row["phrase"]))
    seen = combos["train"] | combos["dev_seen"] | combos["test_seen"]
    unseen = combos["dev_unseen"] | combos["test_unseen"]
    assert len(seen) == 8 * 6 and len(unseen) == 8 * 2
    assert not seen & unseen


# --- mm_imdb ---------------------------------------------------------------------------------


def film(root: Path, id_: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "dataset" / f"{id_}.json").read_text("utf-8"))
    return content


def test_movies_are_read_by_the_loader_of_the_real_data(sets: dict[str, Path]) -> None:
    corpus = mm_imdb.load(sets["mm_imdb"])
    assert set(corpus.classes) == set(GENRES) <= set(mm_imdb.GENRES)
    sizes = {split: len(rows) for split, rows in corpus.splits.items()}
    assert sizes == {"train": TRAIN, "val": build.VALIDATION, "test": TEST}
    facts = {row["id"]: row for row in truth(sets["mm_imdb"])}
    for example in corpus.splits["test"]:
        genres = {corpus.classes[label] for label in example.labels}
        assert genres == set(facts[example.id]["genres"])
        assert len(example.id) == 7 and example.id.startswith("0")
    assert not corpus.skipped


def test_movie_genres_are_where_the_truth_says(sets: dict[str, Path]) -> None:
    root = sets["mm_imdb"]
    for row in truth(root):
        longest = max(film(root, row["id"])["plot"], key=len)
        told = {
            genre
            for genre, place in GENRES.items()
            if any(sentence in longest for sentence in place.sentences)
        }
        shown = {
            genre
            for genre, place in GENRES.items()
            if any(f" {kind}@" in row["scene"] for kind in place.kinds)
        }
        assert told == set(row["told"]) and shown == set(row["shown"])
        assert told | shown == set(row["genres"]) and 1 <= len(row["genres"]) <= 3


def test_movies_have_the_irregularities_of_real_files(sets: dict[str, Path]) -> None:
    root = sets["mm_imdb"]
    films = [film(root, row["id"]) for row in truth(root)]
    assert any(OUTSIDE_GENRE in content["genres"] for content in films)
    assert {len(content["plot"]) for content in films} == {1, 2, 3}
    assert any(content["plot"][0] != max(content["plot"], key=len) for content in films)


# --- writing ---------------------------------------------------------------------------------


def test_interrupted_generation_leaves_nothing_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, rows: object) -> None:
        assert (path.parent / "images").is_dir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(official, "write_lines", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure(SMALL, tmp_path)
    assert not any(tmp_path.iterdir())
    root = ensure(SMALL, tmp_path)
    assert len(truth(root)) == 64


def test_finished_set_is_not_written_again(tmp_path: Path) -> None:
    root = ensure(SMALL, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert ensure(SMALL, tmp_path) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_folder_without_the_marker_is_refused(tmp_path: Path) -> None:
    root = ensure(SMALL, tmp_path)
    (root / build.MARKER).unlink()
    with pytest.raises(UserError, match="not this generated data set"):
        ensure(SMALL, tmp_path)


def test_two_writers_of_one_folder_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = official.write_text

    def overtaken(path: Path, text: str) -> None:
        write_text(path, text)
        if path.name == build.MARKER:
            monkeypatch.setattr(official, "write_text", write_text)
            ensure(SMALL, tmp_path)

    monkeypatch.setattr(official, "write_text", overtaken)
    root = ensure(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("food", {}, "Did you mean 'food101'"),
        ("food101", {"train": 8}, "at least 16"),
        ("food101", {"size": 8}, "24 to 512"),
        ("food101", {"grid": 3}, "has 2 x 2 cells"),
        ("pope", {"grid": 5}, "2 to 4 cells"),
        ("pope", {"objects": 7}, "2 objects or more"),
        ("food101", {"parameters": {"p_name": 0.5}}, "Did you mean 'p_named'"),
        ("hateful_memes", {"parameters": {"p_color": 1.5}}, "from 0 to 1"),
    ],
)
def test_wrong_arguments_are_explained(task: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WorldSpec(task, **arguments)


def test_more_scenes_than_the_world_has_are_refused() -> None:
    rng = np.random.default_rng(0)
    source = build.SceneSource("val", 48, 1, {"p_color": 1.0, "p_cooc": 1.0}, rng)
    with pytest.raises(UserError, match="ask for fewer"):
        # Three kinds and eight colours of the cup make 24 * 8 scenes, a tenth of them in val.
        for _ in range(100):
            source.classified_scene(["banana", "fish", "cup"])
