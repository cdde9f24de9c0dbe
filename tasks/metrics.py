"""From a model's answer to per-item values, and from per-item values to one number."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from steelyard.harness.core.errors import UserError

if TYPE_CHECKING:
    pass

import json
from collections import Counter
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

SUM_TOLERANCE = 1e-3
"""How far class probabilities may be from 1 together: they arrive rounded."""

LabelSets = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Per item: 0/1 target and 0/1 prediction of each class, [C] and [C]."""


class Doc(TypedDict):
    """One row of a task, as lmms-eval carries it."""

    id: str
    image: str | None
    """Path of the image file."""
    text: str | None
    labels: list[int]
    classes: list[str]
    split: str


class Question(TypedDict):
    """One row of a task that is answered in words."""

    id: str
    image: str | None
    """Path of the image file."""
    text: str | None
    """The question, without the instruction how to answer."""
    answers: list[str]
    """Reference answers."""
    choices: list[str]
    """All answers a closed question allows; empty where the question is open."""
    subset: str
    cluster: str
    facts: Mapping[str, tuple[str, ...]]
    split: str


class Item(TypedDict):
    """What is kept of one scored item."""

    id: str
    cluster: str
    """Items of one cluster are not independent: they are resampled together."""
    target: list[int]
    """Class indices."""
    predicted: list[int]
    """Class indices."""
    score: float
    """The item's own score: 0 or 1, or its F1 when multi-label."""
    confidence: float
    """Largest class probability; the probability of class 1 where that class is ranked."""


class Answered(TypedDict):
    """What is kept of one item answered in words."""

    id: str
    cluster: str
    """Items of one cluster are not independent: they are resampled together."""
    subset: str
    """Part of the task that is also scored apart."""
    answer: str
    """As the model gave it."""


Part = tuple[float, float]
"""One item's share of a metric's numerator and denominator; (0, 0) where it has none."""
Member = tuple[str, float]
"""The group an item belongs to, and whether it is right: 1 or 0. Groups lie within clusters."""
Paired = tuple[str, str, float]
"""A category, the pair of items in it that the item belongs to, whether it is right: 1 or 0."""
Term = tuple[bool, float, float]
"""Which of a contrast's two ratios an item has part in, the good one or the bad, and its share."""
Shares = dict[str, Part | Member | Paired | Term | Answered]
"""One item's share of each metric that it has part in, and ``item``."""
Result = dict[str, float | tuple[int, float] | tuple[list[int], list[int]] | Item]
"""One item's value for each metric's aggregation, and ``item``."""


def probabilities(answer: str, classes: int, *, multi_label: bool) -> list[float]:
    """Read a model's answer, a JSON list of ``classes`` probabilities.

    Raises:
        ValueError: the answer is no such list, a number is not in [0, 1], or the numbers of a
            single-label answer do not sum to 1.
    """
    values = json.loads(answer)
    if not isinstance(values, list) or len(values) != classes:
        raise ValueError(f"expected a JSON list of {classes} probabilities, got {answer[:80]!r}")
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
        raise ValueError(f"every probability must be in [0, 1], got {answer[:80]!r}")
    if not multi_label and not math.isclose(sum(values), 1, abs_tol=SUM_TOLERANCE):
        raise ValueError(f"class probabilities sum to {sum(values):g}, not 1")
    return [float(value) for value in values]


def indicator(labels: Sequence[int], classes: int) -> list[int]:
    """Class indices as a 0/1 list: [C]."""
    return [int(index in labels) for index in range(classes)]


def item_f1(target: Sequence[int], predicted: Sequence[int]) -> float:
    """F1 of one item's predicted class indices; 0 when both are empty."""
    size = len(target) + len(predicted)
    return 2 * len(set(target) & set(predicted)) / size if size else 0.0


def mean(values: Sequence[float]) -> float:
    """Mean of per-item scores: accuracy from 0 and 1, samples-F1 from each item's F1."""
    return float(np.mean(values))


def ratio(parts: Sequence[Part]) -> float:
    """Sum of the numerators by the sum of the denominators.

    0 where the denominators sum to 0, as scikit-learn's ``zero_division=0``: a precision without
    a yes answer is 0, and so is a metric over a part of the task that has no item for it.
    """
    bottom = sum(part[1] for part in parts)
    return float(sum(part[0] for part in parts) / bottom) if bottom else 0.0


def whole_groups(members: Sequence[Member]) -> float:
    """Share of groups in which every item is right: both questions about an image, all of a set."""
    return ratio(group_parts(members))


def group_parts(members: Sequence[Member]) -> list[Part]:
    """Each group's outcome as the share of its first item, so that groups are sums over items."""
    right: dict[str, float] = {}
    for group, correct in members:
        right[group] = min(right.get(group, 1.0), correct)
    seen: set[str] = set()
    parts: list[Part] = []
    for group, _ in members:
        parts.append((0.0, 0.0) if group in seen else (right[group], 1.0))
        seen.add(group)
    return parts


def mean_points(items: Sequence[Paired]) -> float:
    """Mean over categories of half the sum of accuracy and share of pairs with both items right."""
    return ratio(mean_point_parts(items))


def total_points(items: Sequence[Paired]) -> float:
    """Sum over categories of both in percent, as MME counts: at most 200 points a category."""
    return ratio(total_point_parts(items))


def mean_point_parts(items: Sequence[Paired]) -> list[Part]:
    """Each item's share of ``mean_points``; every category weighs the same."""
    return [(points / 2, weight) for points, weight in _points(items)]


