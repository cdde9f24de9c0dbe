"""Run every question and classification task: clean and with either modality corrupted.

The oracle knows the right answer to every prompt with its picture, and nothing else: where either
is changed by so much as a pixel or a letter, it has no answer.
"""

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import SHARED

from steelyard import tasks
from steelyard.harness.core.examples import Corpus, Inputs
from steelyard.harness.data.images import open_image
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.evaluation.scores import Evaluation
from steelyard.harness.models.backbone import Recipe
from steelyard.tasks.world.build import WorldSpec, ensure

QUESTIONS = ("vqav2", "gqa", "textvqa", "scienceqa", "mme", "naturalbench")
TEST = 64


class Oracle:
    """Answers from a table of prompts and pictures."""

    classes: tuple[str, ...] = ()
    name = "oracle"
    recipe = Recipe()

    def __init__(self, corpus: Corpus) -> None:
        self.known: dict[tuple[str, bytes], str] = {}
        pixels = cache(lambda path: open_image(path).tobytes() if path else b"")
        for example in corpus.splits["test"]:
            doc: Any = tasks.document(corpus, "test", example, example.text)
            key = tasks.prompt(corpus.name, doc), pixels(example.image)
            self.known[key] = tasks.target(corpus.name, doc)

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        pixel_bytes = [item.image.tobytes() if item.image else b"" for item in inputs]
        pairs = zip(inputs, pixel_bytes, strict=True)
        return [self.known.get((item.prompt, pixels), "?") for item, pixels in pairs]

    def count_tokens(self, text: str) -> int:
        return 1


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, short_validation: None) -> Path:
    return tmp_path_factory.mktemp("questions")


def root_of(task: str, worlds: Path) -> Path:
    return ensure(WorldSpec(task, train=96, test=TEST, seed=5), worlds)


def generated(task: str, worlds: Path) -> Corpus:
    return tasks.load(task, root_of(task, worlds))


def run(model: Any, corpus: Corpus, corruption: str = "", **options: Any) -> Evaluation:
    return evaluate(model, tasks.parse_variant(corpus.name + corruption), corpus, **options)


def values(evaluation: Evaluation) -> dict[str, float]:
    return {f"{score.subset}.{score.metric}".strip("."): score.value for score in evaluation.scores}


BEST = {
    "vqav2": {"accuracy": 1, "yes/no.accuracy": 1, "number.accuracy": 1, "other.accuracy": 1},
    "gqa": {"accuracy": 1, "verify.accuracy": 1, "object_accuracy": 1, "global_accuracy": 1},
    "textvqa": {"accuracy": 1},
    "scienceqa": {"accuracy": 1, "image.accuracy": 1, "text_only.accuracy": 1, "unparsed": 0},
    # Six of the ten categories of perception and two of the four of cognition are generated.
    "mme": {"score": 1, "perception": 1200, "cognition": 400, "accuracy_plus": 1, "yes_rate": 0.5},
    "naturalbench": {"group_accuracy": 1, "question_accuracy": 1, "image_accuracy": 1},
}


@pytest.mark.parametrize("task", QUESTIONS)
def test_the_oracle_is_right_until_a_side_is_damaged(task: str, worlds: Path) -> None:
    corpus = generated(task, worlds)
    oracle, main = Oracle(corpus), tasks.info(task).main
    clean = run(oracle, corpus)
    scores = values(clean)
    assert {name: scores[name] for name in BEST[task]} == pytest.approx(BEST[task])
    assert len(clean.items) == TEST == clean.scores[0].n
    assert [score.metric for score in clean.scores if score.main] == [main]
    half = 0.5 if task == "scienceqa" else 0  # a question without an image has none to lose
    for corruption in ("@image-noise:3", "@image-blank"):
        assert values(run(oracle, corpus, corruption))[main] == half
    blind = values(run(oracle, corpus, "@text-blank"))
    assert blind[main] == 0
    noisy = values(run(oracle, corpus, "@text-noise:5"))
    assert noisy[main] < 0.9


def test_a_limit_keeps_groups_whole(worlds: Path) -> None:
    corpus = generated("naturalbench", worlds)
    evaluation = run(Oracle(corpus), corpus, limit=18)
    assert len(evaluation.items) == 16
    assert values(evaluation)["group_accuracy"] == 1
    assert set(evaluation.items["cluster"].value_counts()) == {4}


def test_items_hold_what_the_scores_follow_from(worlds: Path) -> None:
    corpus = generated("mme", worlds)
    oracle = Oracle(corpus)
    oracle.known = dict(list(oracle.known.items())[::2])  # every no unknown
    evaluation = run(oracle, corpus)
    items, value = evaluation.items, values(evaluation)
    for metric in tasks.info("mme").metrics:
        share = items[f"{metric}.top"].sum() / items[f"{metric}.bottom"].sum()
        assert share == pytest.approx(value[metric], rel=1e-5)
    assert value["accuracy"] == 0.5 and value["accuracy_plus"] == 0
    assert value["perception"] == pytest.approx(300)


