"""Metrics of tasks: from a model's answer to values of one item, and from those to one number.

scores = [task.process_results(doc, [answer]) for doc, answer in zip(docs, answers)]
ratio([score["accuracy"] for score in scores])     # numerators by denominators
auroc([(1, 0.9), (0, 0.2)])                        # (target, probability of class 1)
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import numpy as np

from steelyard.harness.core.errors import UserError
from steelyard.tasks.weighted_metrics import METRICS, Bools, FloatArray, Items

SUM_TOLERANCE = 1e-3
"""Largest difference from 1 of summed class probabilities, which arrive rounded."""

NO_NAMES, NO_SCORES = np.empty(0, np.str_), np.empty(0)

LabelSets = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Per item: 0/1 target and 0/1 prediction of each class, [C] and [C]."""


class Doc(TypedDict):
    """Document of a task, as lmms-eval passes it around."""

    id: str
    image: str | None
    text: str | None
    """Text or question, without the instruction how to answer."""
    split: str


class ClassDoc(Doc):
    labels: list[int]
    classes: list[str]


class QuestionDoc(Doc):
    """Document of a task that is answered in words."""

    answers: list[str]
    """Reference answers."""
    choices: list[str]
    """All answers a closed question allows; empty where the question is open."""
    subset: str
    cluster: str
    facts: Mapping[str, tuple[str, ...]]


TaskDoc = ClassDoc | QuestionDoc


class ClassItem(TypedDict):
    """Scored item of a classification task, as records keep it."""

    id: str
    cluster: str
    """Items of one cluster are not independent: they are resampled together."""
    target: list[int]
    """Class indices."""
    predicted: list[int]
    """Class indices."""
    score: float
    """Score of this item: 0 or 1, or its F1 when multi-label."""
    confidence: float
    """Largest class probability; the probability of class 1 where that class is ranked."""


class AnswerItem(TypedDict):
    """Scored item that was answered in words, as records keep it."""

    id: str
    cluster: str
    subset: str
    """Part of the task that is also scored separately."""
    answer: str
    """Text of the model without its reasoning, else unchanged."""


Fraction = tuple[float, float]
"""Numerator and denominator that one item adds to a metric; (0, 0) where it is not counted."""
GroupMember = tuple[str, float]
"""Group of an item, and 1 if the item is right, else 0. Groups are parts of clusters."""
PairItem = tuple[str, str, float]
"""Category of an item, its pair within the category, and 1 if the item is right, else 0."""
ContrastTerm = tuple[bool, float, float]
"""True if the item counts for a contrast's good ratio, False for the bad one; then its fraction."""
AnswerScores = dict[str, Fraction | GroupMember | PairItem | ContrastTerm | AnswerItem]
"""Value of one item for each metric that counts it, and ``item``."""
ClassScores = dict[str, float | tuple[int, float] | tuple[list[int], list[int]] | ClassItem]
"""Value of one item for each metric's aggregation, and ``item``."""


def probabilities(answer: str, classes: int, *, multi_label: bool) -> list[float]:
    """Read a JSON list of ``classes`` probabilities; ValueError for anything else.

    Those of a single-label answer must sum to 1.
    """
    values = json.loads(answer)
    if not isinstance(values, list) or len(values) != classes:
        raise ValueError(f"expected a JSON list of {classes} probabilities, got {answer[:80]!r}")
    # type(), for True is an int to Python; NaN fails the comparison.
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
        raise ValueError(f"every probability must be in [0, 1], got {answer[:80]!r}")
    if not multi_label and not math.isclose(sum(values), 1, abs_tol=SUM_TOLERANCE):
        raise ValueError(f"class probabilities sum to {sum(values):g}, not 1")
    return [float(value) for value in values]