def total_point_parts(items: Sequence[Paired]) -> list[Part]:
    """Each item's share of ``total_points``; the bottoms sum to 1."""
    categories = len({category for category, _, _ in items})
    return [(100 * points, weight / categories) for points, weight in _points(items)]


def _points(items: Sequence[Paired]) -> list[Part]:
    """Each item's share of its category's accuracy plus accuracy of pairs, and of the category."""
    size = Counter(category for category, _, _ in items)
    pairs = group_parts([(f"{category}/{pair}", right) for category, pair, right in items])
    count = Counter[str]()
    for (category, _, _), (_, first) in zip(items, pairs, strict=True):
        count[category] += int(first)
    return [
        (right / size[category] + both / count[category], 1 / size[category])
        for (category, _, right), (both, _) in zip(items, pairs, strict=True)
    ]


def contrast(terms: Sequence[Term]) -> float:
    """Half of a good ratio and of what a bad one leaves, (good + 1 - bad) / 2, as AMBER's score.

    Raises:
        UserError: the items have part in only one of the two.
    """
    return ratio(contrast_parts(terms))


def contrast_parts(terms: Sequence[Term]) -> list[Part]:
    """Shares over one whose mean is the contrast, and whose spread is its own to first order.

    An item's share is the contrast plus what the item adds to it by the delta method.
    """
    sides = {side: [term[1:] for term in terms if term[0] == side] for side in (True, False)}
    if not all(sides.values()):
        raise UserError("A score of captions and of questions needs items of both: score more.")
    centres = {side: ratio(parts) for side, parts in sides.items()}
    whole = {side: sum(bottom for _, bottom in parts) or 1.0 for side, parts in sides.items()}
    value = (centres[True] + 1 - centres[False]) / 2
    scale = {True: len(terms) / 2 / whole[True], False: -len(terms) / 2 / whole[False]}
    return [
        (value + scale[side] * (top - centres[side] * bottom), 1.0) for side, top, bottom in terms
    ]


POOLS: dict[Callable[..., float], Callable[..., list[Part]]] = {
    whole_groups: group_parts,
    contrast: contrast_parts,
    mean_points: mean_point_parts,
    total_points: total_point_parts,
}
"""Aggregations that look at several items at once, and how they become one share an item."""


def answered(doc: Question, answer: str) -> Answered:
    """What is kept of one answer; an item without a cluster of its own stands alone."""
    cluster = doc["cluster"] or doc["id"]
    return Answered(id=doc["id"], cluster=cluster, subset=doc["subset"], answer=answer)


def auroc(values: Sequence[tuple[int, float]]) -> float:
    """Area under the ROC curve of (0/1 target, score) pairs; tied scores count half."""
    targets, scores = np.array([t for t, _ in values], bool), np.array([s for _, s in values])
    positives, negatives = int(targets.sum()), int((~targets).sum())
    if not positives or not negatives:
        raise UserError(
            f"AUROC needs items of both classes, got {positives} positive and {negatives} "
            "negative: score more items."
        )
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[place][targets].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def macro_f1(values: LabelSets) -> float:
    """Mean over classes of F1; a class neither present nor predicted counts as 0."""
    return float(_class_f1(*_arrays(values)).mean())


def weighted_f1(values: LabelSets) -> float:
    """Mean over classes of F1, weighted by how often each is present; 0 when none ever is."""
    target, predicted = _arrays(values)
    support = target.sum(axis=0)
    return float(_ratio((_class_f1(target, predicted) * support).sum(), support.sum()))


def micro_f1(values: LabelSets) -> float:
    """F1 over all item-class decisions together."""
    target, predicted = _arrays(values)
    return float(_ratio(2 * (target & predicted).sum(), target.sum() + predicted.sum()))


def _arrays(values: LabelSets) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    both = np.array(values, bool)
    return both[:, 0], both[:, 1]


def _class_f1(target: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> NDArray[np.float64]:
    hits = (target & predicted).sum(axis=0)
    return _ratio(2 * hits, target.sum(axis=0) + predicted.sum(axis=0))


def _ratio(top: NDArray[np.generic], bottom: NDArray[np.generic]) -> NDArray[np.float64]:
    """Element-wise ``top / bottom``, 0 where ``bottom`` is 0."""
    ratio: NDArray[np.float64] = np.zeros(np.shape(bottom))
    np.divide(top, bottom, out=ratio, where=bottom != 0)
    return ratio


def ratio_stderr(parts: Sequence[tuple[float, float]], clusters: Sequence[str]) -> float | None:
    """Standard error of sum(top) / sum(bottom) by the delta method when whole clusters are drawn.

    None for fewer than two clusters, or where the bottoms sum to zero.
    """
    whole = sum(bottom for _, bottom in parts)
    if not whole:
        return None
    centre = ratio(parts)
    scale = len(parts) / whole
    residuals = [scale * (top - centre * bottom) for top, bottom in parts]
    return clustered_stderr(residuals, clusters)


def clustered_stderr(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Standard error of the mean of ``values`` when whole clusters are drawn, or None for one.

    With one item a cluster it is the usual s / sqrt(n).
    """
    centre = sum(values) / len(values)
    sums: defaultdict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - centre
    if len(sums) < 2:
        return None
    spread = sum(total**2 for total in sums.values()) * len(sums) / (len(sums) - 1)
    return math.sqrt(spread) / len(values)