# --- classification in its official forms ----------------------------------------------------


class Reader:
    """Classifier that looks for its classes' words in the text."""

    name = "reader"
    recipe = Recipe()

    def __init__(self, corpus: Corpus, words: Sequence[str]) -> None:
        self.classes = corpus.classes
        self.words = words

    def answer(self, inputs: Sequence[Inputs], choices: Sequence[str]) -> torch.Tensor:
        hits = [[float(w in (item.text or "").lower()) for w in self.words] for item in inputs]
        scores = torch.tensor(hits) + 1e-3
        return scores / scores.sum(1, keepdim=True)


def test_food_from_titles_and_from_pages(worlds: Path, tmp_path: Path) -> None:
    root = shutil.copytree(root_of("food101", worlds), tmp_path / "food101")
    for image in root.glob("images/*/*/*.jpg"):
        page = root / "texts_txt" / image.parent.name / f"{image.stem}.txt"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"All about {image.parent.name}.")
    titles, pages = (tasks.load("food101", root, text=text) for text in ("titles", "pages"))
    assert titles.notes["text"] == "titles" and pages.notes["text"] == "pages"
    accuracy = {
        corpus.notes["text"]: values(run(Reader(corpus, corpus.classes), corpus))["accuracy"]
        for corpus in (titles, pages)
    }
    assert accuracy["pages"] == 1 and 0.5 < accuracy["titles"] < 1  # of titles, a quarter name none
    blank = values(run(Reader(pages, pages.classes), pages, "@text-blank"))["accuracy"]
    assert blank == pytest.approx(1 / len(pages.classes), abs=0.05)
    assert values(run(Reader(pages, pages.classes), pages, "@image-noise:3"))["accuracy"] == 1


@pytest.mark.parametrize("options", [{}, {"test": "unseen"}, {"test": "dev"}])
def test_memes_of_each_test_split(worlds: Path, options: dict[str, str]) -> None:
    corpus = tasks.load("hateful_memes", root_of("hateful_memes", worlds), **options)
    file = {"unseen": "test_unseen.jsonl", "dev": "dev_seen.jsonl"}.get(
        options.get("test", ""), "test_seen.jsonl"
    )
    assert corpus.notes["test"] == file and corpus.notes["phase"] == "2"
    for corruption in ("", "@image-noise:3", "@text-noise:3"):
        evaluation = run(Reader(corpus, ("pure", "dread")), corpus, corruption)
        assert len(evaluation.items) == len(corpus.splits["test"])
        # The label is picture group XOR phrase group, so words alone are at chance.
        assert values(evaluation)["auroc"] == pytest.approx(0.5, abs=0.15)


def test_films_by_each_choice_of_plot(worlds: Path) -> None:
    rows = {}
    for plot in ("longest", "first", "all"):
        corpus = tasks.load("mm_imdb", root_of("mm_imdb", worlds), plot=plot)
        words = [genre.lower() for genre in corpus.classes]
        for corruption in ("", "@image-noise:3", "@text-noise:3"):
            evaluation = run(Reader(corpus, words), corpus, corruption)
            assert set(values(evaluation)) == {"macro_f1", "micro_f1", "weighted_f1", "samples_f1"}
        rows[plot] = len(evaluation.items), evaluation.items["cluster"].nunique()
    assert rows["longest"] == rows["first"] == (TEST, TEST)  # one row a film
    assert rows["all"][0] > TEST and rows["all"][1] == TEST  # one a plot, together by film


# --- real photos -----------------------------------------------------------------------------


@pytest.mark.real
def test_visual_genome_questions() -> None:
    root = SHARED / "vg_vqa_mini"
    if not root.is_dir():
        pytest.skip("no shared/data/vg_vqa_mini beside the repository")
    corpus = tasks.load("vqa", root, scoring="exact")
    assert sum(map(len, corpus.splits.values())) == 7967
    oracle = Oracle(corpus)
    # Some questions are asked twice about a photo and have two answers.
    assert values(run(oracle, corpus, limit=60))["accuracy"] > 0.8
    assert values(run(oracle, corpus, "@image-noise:3", limit=60))["accuracy"] == 0
    assert values(run(oracle, corpus, "@text-noise:3", limit=60))["accuracy"] < 0.5


@pytest.mark.real
def test_food_photos_and_titles() -> None:
    root = SHARED / "food101_mini"
    if not root.is_dir():
        pytest.skip("no shared/data/food101_mini beside the repository")
    corpus = tasks.load("food101", root)
    words = [name.replace("_", " ") for name in corpus.classes]
    accuracy = {
        corruption: values(run(Reader(corpus, words), corpus, corruption, limit=100))["accuracy"]
        for corruption in ("", "@image-noise:3", "@text-noise:3", "@text-blank")
    }
    # About two thirds of the titles name their class.
    assert accuracy[""] == accuracy["@image-noise:3"] > 0.5
    assert accuracy["@text-blank"] < accuracy["@text-noise:3"] < accuracy[""]
