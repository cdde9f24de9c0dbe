"""Numbers of a reliance profile, from a model's answers with and without each modality.

The tables of answers come from ``harness.reliance``. Every number is a ratio of sums over items or
computed from such ratios, so all intervals use the same resampled clusters, and training seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import DRAWS, Floats, Interval, Sample, resample_weights

REMAINING = {"image": "text", "text": "image"}
"""The view that remains when a modality is removed."""
WAYS = ("blank", "shuffled")
GROUPS = {
    (False, False): "neither",
    (True, False): "text",
    (False, True): "image",
    (True, True): "both",
}
"""Error groups by whether the text-only and the image-only answer are right."""
MOST_SUBSETS = 8
"""A task with more subsets than this is not split."""
CONFLICTS = {
    "prior": "items whose right answer is not the language prior's, which the text suggests",
    "misleading": "items shown with the text of an item of another class",
    "text_only": "items whose answer without the image is wrong",
}
"""Kinds of conflict items."""

NUMBERS = {
    "score.full": "score with image and text",
    "score.text.blank": "score without the image",
    "score.text.shuffled": "score with another item's image",
    "score.image.blank": "score without the text",
    "score.image.shuffled": "score with another item's text",
    "score.neither.blank": "score with neither",
    "score.neither.shuffled": "score with image and text of other items",
    "gain.image.blank": "gain from the image: full minus without the image",
    "gain.image.shuffled": "gain from the image: full minus with another item's image",
    "gain.text.blank": "gain from the text: full minus without the text",
    "gain.text.shuffled": "gain from the text: full minus with another item's text",
    "same.text.blank": "answers that stay the same without the image",
    "same.text.shuffled": "answers that stay the same with another item's image",
    "same.image.blank": "answers that stay the same without the text",
    "same.image.shuffled": "answers that stay the same with another item's text",
    "lean.answers": "same without the image minus same without the text; above 0 leans on text",
    "lean.shapley": "(phi text - phi image) / (|phi text| + |phi image|), Shapley values of the "
    "blank views' scores; 1 is text alone, -1 image alone",
    "information.image": "log-likelihood per token of the right answer, minus without image",
    "conflict.text": "conflict items answered with the text's or the language prior's answer",
    "conflict.image": "conflict items answered with the image's (right) answer",
    "additive.full": "score of the model on the items of the additive approximation",
    "additive.score": "score of the additive approximation",
    "additive.gap": "difference that only the interaction of both modalities explains",
} | {
    f"group.{name}.{number}": text
    for name, where in {
        "neither": "where neither modality alone is right",
        "text": "where only the text alone is right",
        "image": "where only the image alone is right",
        "both": "where each modality alone is right",
    }.items()
    for number, text in {
        "share": f"fraction of items {where}",
        "score": f"score with image and text {where}",
    }.items()
}
"""Description of every number of a profile."""
PERCENTAGES = tuple(name for name in NUMBERS if name not in ("lean.shapley", "information.image"))
"""Numbers shown in percent."""
RATES = ("score.", "same.", "conflict.", "group.", "additive.full", "additive.score")
"""Beginnings of the names of fractions; others are differences."""

Ratio = tuple[Floats, Floats]
"""Numerator and denominator of a number for each item: [n] each."""


@dataclass(frozen=True, slots=True)
class TaskReliance:
    """Numbers of one model on a task, or on a subset of one."""

    task: str
    subset: str
    """Empty for the full task."""
    metric: str
    higher_is_better: bool
    items: int
    clusters: int
    draws: int
    """Number of times that a modality was replaced by another item's."""
    conflict: str
    """A key of ``CONFLICTS``, or empty."""
    conflicts: int
    """Number of conflict items."""
    unparsed: float
    """Fraction of answers with image and text that could not be read."""
    numbers: Mapping[str, Interval]
    """By the names of ``NUMBERS``; only those that the model and the task have."""

    @property
    def name(self) -> str:
        return f"{self.task} {self.subset}".strip().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Reliance profile of one model."""

    model: str
    settings: Mapping[str, str]
    """Backbone, device, items, data, versions."""
    parts: tuple[TaskReliance, ...]


def profile_task(
    task: str, metric: str, *, higher_is_better: bool, runs: Sequence[pd.DataFrame]
) -> list[TaskReliance]:
    """Profile a task and its subsets, from one table of answers per training seed.

    Raises:
        UserError: fewer than two clusters, or the seeds have answers to different items.
    """
    counted = runs[0][(runs[0]["view"] == "full") & (runs[0]["bottom"] > 0)]
    clusters = counted[counted["subset"] != ""].groupby("subset")["cluster"].nunique()
    subsets = sorted(str(name) for name, count in clusters.items() if count > 1)
    profiles = [profile_rows(task, "", metric, higher_is_better, runs)]
    # One subset would repeat the task's own numbers; of many, none has enough items.
    for subset in subsets if 1 < len(subsets) <= MOST_SUBSETS else []:
        subset_runs = [rows[rows["subset"] == subset] for rows in runs]
        profiles.append(profile_rows(task, subset, metric, higher_is_better, subset_runs))
    return profiles


def profile_rows(
    task: str, subset: str, metric: str, higher_is_better: bool, runs: Sequence[pd.DataFrame]
) -> TaskReliance:
    first = runs[0]
    kind, conflicts = _conflict(_views(first), higher_is_better)
    samples = measure(runs, task, higher_is_better=higher_is_better)
    full = first[first["view"] == "full"]
    return TaskReliance(
        task=task,
        subset=subset,
        metric=metric,
        higher_is_better=higher_is_better,
        items=len(full),
        clusters=full["cluster"].nunique(),
        draws=int(first["draw"].max()) + 1,
        conflict=kind,
        conflicts=int(conflicts["conflict.text"][1].sum()) if kind else 0,
        unparsed=float(full["unparsed"].mean()),
        numbers={name: intervals.interval(samples[name]) for name in NUMBERS if name in samples},
    )


def measure(
    runs: Sequence[pd.DataFrame], task: str, *, higher_is_better: bool
) -> Mapping[str, Sample]:
    """Compute every number by name, over seeds and resampled items."""
    full = [rows[rows["view"] == "full"].sort_values("id") for rows in runs]
    ids, clusters = full[0]["id"].to_numpy(), full[0]["cluster"].to_numpy(str)
    if any(not np.array_equal(ids, rows["id"].to_numpy()) for rows in full):
        raise UserError(f"{task}: the seeds answered different items; run the command again.")
    if len(set(clusters)) < 2:
        raise UserError(f"{task}: an interval needs items of two clusters or more; raise --limit.")
    # Row 0 counts every item once: the estimate itself; the others are the resamples.
    weights = np.vstack([np.ones(len(ids)), resample_weights(clusters, DRAWS, task)])
    # The same weights for every seed and number, so that differences are paired.
    values = [_values(_ratios(rows, higher_is_better), weights) for rows in runs]
    seeds = [_derived(ratios, higher_is_better) for ratios in values]
    common = [name for name in seeds[0] if all(name in numbers for numbers in seeds)]
    return {
        name: Sample(
            np.array([numbers[name][0] for numbers in seeds]),
            np.stack([numbers[name][1:] for numbers in seeds]),
            len(set(clusters)),
            rate=name.startswith(RATES),
        )
        for name in common
        # A number with an empty denominator, as of an error group without items, is left out.
        if all(np.isfinite(numbers[name][0]) for numbers in seeds)
    }


def _views(rows: pd.DataFrame) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """Split rows by view and way into one table per draw, sorted by item."""
    views: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (view, way, _), draw in rows.groupby(["view", "way", "draw"], sort=True):
        views.setdefault((str(view), str(way)), []).append(draw.sort_values("id"))
    return views


def _ratios(rows: pd.DataFrame, higher_is_better: bool) -> dict[str, Ratio]:
    views = _views(rows)
    full = views["full", ""][0]
    ones = np.ones(len(full))
    ratios = {"score.full": _columns([full])}
    for (view, way), draws in views.items():
        if view not in ("full", "additive"):
            ratios[f"score.{view}.{way}"] = _columns(draws)
        if view in REMAINING:
            same = [draw["answer"].to_numpy() == full["answer"].to_numpy() for draw in draws]
            ratios[f"same.{view}.{way}"] = np.mean(same, axis=0), ones
    ratios |= _groups(views, higher_is_better) | _conflict(views, higher_is_better)[1]
    ratios |= _additive(views, full)
    gains = full["gain"].to_numpy(float)
    if np.isfinite(gains).all():
        ratios["information.image"] = gains, ones
    return ratios


def _columns(draws: Sequence[pd.DataFrame]) -> Ratio:
    """Return tops and bottoms, averaged over draws."""
    tops, bottoms = (np.mean([draw[end].to_numpy(float) for draw in draws], axis=0)
                     for end in ("top", "bottom"))  # fmt: skip
    return tops, bottoms


def _right(rows: pd.DataFrame, higher_is_better: bool) -> NDArray[np.bool_]:
    """Mark items with at least half of their points, or with less than half of their faults."""
    half = rows["bottom"].to_numpy(float) / 2
    tops = rows["top"].to_numpy(float)
    return np.asarray(tops >= half if higher_is_better else tops < half)


def _groups(
    views: Mapping[tuple[str, str], Sequence[pd.DataFrame]], higher_is_better: bool
) -> dict[str, Ratio]:
    """Return fractions of the four error groups and the full view's score inside each."""
    if ("image", "blank") not in views:
        return {}
    full, text, image = (
        views[key][0] for key in (("full", ""), ("text", "blank"), ("image", "blank"))
    )
    # Unscored in one view, an item belongs to no group.
    counted = np.all([rows["bottom"].to_numpy(float) > 0 for rows in (full, text, image)], axis=0)
    tops, bottoms = _columns([full])
    right_text, right_image = _right(text, higher_is_better), _right(image, higher_is_better)
    ratios: dict[str, Ratio] = {}
    for (by_text, by_image), name in GROUPS.items():
        inside = (right_text == by_text) & (right_image == by_image) & counted
        ratios[f"group.{name}.share"] = inside.astype(float), counted.astype(float)
        ratios[f"group.{name}.score"] = tops * inside, bottoms * inside
    return ratios