def class_scores(
    doc: ClassDoc,
    metrics: Sequence[str],
    predicted: list[int],
    confidence: float,
    cluster: str = "",
) -> ClassScores:
    """Score predicted class indices by ``metrics``: accuracy or a kind of F1.

    Without a ``cluster`` the item is independent of all others.
    """
    # With one label and one prediction F1 is 0 or 1: accuracy.
    score = item_f1(doc["labels"], predicted)
    count = len(doc["classes"])
    sets = indicator(doc["labels"], count), indicator(predicted, count)
    item = ClassItem(
        id=doc["id"],
        cluster=cluster or doc["id"],
        target=doc["labels"],
        predicted=predicted,
        score=score,
        confidence=confidence,
    )
    # Means of items; other metrics need the whole matrix of targets and predictions.
    by_item = ("accuracy", "samples_f1")
    return {**{name: score if name in by_item else sets for name in metrics}, "item": item}


def answer_item(doc: QuestionDoc, answer: str) -> AnswerItem:
    """Build the record of one answer; an item without a cluster is a cluster of one."""
    cluster = doc["cluster"] or doc["id"]
    return AnswerItem(id=doc["id"], cluster=cluster, subset=doc["subset"], answer=answer)


def indicator(labels: Sequence[int], classes: int) -> list[int]:
    """Return class indices as a 0/1 list: [C]."""
    return [int(index in labels) for index in range(classes)]


def yes_no_fractions(
    truth: str, predicted: str | None, *, positive: str, unparsed: bool
) -> dict[str, Fraction]:
    """Score one yes-no answer by each metric; ``positive`` is the label that F1 counts."""
    is_positive, is_claimed = truth == positive, predicted == positive
    hit = is_positive and is_claimed
    return {
        # 2 hits / (positives + claims) over all items equals 2PR / (P + R).
        "f1": (2.0 * hit, is_positive + is_claimed),
        "accuracy": (predicted == truth, 1),
        "precision": (hit, is_claimed),
        "recall": (hit, is_positive),
        "yes_rate": (predicted == "yes", 1),
        "unparsed": (unparsed, 1),
    }


def item_f1(target: Sequence[int], predicted: Sequence[int]) -> float:
    """Return F1 of one item's predicted class indices; 0 when both are empty."""
    size = len(target) + len(predicted)
    return 2 * len(set(target) & set(predicted)) / size if size else 0.0


def mean(values: Sequence[float]) -> float:
    """Average scores of items: accuracy from 0 and 1, samples-F1 from each item's F1."""
    return float(np.mean(values))


def ratio(fractions: Sequence[Fraction]) -> float:
    """Divide the sum of the numerators by the sum of the denominators.

    0 where the denominators sum to 0, as scikit-learn's ``zero_division=0``: a precision without
    a yes answer is 0, and so is a metric over a part of the task that has no item for it.
    """
    bottom = sum(fraction[1] for fraction in fractions)
    return float(sum(fraction[0] for fraction in fractions) / bottom) if bottom else 0.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Aggregation over several items at once: the ratio of one fraction an item."""

    fractions: Callable[[Sequence[Any]], list[Fraction]]

    def __call__(self, values: Sequence[Any]) -> float:
        return ratio(self.fractions(values))


@Pool
def group_accuracy(members: Sequence[GroupMember]) -> list[Fraction]:
    """Return the fraction of groups with every item right; a group counts at its first item."""
    # A group is right if its worst item is.
    right: dict[str, float] = {}
    for group, correct in members:
        right[group] = min(right.get(group, 1.0), correct)
    counted: set[str] = set()
    fractions: list[Fraction] = []
    for group, _ in members:
        fractions.append((0.0, 0.0) if group in counted else (right[group], 1.0))
        counted.add(group)
    return fractions


@Pool
def mean_points(items: Sequence[PairItem]) -> list[Fraction]:
    """Average over categories: half of accuracy plus the fraction of pairs that are both right."""
    # Points add two rates: half of them is 1 at best.
    return [(points / 2, weight) for points, weight in _points(items)]


@Pool
def total_points(items: Sequence[PairItem]) -> list[Fraction]:
    """Sum over categories of both in percent, as MME counts: at most 200 points a category."""
    # The weights of all items then sum to 1, so that the pooled ratio is the sum of categories.
    categories = len({category for category, _, _ in items})
    return [(100 * points, weight / categories) for points, weight in _points(items)]


def _points(items: Sequence[PairItem]) -> list[Fraction]:
    """Split each category's accuracy plus accuracy of pairs over its items."""
    # Pair names are unique only within their category.
    size = Counter(category for category, _, _ in items)
    members = [(f"{category}/{pair}", right) for category, pair, right in items]
    pairs = group_accuracy.fractions(members)
    count = Counter[str]()
    for (category, _, _), (_, first) in zip(items, pairs, strict=True):
        # A pair's denominator is 1 at its first item only.
        count[category] += int(first)
    return [
        (right / size[category] + both / count[category], 1 / size[category])
        for (category, _, right), (both, _) in zip(items, pairs, strict=True)
    ]


