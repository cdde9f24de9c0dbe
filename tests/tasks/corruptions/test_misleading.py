"""``text-misleading``: the text of an item whose right answer is another one."""

from pathlib import Path

import pytest
from corrupted_items import corpus_at

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example
from steelyard.tasks import build


def donors(corpus: Corpus, task: str) -> dict[str, Example]:
    """Whose text each item got under ``text-misleading``."""
    built = build(tasks.parse_variant(f"{task}@text-misleading"), corpus)
    by_text = {example.text: example for example in corpus.splits["test"]}
    return {doc["id"]: by_text[doc["text"]] for doc in built.dataset["test"]}


def test_a_misleading_text_is_that_of_another_class(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    true_labels = {example.id: example.labels for example in corpus.splits["test"]}
    result = {id_: donor.labels for id_, donor in donors(corpus, "food101").items()}
    assert all(labels != true_labels[id_] for id_, labels in result.items())
    assert len(set(result.values())) == 3


def test_a_misleading_text_shares_no_class_and_no_answer(tmp_path: Path) -> None:
    films = [
        Example(f"{n}", None, f"plot {n}", labels)
        for n, labels in enumerate([(0,), (0, 1), (1, 2), (2,)])
    ]
    corpus = Corpus("mm_imdb", tmp_path, ("a", "b", "c"), True, {"test": tuple(films)}, "r1")
    result = {id_: donor.id for id_, donor in donors(corpus, "mm_imdb").items()}
    assert result["1"] == "3" and result["2"] == "0"
    assert result["0"] in "23" and result["3"] in "01"
    answers = [("Yes.",), ("yes", "yeah"), ("no",)]
    questions = [Example(f"{n}", None, f"q {n}", (), answers=a) for n, a in enumerate(answers)]
    corpus = Corpus("vqa", tmp_path, (), False, {"test": tuple(questions)}, "r1")
    assert [donor.id for donor in donors(corpus, "vqa").values()][:2] == ["2", "2"]


def test_no_other_answer_is_a_user_error(tmp_path: Path) -> None:
    alike = [Example(f"{n}", None, f"text {n}", (0,)) for n in range(3)]
    corpus = Corpus("food101", tmp_path, ("a", "b"), False, {"test": tuple(alike)}, "r1")
    with pytest.raises(UserError, match="no item of the split has another right answer than '0'"):
        donors(corpus, "food101")