def _conflict(
    views: Mapping[tuple[str, str], Sequence[pd.DataFrame]], higher_is_better: bool
) -> tuple[str, dict[str, Ratio]]:
    """Return the kind of conflict items, and the fractions that follow the text and the image.

    Nothing without text beside the image: then nothing can disagree with it.
    """
    if ("image", "shuffled") not in views:
        return "", {}
    full, text_only = views["full", ""][0], views["text", "blank"][0]
    other_text = views["image", "shuffled"]
    prior, truth = full["habit"].to_numpy(), full["truth"].to_numpy()
    if (prior != "").any():
        kind, conflict, tables, texts = "prior", (prior != "") & (prior != truth), [full], [prior]
    elif any((rows["told"] != "").any() for rows in other_text):
        kind, tables = "misleading", list(other_text)
        texts = [rows["told"].to_numpy() for rows in tables]
        conflict = np.ones(len(full), bool)
    else:
        kind, tables, texts = "text_only", [full], [text_only["answer"].to_numpy()]
        conflict = ~_right(text_only, higher_is_better)
        conflict &= text_only["bottom"].to_numpy(float) > 0
    # Text that suggests nothing, or the right answer, is no conflict.
    counted = [conflict & (text != "") & (text != truth) for text in texts]
    if not np.any(counted):
        return "", {}
    by_text = [rows["answer"].to_numpy() == text for rows, text in zip(tables, texts, strict=True)]
    # Where several answers may be right, the score decides, not equality with the listed one.
    by_image = [
        _right(rows, higher_is_better)
        if kind == "text_only"
        else rows["answer"].to_numpy() == rows["truth"].to_numpy()
        for rows in tables
    ]
    return kind, {
        f"conflict.{modality}": (
            np.mean([a & b for a, b in zip(counted, follows, strict=True)], axis=0),
            np.mean(counted, axis=0),
        )
        for modality, follows in (("text", by_text), ("image", by_image))
    }