@Pool
def contrast(terms: Sequence[ContrastTerm]) -> list[Fraction]:
    """Return (good ratio + 1 - bad ratio) / 2, as AMBER's score.

    An item's numerator is the contrast plus what the item adds to it by the delta method, so that
    the spread of items is the standard error to first order.
    """
    fractions = {good: [term[1:] for term in terms if term[0] == good] for good in (True, False)}
    if not all(fractions.values()):
        raise UserError("A score of captions and of questions needs items of both: score more.")
    ratios = {good: ratio(values) for good, values in fractions.items()}
    # Without a denominator the ratio and its residuals are 0: any divisor does.
    totals = {good: sum(bottom for _, bottom in fractions[good]) or 1.0 for good in fractions}
    # Each ratio's residuals sum to 0, so that the mean of the numerators stays ``value``.
    value = (ratios[True] + 1 - ratios[False]) / 2
    scale = {True: len(terms) / 2 / totals[True], False: -len(terms) / 2 / totals[False]}
    return [
        (value + scale[good] * (top - ratios[good] * bottom), 1.0) for good, top, bottom in terms
    ]


def auroc(values: Sequence[tuple[int, float]]) -> float:
    """Return the area under the ROC curve of (0/1 target, score) pairs; ties count half."""
    target = np.array([target for target, _ in values], bool)
    positives, negatives = int(target.sum()), int((~target).sum())
    if not positives or not negatives:
        raise UserError(
            f"AUROC needs items of both classes, got {positives} positive and {negatives} "
            "negative: score more items."
        )
    # One-hot targets [n, 2]: the weighted form ranks class 1.
    classes = np.stack([~target, target], axis=1)
    return _unweighted("auroc", classes, classes, np.array([score for _, score in values], float))


def _f1(metric: str, values: LabelSets) -> float:
    return _unweighted(metric, *np.array(values, bool).swapaxes(0, 1))


macro_f1 = partial(_f1, "macro_f1")
"""Average of F1 over classes; a class neither present nor predicted counts as 0."""
weighted_f1 = partial(_f1, "weighted_f1")
"""Average of F1 over classes, weighted by how often each is present; 0 when none ever is."""
micro_f1 = partial(_f1, "micro_f1")
"""F1 over all item-class decisions together."""


def _unweighted(
    metric: str, target: Bools, predicted: Bools, confidence: FloatArray = NO_SCORES
) -> float:
    items = Items(NO_NAMES, NO_NAMES, target, predicted, NO_SCORES, confidence)
    return float(METRICS[metric]([items], np.ones((1, len(target))))[0, 0])


def ratio_stderr(fractions: Sequence[Fraction], clusters: Sequence[str]) -> float | None:
    """Return the standard error of sum(top) / sum(bottom) when clusters are drawn: delta method.

    None for fewer than two clusters, or where the denominators sum to zero.
    """
    total = sum(bottom for _, bottom in fractions)
    if not total:
        return None
    # Linear part of the ratio: as if it were a mean of residuals.
    centre, scale = ratio(fractions), len(fractions) / total
    residuals = [scale * (top - centre * bottom) for top, bottom in fractions]
    return clustered_stderr(residuals, clusters)


def clustered_stderr(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Return the standard error of the mean when clusters are drawn; None for fewer than two.

    With one item a cluster it is the usual s / sqrt(n).
    """
    centre = sum(values) / len(values)
    sums: defaultdict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - centre
    if len(sums) < 2:
        return None
    # Sums of clusters are the independent draws.
    spread = sum(total**2 for total in sums.values()) * len(sums) / (len(sums) - 1)
    return math.sqrt(spread) / len(values)
