"""How far a model relies on image and text: a pure function of its answers with sides taken away.

The rows come from ``harness.reliance``. Every number is a ratio of sums over items or made of such,
so all have intervals from the same resampled clusters; of several training seeds, also over them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.leaderboards.stats import intervals
from steelyard.leaderboards.stats.intervals import DRAWS, Floats, Interval, Sample, resample_weights

TAKEN = {"image": "text", "text": "image"}
"""The view that is left when a side is taken away."""
WAYS = ("blank", "shuffled")
GROUPS = {
    (False, False): "neither",
    (True, False): "text",
    (False, True): "image",
    (True, True): "both",
}
"""Error groups by whether the text-only and the image-only view are right."""
MOST_PARTS = 8
"""A task with more parts than this is shown as a whole."""
CONFLICTS = {
    "habit": "items whose right answer is not the usual one, which the text suggests",
    "misleading": "items shown with the text of an item of another class",
    "blind": "items whose answer without the image is wrong",
}
"""What conflict items are, by how they were found."""

NUMBERS = {
    "score.full": "score with image and text",
    "score.text.blank": "score without the image",
    "score.text.shuffled": "score with another item's image",
    "score.image.blank": "score without the text",
    "score.image.shuffled": "score with another item's text",
    "score.neither.blank": "score with neither",
    "score.neither.shuffled": "score with image and text of other items",
    "gain.image.blank": "what the image adds: full minus without the image",
    "gain.image.shuffled": "what the image adds: full minus with another item's image",
    "gain.text.blank": "what the text adds: full minus without the text",
    "gain.text.shuffled": "what the text adds: full minus with another item's text",
    "same.text.blank": "answers that stay the same without the image",
    "same.text.shuffled": "answers that stay the same with another item's image",
    "same.image.blank": "answers that stay the same without the text",
    "same.image.shuffled": "answers that stay the same with another item's text",
    "lean.answers": "same without the image minus same without the text; above 0 leans on text",
    "lean.shapley": "(phi text - phi image) / (|phi text| + |phi image|), Shapley values of the "
    "blank views' scores; 1 is text alone, -1 image alone",
    "information.image": "log-likelihood a token of the right answer minus that without the image",
    "conflict.text": "conflict items answered with the text's, or usual, answer",
    "conflict.image": "conflict items answered with the image's, the right, answer",
    "additive.full": "score of the model on the items of the additive approximation",
    "additive.score": "score of the additive approximation",
    "additive.gap": "what only the interaction of both sides explains",
} | {
    f"group.{name}.{what}": text
    for name, where in {
        "neither": "where neither side alone is right",
        "text": "where only the text alone is right",
        "image": "where only the image alone is right",
        "both": "where each side alone is right",
    }.items()
    for what, text in {
        "share": f"share of items {where}",
        "score": f"score with image and text {where}",
    }.items()
}
"""Every number of a profile and what it is."""
SHARES = tuple(name for name in NUMBERS if name not in ("lean.shapley", "information.image"))
"""Numbers shown in percent."""

Ratio = tuple[Floats, Floats]
"""Tops and bottoms of a number, one an item."""
Measured = Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class Part:
    """A task, or a part of one, as one model answers it."""

    task: str
    subset: str
    """Empty for the whole."""
    metric: str
    higher_is_better: bool
    items: int
    clusters: int
    draws: int
    """How often a side was replaced by another item's."""
    conflict: str
    """A key of ``CONFLICTS``; empty where there is none."""
    conflicts: int
    """Conflict items."""
    numbers: Mapping[str, Interval]
    """By the names of ``NUMBERS``, those that the model and the task have."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.task} {self.subset}".strip().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The profile of one model."""

    model: str
    settings: Mapping[str, str]
    """How it was asked: backbone, device, items, data, versions."""
    parts: tuple[Part, ...]


def parts(
    task: str, metric: str, *, higher_is_better: bool, runs: Sequence[pd.DataFrame]
) -> list[Part]:
    """The profile of a task and of its parts, from one table of answers a training seed.

    Raises:
        UserError: fewer than two clusters, or the seeds were asked about different items.
    """
    counted = runs[0][(runs[0]["view"] == "full") & (runs[0]["bottom"] > 0)]
    clusters = counted[counted["subset"] != ""].groupby("subset")["cluster"].nunique()
    subsets = sorted(str(name) for name, count in clusters.items() if count > 1)
    named = subsets if 1 < len(subsets) <= MOST_PARTS else []
    whole = part(task, "", metric, higher_is_better, runs)
    return [whole, *(_part_of(whole, subset, runs) for subset in named)]