def _additive(
    views: Mapping[tuple[str, str], Sequence[pd.DataFrame]], full: pd.DataFrame
) -> dict[str, Ratio]:
    """Return scores of the model and its additive approximation, on the latter's items."""
    if ("additive", "") not in views:
        return {}
    additive = views["additive", ""][0]
    # The approximation has a part of the items; both tables are sorted by id.
    indices = np.searchsorted(full["id"].to_numpy(str), additive["id"].to_numpy(str))
    inside, score = np.zeros(len(full)), np.zeros(len(full))
    inside[indices], score[indices] = 1.0, additive["top"].to_numpy(float)
    tops, _ = _columns([full])
    return {"additive.full": (tops * inside, inside), "additive.score": (score, inside)}


def _values(ratios: Mapping[str, Ratio], weights: Floats) -> dict[str, Floats]:
    """Compute each ratio under item weights [R, n]: [R]; NaN where no item counts."""
    tops = weights @ np.stack([top for top, _ in ratios.values()], axis=1)
    bottoms = weights @ np.stack([bottom for _, bottom in ratios.values()], axis=1)
    nothing = np.full(tops.shape, np.nan)
    quotients = np.divide(tops, bottoms, out=nothing, where=bottoms != 0)
    return dict(zip(ratios, quotients.T, strict=True))


def _derived(values: Mapping[str, Floats], higher_is_better: bool) -> dict[str, Floats]:
    """Return the ratios, and the numbers computed from them."""
    numbers, sign = dict(values), 1 if higher_is_better else -1
    for modality, remaining in REMAINING.items():
        for way in WAYS:
            if f"score.{remaining}.{way}" in values:
                gain = values["score.full"] - values[f"score.{remaining}.{way}"]
                numbers[f"gain.{modality}.{way}"] = sign * gain
    if "same.image.blank" in values:
        numbers["lean.answers"] = values["same.text.blank"] - values["same.image.blank"]
        numbers["lean.shapley"] = _shapley(values)
    if "additive.score" in values:
        numbers["additive.gap"] = sign * (values["additive.full"] - values["additive.score"])
    return numbers


def _shapley(values: Mapping[str, Floats]) -> Floats:
    """Return the imbalance of the modalities' Shapley values; NaN where none changes the score."""
    full, text, image, neither = (
        values[name]
        for name in ("score.full", "score.text.blank", "score.image.blank", "score.neither.blank")
    )
    by_text = ((text - neither) + (full - image)) / 2
    by_image = ((image - neither) + (full - text)) / 2
    size = np.abs(by_text) + np.abs(by_image)
    nothing = np.full(len(full), np.nan)
    return np.asarray(np.divide(by_text - by_image, size, out=nothing, where=size > 0))
