"""What a checkpoint's answers go through before they are scored."""

from pathlib import Path

import pytest
import scripted_vlm
import stock_data
import torch
from stock_data import Talker
from stubs import corpus_at

from steelyard import tasks
from steelyard.harness.core.errors import NonFiniteOutput, UserError
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import classifier, classifier_config, registry
from steelyard.harness.models.backbone import require_finite
from steelyard.harness.models.vlm import Vlm


def opened(folder: Path) -> Vlm:
    model = registry.open_model(str(folder), {"tune": "full"}, "cpu")
    assert isinstance(model, Vlm)
    return model


# Reasoning


@pytest.mark.parametrize("kind", ["words", "special"])
def test_reasoning_is_no_answer_under_any_command(tmp_path: Path, kind: str) -> None:
    """A tag may be a word of the tokeniser or a special token."""
    tag = {"words": "think", "special": "analysis"}[kind]
    script = [f"<{tag}>", "no", f"</{tag}>", "yes"]
    folder = scripted_vlm.scripted(tmp_path / "m", script, **{kind: (script[0], script[2])})
    model, corpus = opened(folder), tasks.load("pope", scripted_vlm.pope(tmp_path / "pope"))
    result = evaluate(model, tasks.parse_variant("pope"), corpus)
    assert set(result.items["answer"]) == {"yes"}
    scores = {score.metric: score.value for score in result.scores}
    assert (scores["yes_rate"], scores["unparsed"], scores["recall"]) == (1.0, 0.0, 1.0)
    stock = tasks.load("stock/pope", stock_data.write(tmp_path / "stock", stock_data.pope()))
    result = evaluate(model, tasks.parse_variant("stock/pope"), stock)
    assert {score.metric: score.value for score in result.scores}["pope_recall"] == 1.0


def test_named_labels_are_those_after_the_reasoning(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, "mm_imdb")

    def evaluated(answer: str) -> list[list[int]]:
        talker = Talker(lambda inputs: answer)
        items = evaluate(talker, tasks.parse_variant("mm_imdb"), corpus).items
        return [list(row) for row in items["predicted"]]

    assert evaluated("<thought>Drama, war</thought> Comedy") == [[1]] * 20
    assert evaluated("Drama, comedy") == [[0, 1]] * 20


# Outputs that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_name_the_item(tmp_path: Path, value: float) -> None:
    """In words and as class probabilities."""
    model = opened(scripted_vlm.scripted(tmp_path / "m", ["yes"]))
    with torch.no_grad():
        model.base.get_output_embeddings().weight[20] = value
    corpus = tasks.load("pope", scripted_vlm.pope(tmp_path / "pope"))
    with pytest.raises(UserError, match=r"^pope, item random/0 .* are not finite"):
        evaluate(model, tasks.parse_variant("pope"), corpus)
    foods = corpus_at(tmp_path / "food")
    with pytest.raises(UserError, match=r"^food101, item 020 .* are not finite"):
        evaluate(model, tasks.parse_variant("food101"), foods)


def test_minus_infinity_which_a_softmax_would_hide_is_not_finite() -> None:
    with pytest.raises(NonFiniteOutput) as error:
        require_finite(torch.tensor([[0.0, 1.0], [0.0, -float("inf")], [float("nan"), 1.0]]))
    assert error.value.rows == [1, 2]


def test_a_classifier_that_overflows_names_the_item(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    config = classifier_config.configure("tiny", {})
    model = classifier.build("tiny", config, corpus.classes, False, ["words"], 0)
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    with pytest.raises(UserError, match=r"item 020 .* the outputs of tiny are not finite"):
        evaluate(model, tasks.parse_variant("food101"), corpus)