def _part_of(whole: Part, subset: str, runs: Sequence[pd.DataFrame]) -> Part:
    own = [rows[rows["subset"] == subset] for rows in runs]
    return part(whole.task, subset, whole.metric, whole.higher_is_better, own)


def part(
    task: str, subset: str, metric: str, higher_is_better: bool, runs: Sequence[pd.DataFrame]
) -> Part:
    """The profile of these rows as one."""
    first = runs[0]
    kind, conflicts = _conflict(_views(first), higher_is_better)
    found = measure(runs, task, higher_is_better=higher_is_better)
    full = first[first["view"] == "full"]
    return Part(
        task=task,
        subset=subset,
        metric=metric,
        higher_is_better=higher_is_better,
        items=len(full),
        clusters=full["cluster"].nunique(),
        draws=int(first["draw"].max()) + 1,
        conflict=kind,
        conflicts=int(conflicts["conflict.text"][1].sum()) if kind else 0,
        numbers={name: intervals.interval(found[name]) for name in NUMBERS if name in found},
    )


def measure(runs: Sequence[pd.DataFrame], task: str, *, higher_is_better: bool) -> Measured:
    """Every number that these rows give, by name, over seeds and resampled items."""
    full = [_full(rows) for rows in runs]
    ids, clusters = full[0]["id"].to_numpy(), full[0]["cluster"].to_numpy(str)
    if any(not np.array_equal(ids, other["id"].to_numpy()) for other in full):
        raise UserError(f"{task}: the seeds were asked about different items, ask them anew.")
    if len(set(clusters)) < 2:
        raise UserError(f"{task}: an interval needs items of two clusters or more, ask more.")
    weights = np.vstack([np.ones(len(ids)), resample_weights(clusters, DRAWS, task)])
    values = [_values(_ratios(rows, higher_is_better), weights) for rows in runs]
    found = [_derived(one, higher_is_better) for one in values]
    common = [name for name in found[0] if all(name in other for other in found)]
    return {
        name: Sample(
            np.array([one[name][0] for one in found]),
            np.stack([one[name][1:] for one in found]),
            len(set(clusters)),
        )
        for name in common
        if all(np.isfinite(one[name][0]) for one in found)
    }


def _full(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["view"] == "full"].sort_values("id")


def _views(rows: pd.DataFrame) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """Rows by view and way, one table a draw, each sorted by item."""
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (view, way, _), own in rows.groupby(["view", "way", "draw"], sort=True):
        found.setdefault((str(view), str(way)), []).append(own.sort_values("id"))
    return found


def _ratios(rows: pd.DataFrame, higher_is_better: bool) -> dict[str, Ratio]:
    views = _views(rows)
    full = views["full", ""][0]
    one = np.ones(len(full))
    found = {"score.full": _columns([full])}
    for (view, way), draws in views.items():
        if view not in ("full", "additive"):
            found[f"score.{view}.{way}"] = _columns(draws)
        if view in TAKEN:
            same = [own["answer"].to_numpy() == full["answer"].to_numpy() for own in draws]
            found[f"same.{view}.{way}"] = np.mean(same, axis=0), one
    found |= _groups(views, higher_is_better) | _conflict(views, higher_is_better)[1]
    found |= _additive(views, full)
    gains = full["gain"].to_numpy(float)
    if np.isfinite(gains).all():
        found["information.image"] = gains, one
    return found


def _columns(draws: Sequence[pd.DataFrame]) -> Ratio:
    """Tops and bottoms, averaged over draws."""
    tops, bottoms = (np.mean([own[end].to_numpy(float) for own in draws], axis=0)
                     for end in ("top", "bottom"))  # fmt: skip
    return tops, bottoms


def _right(rows: pd.DataFrame, higher_is_better: bool) -> NDArray[np.bool_]:
    """Whether an item has at least half of its points, or less than half of its faults."""
    half = rows["bottom"].to_numpy(float) / 2
    tops = rows["top"].to_numpy(float)
    return np.asarray(tops >= half if higher_is_better else tops < half)


def _groups(
    views: Mapping[tuple[str, str], Sequence[pd.DataFrame]], higher_is_better: bool
) -> dict[str, Ratio]:
    """Shares of the four error groups and the full view's score inside each."""
    if ("image", "blank") not in views:
        return {}
    full, text, image = (
        views[key][0] for key in (("full", ""), ("text", "blank"), ("image", "blank"))
    )
    counted = np.all([own["bottom"].to_numpy(float) > 0 for own in (full, text, image)], axis=0)
    tops, bottoms = _columns([full])
    right_text, right_image = _right(text, higher_is_better), _right(image, higher_is_better)
    found: dict[str, Ratio] = {}
    for (by_text, by_image), name in GROUPS.items():
        inside = (right_text == by_text) & (right_image == by_image) & counted
        found[f"group.{name}.share"] = inside.astype(float), counted.astype(float)
        found[f"group.{name}.score"] = tops * inside, bottoms * inside
    return found


