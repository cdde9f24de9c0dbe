"""Evaluation through lmms-eval: right scores, and mistakes that are said at once."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from stubs import Stub, corpus_at, reader, run, viewer

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Inputs
from steelyard.harness.data import images
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.tasks.metrics import clustered_stderr

# Scores


def test_knowing_the_answers_scores_one_and_guessing_scores_chance(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    (score,) = run(reader(corpus), corpus).scores
    assert (score.task, score.variant, score.metric) == ("food101", "clean", "accuracy")
    assert (score.value, score.n, score.stderr) == (1.0, 20, 0.0)
    assert score.main
    assert score.higher_is_better
    (blind,) = run(Stub(corpus, lambda item: [0.25] * 4), corpus).scores
    assert (blind.value, blind.stderr) == (0.25, pytest.approx((0.25 * 0.75 / 19) ** 0.5))


@pytest.mark.parametrize("make", [reader, viewer])
def test_a_corruption_hurts_only_models_that_read_the_modality(
    tmp_path: Path, make: Callable[[Corpus], Stub]
) -> None:
    corpus = corpus_at(tmp_path)
    value = {
        name: run(make(corpus), corpus, f"@{name}").scores[0].value
        for name in ("text-blank", "image-blank", "text-shuffle", "image-shuffle", "image-noise:5")
    }
    read, unread = ("text", "image") if make is reader else ("image", "text")
    assert value[f"{read}-blank"] == 0.25
    assert value[f"{read}-shuffle"] < 0.7
    assert value[f"{unread}-blank"] == value[f"{unread}-shuffle"] == 1.0
    assert (value["image-noise:5"] < 1) == (make is viewer)


def test_binary_scores(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, "hateful_memes")
    scores = {score.metric: score for score in run(reader(corpus), corpus).scores}
    assert {name: score.value for name, score in scores.items()} == {
        "auroc": 1.0,
        "accuracy": 1.0,
        "macro_f1": 1.0,
    }
    assert [name for name, score in scores.items() if score.main] == ["auroc"]
    assert scores["auroc"].stderr is None
    assert scores["accuracy"].stderr == 0.0
    assert run(Stub(corpus, lambda item: [0.5, 0.5]), corpus).scores[0].value == 0.5


def test_multi_label_scores(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, "mm_imdb")

    def rule(item: Inputs) -> list[float]:
        label = int((item.text or "").split()[0])
        return [[0.9, 0.1, 0.8], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]][label]

    scores = {score.metric: score for score in run(Stub(corpus, rule), corpus).scores}
    assert {score.value for score in scores.values()} == {1.0}
    # Only samples F1 is a mean over items.
    without = {name for name, score in scores.items() if score.stderr is None}
    assert without == {"macro_f1", "micro_f1", "weighted_f1"}


def test_items_are_sorted_and_complete(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    items = run(reader(corpus), corpus, "@image-noise:2").items
    columns = ["variant", "id", "cluster", "target", "predicted", "score", "confidence"]
    assert list(items.columns) == columns
    assert list(items["id"]) == sorted(example.id for example in corpus.splits["test"])
    assert set(items["variant"]) == {"image-noise:2"}
    labels = {example.id: list(example.labels) for example in corpus.splits["test"]}
    assert list(items["target"]) == [labels[id] for id in items["id"]]
    assert items["confidence"].iloc[0] == pytest.approx(0.97)


def test_standard_errors_by_hand() -> None:
    # Deviations .25 .25 .25 -.75: sum of squares .75, times 4/3 is 1, root 1, over 4 items.
    assert clustered_stderr([1, 1, 1, 0], ["a", "b", "c", "d"]) == pytest.approx(0.25)
    # Cluster sums of deviations 1 and -1: 2 times 2/1 is 4, root 2, over 4 items.
    assert clustered_stderr([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    assert clustered_stderr([1, 0], ["a", "a"]) is None


def test_order_and_batch_size_do_not_matter(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    backwards = dict(corpus.splits, test=corpus.splits["test"][::-1])
    turned = Corpus("food101", corpus.root, corpus.classes, False, backwards, "r1")

    def rule(item: Inputs) -> list[float]:  # sees every damaged pixel
        assert item.image is not None
        means = list(item.image.resize((2, 1)).tobytes()[:4])
        return (torch.tensor(means) / 9).softmax(0).tolist()

    first = run(Stub(corpus, rule), corpus, "@image-noise", batch_size=7)
    for ordered, size in ((corpus, 64), (turned, 3)):
        again = run(Stub(corpus, rule), ordered, "@image-noise", batch_size=size)
        assert again.items.equals(first.items)
        assert again.scores == first.scores


def test_batches_are_full(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    stub = reader(corpus)
    run(stub, corpus, batch_size=8)
    assert stub.batches == [8, 8, 4]


def test_images_are_decoded_once_for_all_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_at(tmp_path)
    opened: list[Path] = []
    monkeypatch.setattr(images, "open_image", lambda path: opened.append(path) or Image.open(path))
    for variant in tasks.variants("food101", ["image-noise:1-5", "image-shuffle", "text-blank"]):
        evaluate(reader(corpus), variant, corpus)
    assert len(opened) == len(set(opened)) == 20


# Mistakes and faults


def test_mistakes_are_user_errors(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    foreign = Stub(corpus_at(tmp_path, "hateful_memes"), lambda item: [0.5, 0.5])
    with pytest.raises(UserError, match=r"2 classes .* not the data.s 4"):
        run(foreign, corpus)
    with pytest.raises(UserError, match=r"split of food101 'tst'\. Did you mean 'test'"):
        run(reader(corpus), corpus, split="tst")
    with pytest.raises(UserError, match="limit 0"):
        run(reader(corpus), corpus, limit=0)


@pytest.mark.parametrize("row", [[float("nan")] * 4, [0.9, 0.9, 0.0, 0.0]])
def test_a_bad_answer_fails_at_once_with_its_cause(tmp_path: Path, row: list[float]) -> None:
    corpus = corpus_at(tmp_path)
    start = time.monotonic()
    with pytest.raises(ValueError):
        run(Stub(corpus, lambda item: row), corpus)
    assert time.monotonic() - start < 2  # lmms-eval's own retries take eight seconds


def test_a_bug_in_a_scorer_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.tasks import food101

    def broken(doc: Any, results: Any) -> None:
        calls.append(doc)
        raise KeyError("a bug")

    calls: list[Any] = []
    monkeypatch.setattr(food101, "process_results", broken)
    corpus = corpus_at(tmp_path)
    with pytest.raises(KeyError, match="a bug"):
        run(reader(corpus), corpus)
    assert len(calls) == 1


def test_an_answer_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    with pytest.raises(ValueError, match="not \\(20, 4\\)"):
        run(Stub(corpus, lambda item: [0.5, 0.5]), corpus)
