"""Weights of items in lmms-eval's metrics, found by calling the metric."""

import doctest
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.errors import UserError
from steelyard.harness.evaluation import metric_weights as module
from steelyard.harness.evaluation.metric_weights import MOST_CALLS, metric_weights

Rule = Callable[[Sequence[Any]], Any]
CATEGORIES = ("a", "a", "a", "b")


def dicts(count: int = 8) -> list[dict[str, Any]]:
    """Items whose own number says nothing: the metric is asked about others."""
    return [{"score": 1.0, "kind": CATEGORIES[i % 4], "pair": i // 2} for i in range(count)]


def by_kind(items: Sequence[dict[str, Any]]) -> float:
    groups = {item["kind"]: [] for item in items}
    for item in items:
        groups[item["kind"]].append(item["score"])
    return fmean(fmean(group) for group in groups.values())


def percent(items: Sequence[dict[str, Any]]) -> float:
    return 100 * fmean(item["score"] for item in items)


def pairs_complete(items: Sequence[dict[str, Any]]) -> float:
    """MME's points of a category: the mean, and what comes for pairs with both right."""
    sums: dict[int, float] = {}
    for item in items:
        sums[item["pair"]] = sums.get(item["pair"], 0.0) + item["score"]
    return fmean(sum_ / 2 + (sum_ == 2) for sum_ in sums.values())


def precision(items: Sequence[dict[str, Any]]) -> float:
    """Reads labels and not the score."""
    positive = [item for item in items if item["pair"] % 2]
    return sum(item["kind"] == "a" for item in positive) / len(positive)


def rounded(items: Sequence[dict[str, Any]]) -> float:
    return round(by_kind(items), 3)


def best(items: Sequence[dict[str, Any]]) -> float:
    return max(item["score"] for item in items)


def test_the_example_of_the_docstring() -> None:
    results = doctest.testmod(module)
    assert results.attempted == 3 and not results.failed


def test_a_mean_weighs_all_alike() -> None:
    assert metric_weights(fmean, [1.0, 0.0, 1.0, 1.0], "score") == pytest.approx([0.25] * 4)
    weights = metric_weights(percent, dicts(), "score")
    assert weights == pytest.approx([100 / 8] * 8)


def test_a_mean_of_groups_weighs_items_by_the_size_of_theirs() -> None:
    # Six of kind a share a half, two of kind b the other.
    weights = metric_weights(by_kind, dicts(), "score")
    assert weights == pytest.approx([1 / 12, 1 / 12, 1 / 12, 1 / 4] * 2)


@pytest.mark.parametrize("rule", [pairs_complete, precision, rounded, best, lambda items: None])
def test_what_is_no_weighted_mean_has_no_weights(rule: Rule) -> None:
    assert metric_weights(rule, dicts(), "score") is None


def test_numbers_of_the_answers_do_not_decide() -> None:
    """Results that make many metrics 0 or 1 do not make them means."""
    for number in (0.0, 1.0):
        items = [{**item, "score": number} for item in dicts()]
        assert metric_weights(pairs_complete, items, "score") is None
        assert metric_weights(by_kind, items, "score") is not None
        assert all(item["score"] == number for item in items)  # asked about copies


def test_who_writes_files_or_asks_a_judge_is_not_asked() -> None:
    def submission(items: Sequence[Any], args: Any) -> float:
        raise AssertionError("was asked")

    assert metric_weights(submission, dicts(), "score") is None


def test_a_metric_that_refuses_made_up_numbers_has_no_weights() -> None:
    def strict(items: Sequence[dict[str, Any]]) -> float:
        if any(item["score"] not in (0, 1) for item in items):
            raise UserError("a score is 0 or 1")
        return fmean(item["score"] for item in items)

    assert metric_weights(strict, dicts(), "score") is None


def test_many_items_are_not_asked_about_one_by_one() -> None:
    calls = []

    def counted(items: Sequence[dict[str, Any]]) -> float:
        calls.append(len(items))
        return by_kind(items)

    assert metric_weights(counted, dicts(MOST_CALLS + 4), "score") is None
    assert len(calls) < 10
    assert metric_weights(percent, dicts(MOST_CALLS + 4), "score") is not None


def test_upstreams_metrics_are_told_apart() -> None:
    import_lmms_eval()
    from lmms_eval.tasks.mme import utils as mme
    from lmms_eval.tasks.mmstar import utils as mmstar
    from lmms_eval.tasks.pope import utils as pope

    star = [{"score": 1.0, "l2_category": CATEGORIES[i % 4]} for i in range(8)]
    assert metric_weights(mmstar.mmstar_aggregate_results, star, "score") == pytest.approx(
        [1 / 12, 1 / 12, 1 / 12, 1 / 4] * 2
    )
    yes = [{"score": 1.0, "prediction": "yes", "ground_truth": "yes"} for _ in range(8)]
    assert metric_weights(pope.pope_aggregate_accuracy, yes, "score") == pytest.approx([1 / 8] * 8)
    for rule in (pope.pope_aggregate_precision, pope.pope_aggregate_f1_score):
        assert metric_weights(rule, yes, "score") is None
    pairs = [{"score": 0.0, "category": "color", "question_id": i // 2} for i in range(8)]
    assert metric_weights(mme.mme_aggregate_results, pairs, "score") is None
    assert np.isfinite(mme.mme_aggregate_results(pairs))