def _conflict(
    views: Mapping[tuple[str, str], Sequence[pd.DataFrame]], higher_is_better: bool
) -> tuple[str, dict[str, Ratio]]:
    """How conflict items were found, and the shares answered by the text and by the image.

    None without text beside the image: there is nothing that could disagree with it.
    """
    if ("image", "shuffled") not in views:
        return "", {}
    full, blind = views["full", ""][0], views["text", "blank"][0]
    told = views["image", "shuffled"]
    habit, truth = full["habit"].to_numpy(), full["truth"].to_numpy()
    if (habit != "").any():
        kind, conflict, rows, text = "habit", (habit != "") & (habit != truth), [full], [habit]
    elif any((own["told"] != "").any() for own in told):
        kind, rows, text = "misleading", list(told), [own["told"].to_numpy() for own in told]
        conflict = np.ones(len(full), bool)
    else:
        kind, rows, text = "blind", [full], [blind["answer"].to_numpy()]
        conflict = ~_right(blind, higher_is_better) & (blind["bottom"].to_numpy(float) > 0)
    counted = [conflict & (words != "") & (words != truth) for words in text]
    if not np.any(counted):
        return "", {}
    by_text = [own["answer"].to_numpy() == words for own, words in zip(rows, text, strict=True)]
    by_image = [_by_image(own, kind, higher_is_better) for own in rows]
    return kind, {
        f"conflict.{modality}": (
            np.mean([a & b for a, b in zip(counted, follows, strict=True)], axis=0),
            np.mean(counted, axis=0),
        )
        for modality, follows in (("text", by_text), ("image", by_image))
    }


def _by_image(rows: pd.DataFrame, kind: str, higher_is_better: bool) -> NDArray[np.bool_]:
    """Whether the answer is the image's: the right one, of several that may be right."""
    if kind == "blind":
        return _right(rows, higher_is_better)
    return np.asarray(rows["answer"].to_numpy() == rows["truth"].to_numpy())


def _additive(
    views: Mapping[tuple[str, str], Sequence[pd.DataFrame]], full: pd.DataFrame
) -> dict[str, Ratio]:
    """Scores of the model and of its additive approximation on the latter's items."""
    if ("additive", "") not in views:
        return {}
    own = views["additive", ""][0]
    place = np.searchsorted(full["id"].to_numpy(str), own["id"].to_numpy(str))
    inside, score = np.zeros(len(full)), np.zeros(len(full))
    inside[place], score[place] = 1.0, own["top"].to_numpy(float)
    tops, _ = _columns([full])
    return {"additive.full": (tops * inside, inside), "additive.score": (score, inside)}


def _values(ratios: Mapping[str, Ratio], weights: Floats) -> dict[str, Floats]:
    """Each ratio under every row of item weights [R, n]: [R]; NaN where nothing is counted."""
    tops = weights @ np.stack([top for top, _ in ratios.values()], axis=1)
    bottoms = weights @ np.stack([bottom for _, bottom in ratios.values()], axis=1)
    nothing = np.full(tops.shape, np.nan)
    found = np.divide(tops, bottoms, out=nothing, where=bottoms != 0)
    return dict(zip(ratios, found.T, strict=True))


def _derived(values: Mapping[str, Floats], higher_is_better: bool) -> dict[str, Floats]:
    """The ratios, and what is made of them."""
    found, sign = dict(values), 1 if higher_is_better else -1
    for modality, left in TAKEN.items():
        for way in WAYS:
            if f"score.{left}.{way}" in values:
                gain = values["score.full"] - values[f"score.{left}.{way}"]
                found[f"gain.{modality}.{way}"] = sign * gain
    if "same.image.blank" in values:
        found["lean.answers"] = values["same.text.blank"] - values["same.image.blank"]
        found["lean.shapley"] = _shapley(values)
    if "additive.score" in values:
        found["additive.gap"] = sign * (values["additive.full"] - values["additive.score"])
    return found


def _shapley(values: Mapping[str, Floats]) -> Floats:
    """Imbalance of the sides' Shapley values; NaN where neither side changes the score."""
    full, text, image, neither = (
        values[name]
        for name in ("score.full", "score.text.blank", "score.image.blank", "score.neither.blank")
    )
    by_text = ((text - neither) + (full - image)) / 2
    by_image = ((image - neither) + (full - text)) / 2
    size = np.abs(by_text) + np.abs(by_image)
    nothing = np.full(len(full), np.nan)
    return np.asarray(np.divide(by_text - by_image, size, out=nothing, where=size > 0))
