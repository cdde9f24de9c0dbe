"""Tasks of lmms-eval whose items show several images: shown at once, corrupted one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stock_data import Talker, picture, write

from steelyard import tasks
from steelyard.harness.cli.evaluate import EvaluateOptions, score_model
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import classifier
from steelyard.harness.models.classifier_config import ClassifierConfig
from steelyard.harness.records import record
from steelyard.tasks._lmms import stock

YAML = """
task: pairs
dataset_path: nowhere/none
test_split: test
doc_to_visual: !function fns.visual
doc_to_text: "{{question}}\\nAnswer the question using a single word or phrase."
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4, do_sample: false}
process_results: !function fns.score
metric_list:
  - {metric: hit, aggregation: mean, higher_is_better: true}
"""
FUNCTIONS = """
def visual(doc):
    return [doc[key] for key in ("image_1", "image_2") if doc[key] is not None]

def score(doc, results):
    return {"hit": float(results[0] == doc["answer"])}
"""
COUNT = 8
LONE, TWIN = 5, 2
"""The document that shows one image, and the one that shows the same image twice."""


def names(number: int) -> list[str]:
    modalities = {LONE: ["left"], TWIN: ["left", "left"]}.get(number, ["left", "right"])
    return [f"{number} {modality}" for modality in modalities]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the task's files, and its data beside them in ``data``."""
    configs = tmp_path / "own"
    configs.mkdir()
    (configs / "pairs.yaml").write_text(YAML)
    (configs / "fns.py").write_text(FUNCTIONS)
    rows = []
    for number in range(COUNT):
        images = [*map(picture, names(number)), None][:2]
        keys = {"question": f"Is it {number}?", "answer": ("yes", "no")[number % 2]}
        rows.append({"id": str(number), **keys, "image_1": images[0], "image_2": images[1]})
    write(tmp_path / "data", rows)
    monkeypatch.setenv(stock.FOLDERS_VARIABLE, str(configs))
    stock.index.cache_clear()
    yield tmp_path
    stock.index.cache_clear()


def corpus_of(folder: Path) -> Corpus:
    return tasks.load("stock/pairs", folder / "data")


def shown(corpus: Corpus, corruption: str = "", **options: Any) -> list[list[bytes]]:
    """Return the pixels of each document's images, by its number."""
    talker = Talker(lambda item: "yes")
    evaluate(talker, tasks.parse_variant("stock/pairs" + corruption), corpus, **options)
    ordered = sorted(talker.seen, key=lambda item: item.prompt)
    return [[image.tobytes() for image in item.images] for item in ordered]


def test_all_images_are_shown_in_order(folder: Path) -> None:
    corpus = corpus_of(folder)
    assert corpus.at_once == 2
    expected = [[picture(name).tobytes() for name in names(number)] for number in range(COUNT)]
    assert shown(corpus) == expected


def test_images_are_corrupted_independently(folder: Path) -> None:
    corpus = corpus_of(folder)
    clean, noisy = shown(corpus), shown(corpus, "@image-noise:3")
    assert [len(images) for images in noisy] == [len(images) for images in clean]
    assert clean[TWIN][0] == clean[TWIN][1]
    assert len({image for images in noisy for image in images}) == 2 * COUNT - 1
    assert not {i for images in noisy for i in images} & {i for images in clean for i in images}
    assert shown(corpus, "@image-noise:3", batch_size=3) == noisy


def test_a_blank_takes_all_and_a_rate_takes_whole_items(folder: Path) -> None:
    corpus = corpus_of(folder)
    assert shown(corpus, "@image-blank") == [[]] * COUNT
    remaining = shown(corpus, "@image-missing:50")
    assert sum(images == [] for images in remaining) == COUNT // 2
    assert all(
        images in ([], clean) for images, clean in zip(remaining, shown(corpus), strict=True)
    )


def test_a_shuffle_shows_the_images_of_one_other_item(folder: Path) -> None:
    corpus = corpus_of(folder)
    clean = shown(corpus)
    for number, images in enumerate(shown(corpus, "@image-shuffle")):
        assert len(images) == len(clean[number])
        (donor,) = (
            index for index, clean_images in enumerate(clean) if images[0] == clean_images[0]
        )
        assert donor != number
        # As many as the item had: the donor's in their order, its only one twice.
        assert images == (clean[donor] * 2)[: len(images)]


def test_a_model_with_one_place_is_not_asked(folder: Path) -> None:
    talker = Talker(lambda item: "yes", room=1)
    message = "stock/pairs shows 2 images at once, and talker takes 1: leave the task out"
    with pytest.raises(UserError, match=message):
        evaluate(talker, tasks.parse_variant("stock/pairs"), corpus_of(folder))
    assert talker.seen == []


def test_a_classifier_is_not_asked(folder: Path) -> None:
    model = classifier.build("tiny", ClassifierConfig(), ("yes", "no"), False, ["a word"], 0)
    with pytest.raises(UserError, match="stock/pairs shows 2 images at once, and tiny takes 1"):
        evaluate(model, tasks.parse_variant("stock/pairs"), corpus_of(folder))


@pytest.mark.usefixtures("short_base")
def test_the_small_model_is_asked_from_end_to_end(folder: Path) -> None:
    variants = ("pairs", "pairs@image-noise:3", "pairs@image-shuffle", "pairs@image-blank")
    roots = (f"pairs={folder / 'data'}",)
    options = EvaluateOptions(out=folder / "runs", data_root=roots, device="cpu")
    score_model("tiny-vlm", variants, options)
    (path,) = record.find(folder / "runs")
    result = record.read(path)
    assert [(score.task, score.variant, score.n) for score in result.scores] == [
        ("stock/pairs", name, COUNT)
        for name in ("clean", "image-noise:3", "image-shuffle", "image-blank")
    ]
    items = pd.read_parquet(path / "items-stock-pairs.parquet")
    assert len(items) == 4 * COUNT and set(items["answer"]) - {""}
