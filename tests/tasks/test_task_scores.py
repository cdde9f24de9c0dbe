"""Prompts and scores of the three classification tasks, by hand and against scikit-learn."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.tasks import food101, hateful_memes, metrics, mm_imdb
from steelyard.tasks.metrics import ClassDoc


def doc(
    labels: list[int], classes: list[str], id: str = "a", text: str | None = "words"
) -> ClassDoc:
    return ClassDoc(id=id, image=None, text=text, labels=labels, classes=classes, split="test")


MEME = list(hateful_memes.CLASSES)
DISHES = ["apple_pie", "ramen", "sushi"]
GENRES = ["Drama", "Comedy", "Horror"]

# --- Reading an answer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "None",
        "apple pie",
        "0.5",
        "[0.5, 0.5]",
        "[NaN, 0.5, 0.5]",
        "[Infinity, 0, 0]",
        "[1.5, 0, 0]",
        "[-0.1, 0.6, 0.5]",
        '["1", 0, 0]',
        "[true, 0, 0]",
        "[null, 0.5, 0.5]",
        '{"0": 1}',
    ],
)
@pytest.mark.parametrize("multi_label", [False, True])
def test_malformed_answer(answer: str, multi_label: bool) -> None:
    with pytest.raises(ValueError):
        metrics.probabilities(answer, 3, multi_label=multi_label)


def test_class_probabilities_must_sum_to_one_unless_multi_label() -> None:
    assert metrics.probabilities("[0.9, 0.8, 1]", 3, multi_label=True) == [0.9, 0.8, 1]
    with pytest.raises(ValueError, match=r"sum to 2\.7"):
        metrics.probabilities("[0.9, 0.8, 1]", 3, multi_label=False)


def test_rounded_probabilities_are_accepted() -> None:
    answer = json.dumps([round(1 / 101, 6)] * 101)
    assert len(metrics.probabilities(answer, 101, multi_label=False)) == 101


@pytest.mark.parametrize("module", [food101, hateful_memes, mm_imdb])
def test_tasks_refuse_a_malformed_answer(module: Any) -> None:
    item = doc([0], MEME)
    with pytest.raises(ValueError):
        module.process_results(item, ["[NaN, 0.5]"])


# --- One item --------------------------------------------------------------------------------


def test_food_item() -> None:
    result = food101.process_results(doc([1], DISHES), ["[0.2, 0.7, 0.1]"])
    assert result == {
        "accuracy": 1.0,
        "item": {
            "id": "a",
            "cluster": "a",
            "target": [1],
            "predicted": [1],
            "score": 1.0,
            "confidence": 0.7,
        },
    }
    assert food101.process_results(doc([0], DISHES), ["[0.2, 0.7, 0.1]"])["accuracy"] == 0.0


def test_meme_item() -> None:
    result = hateful_memes.process_results(doc([1], MEME, id="007"), ["[0.7, 0.3]"])
    assert result == {
        "auroc": (1, 0.3),
        "accuracy": 0.0,
        "macro_f1": ([0, 1], [1, 0]),
        "item": {
            "id": "007",
            "cluster": "007",
            "target": [1],
            "predicted": [0],
            "score": 0.0,
            "confidence": 0.3,
        },
    }
    assert hateful_memes.process_results(doc([1], MEME), ["[0.5, 0.5]"])["accuracy"] == 1.0


def test_film_item() -> None:
    result = mm_imdb.process_results(doc([0, 2], GENRES, id="0000001#3"), ["[0.5, 0.9, 0.49]"])
    sets = ([1, 0, 1], [1, 1, 0])
    assert result == {
        "macro_f1": sets,
        "micro_f1": sets,
        "weighted_f1": sets,
        "samples_f1": 0.5,
        "item": {
            "id": "0000001#3",
            "cluster": "0000001",
            "target": [0, 2],
            "predicted": [0, 1],
            "score": 0.5,
            "confidence": 0.9,
        },
    }


def test_film_without_genre_or_prediction_scores_nothing() -> None:
    item = mm_imdb.process_results(doc([], GENRES), ["[0.1, 0.2, 0.3]"])["item"]
    assert isinstance(item, dict)
    assert (item["target"], item["predicted"], item["score"]) == ([], [], 0.0)


# --- Many items, by hand ---------------------------------------------------------------------

# Three items, three classes. Class 0: 1 hit, 2 present, 2 predicted, F1 2/4. Class 1: 1 hit,
# 1 present, 1 predicted, F1 1. Class 2: never present, once predicted, F1 0.
SETS = [([1, 1, 0], [1, 1, 0]), ([1, 0, 0], [0, 0, 1]), ([0, 0, 0], [1, 0, 0])]


def test_f1_by_hand() -> None:
    assert metrics.macro_f1(SETS) == pytest.approx((0.5 + 1 + 0) / 3)
    assert metrics.weighted_f1(SETS) == pytest.approx((2 * 0.5 + 1 * 1) / 3)
    assert metrics.micro_f1(SETS) == pytest.approx(2 * 2 / (3 + 4))


def test_f1_of_one_item_by_hand() -> None:
    assert metrics.item_f1([0, 2], [0, 1]) == 0.5
    assert metrics.item_f1([0], [0, 1, 2]) == 2 / 4
    assert metrics.item_f1([0], []) == metrics.item_f1([], []) == 0.0


def test_nothing_present_and_nothing_predicted_is_zero() -> None:
    empty = [([0, 0], [0, 0])]
    for f1 in (metrics.macro_f1, metrics.weighted_f1, metrics.micro_f1):
        assert f1(empty) == 0.0


def test_auroc_by_hand() -> None:
    # Pairs (positive, negative): 0.8 beats both, 0.4 beats 0.1 and ties with 0.4.
    values = [(1, 0.8), (1, 0.4), (0, 0.4), (0, 0.1)]
    assert metrics.auroc(values) == pytest.approx((2 + 1 + 0.5) / 4)


def test_auroc_of_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="0 positive and 2 negative"):
        metrics.auroc([(0, 0.1), (0, 0.2)])


def test_accuracy_is_the_mean() -> None:
    assert metrics.mean([1.0, 0.0, 1.0, 1.0]) == 0.75


# --- Many items, against scikit-learn --------------------------------------------------------

ROWS = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.tuples(*[st.lists(st.integers(0, 1), min_size=width, max_size=width)] * 2),
        min_size=1,
        max_size=12,
    )
)


def samples_f1(values: metrics.LabelSets) -> float:
    indices = [[np.flatnonzero(modality).tolist() for modality in pair] for pair in values]
    return metrics.mean([metrics.item_f1(target, predicted) for target, predicted in indices])


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_f1_equals_scikit_learn(values: list[tuple[list[int], list[int]]]) -> None:
    # One column more, always empty: with a single column scikit-learn assumes a binary task.
    padded = [([*target, 0], [*predicted, 0]) for target, predicted in values]
    target, predicted = (np.array(modality) for modality in zip(*padded, strict=True))
    for average, f1 in (
        ("macro", metrics.macro_f1),
        ("micro", metrics.micro_f1),
        ("weighted", metrics.weighted_f1),
        ("samples", samples_f1),
    ):
        expected = sklearn.metrics.f1_score(target, predicted, average=average, zero_division=0)
        assert f1(padded) == pytest.approx(expected), average


def test_macro_f1_of_memes_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    target, predicted = rng.integers(0, 2, (2, 200)).tolist()
    values = [
        (metrics.indicator([first], 2), metrics.indicator([second], 2))
        for first, second in zip(target, predicted, strict=True)
    ]
    expected = sklearn.metrics.f1_score(target, predicted, average="macro")
    assert metrics.macro_f1(values) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=20))
def test_auroc_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    # Few distinct scores, so that ties are common; both classes present.
    values = [(target, score / 4) for target, score in [*pairs, (0, 1), (1, 2)]]
    expected = sklearn.metrics.roc_auc_score([t for t, _ in values], [s for _, s in values])
    assert metrics.auroc(values) == pytest.approx(expected)


# --- Prompts ---------------------------------------------------------------------------------

PROMPTS = [
    (
        food101,
        DISHES,
        "Which dish is this? Answer with one name from this list: apple pie, ramen, sushi.",
        'The recipe page says: "Some words"\n',
    ),
    (
        hateful_memes,
        MEME,
        "Is this meme hateful? Answer yes or no.",
        'A meme with "Some words" written on it.\n',
    ),
    (
        mm_imdb,
        GENRES,
        "Which genres does this film belong to? It may have several. Answer with names from this "
        "list, separated by commas: Drama, Comedy, Horror.",
        "Plot: Some words\n",
    ),
]


@pytest.mark.parametrize(("module", "classes", "instruction", "before"), PROMPTS)
def test_prompt(module: Any, classes: list[str], instruction: str, before: str) -> None:
    assert module.doc_to_text(doc([0], classes, text="Some words")) == before + instruction
    assert module.doc_to_text(doc([0], classes, text="")) == instruction
    assert module.doc_to_text(doc([0], classes, text=None)) == instruction


def test_choices_and_targets() -> None:
    assert food101.choices(DISHES) == ["apple pie", "ramen", "sushi"]
    assert tasks.target("food101", doc([0], DISHES)) == "apple pie"
    assert hateful_memes.choices(MEME) == ["no", "yes"]
    assert tasks.target("hateful_memes", doc([1], MEME)) == "yes"
    assert mm_imdb.choices(GENRES) == GENRES
    assert tasks.target("mm_imdb", doc([0, 2], GENRES)) == "Drama, Horror"
    assert tasks.target("mm_imdb", doc([], GENRES)) == ""


# --- What the YAML declares ------------------------------------------------------------------


class FunctionNames(yaml.SafeLoader):
    """Reads ``!function a.b`` as the string, as nothing is to be imported here."""


def function_name(loader: FunctionNames, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


FunctionNames.add_constructor("!function", function_name)


@pytest.mark.parametrize(
    ("module", "classes"), [(food101, DISHES), (hateful_memes, MEME), (mm_imdb, GENRES)]
)
def test_yaml_agrees_with_the_module(module: Any, classes: list[str]) -> None:
    path = Path(module.__file__).with_suffix(".yaml")
    declared = yaml.load(path.read_text(encoding="utf-8"), FunctionNames)
    about = declared["metadata"]
    assert declared["task"] == f"steelyard_{path.stem}"
    for key in ("doc_to_text", "doc_to_target", "process_results"):
        assert declared[key] == f"{module.__name__}.{key}"
        assert callable(vars(module)[key])

    perfect = [
        module.process_results(
            doc([label], classes), [json.dumps(metrics.indicator([label], len(classes)))]
        )
        for label in range(len(classes))
    ]
    names = [metric["metric"] for metric in declared["metric_list"]]
    assert [*names, "item"] == list(perfect[0])
    assert about["main"] == names[0]
    for metric in declared["metric_list"]:
        where, name = metric["aggregation"].rsplit(".", 1)
        aggregate = vars(importlib.import_module(where))[name]
        assert aggregate([result[metric["metric"]] for result in perfect]) == 1.0
        assert metric["higher_is_better"] is True

    assert about["multi_label"] is (module is mm_imdb)
    assert about.get("threshold") == vars(module).get("THRESHOLD")
    assert (about["cluster"] == "id") is (module is not mm_imdb)
