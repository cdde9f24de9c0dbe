"""Synthetic records for the tests of boards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steelyard.harness.core.files import write_items as save_items
from steelyard.harness.records.budget import Track
from steelyard.harness.records.record import ITEMS, Ledger, Record, Score, items_file, write
from steelyard.harness.records.spec import RunSpec
from steelyard.leaderboards.boards.board import Board, build
from steelyard.leaderboards.loading.collect import collect

Hits = Mapping[str, Sequence[float]]
"""Item scores by variant."""


def make_run(
    root: Path,
    label: str,
    hits: Hits,
    *,
    seed: int = 0,
    task: str = "toy",
    metric: str = "accuracy",
    higher_is_better: bool | None = True,
    status: str = "done",
    flops: float = 100.0,
    budget: str = "S",
    backbone: str = "tiny",
    clusters: Sequence[str] | None = None,
    revision: str = "r1",
    device: str = "cpu",
    recorded: Mapping[str, float] | None = None,
    method: str = "",
    track: Track = "compute",
) -> Path:
    """Write one run: its record and, when done, its items."""
    spec = RunSpec(
        method=method or label, task=task, backbone=backbone, budget=budget, seed=seed,
        data={"revision": revision}, track=track,
    )  # fmt: skip
    values = {variant: float(np.mean(score)) for variant, score in hits.items()} | (recorded or {})
    scores = [
        Score(task, variant, metric, value, len(hits[variant]), None, True, higher_is_better)
        for variant, value in values.items()
    ]
    half = flops / 2
    ledger = Ledger(
        flops={"forward": half, "backward": half}, seconds={"forward": 2.0}, steps=10, items=320,
        peak_bytes=2**20, device=device, limit_flops=None, limit_seconds=None, stopped="finished",
    )  # fmt: skip
    failed = status == "failed"
    record = Record(
        id=spec.id, label=label, spec=spec, status="failed" if failed else "done",
        failure="loss became nan at step 3" if failed else "", ledger=ledger,
        scores=() if failed else tuple(scores), provenance={"data": {"classes": 2}},
    )  # fmt: skip
    folder = root / f"{len(list(root.glob('*'))):04d}"
    folder.mkdir(parents=True)
    if not failed:
        write_items(folder, hits, clusters)
    write(record, folder)
    return folder


def write_items(folder: Path, hits: Hits, clusters: Sequence[str] | None = None) -> None:
    """One row an item and variant, in an order that is not that of the ids."""
    rows: dict[str, list[Any]] = {
        name: []
        for name in ("variant", "id", "cluster", "target", "predicted", "score", "confidence")
    }
    for variant, scores in hits.items():
        for item, score in reversed(list(enumerate(scores))):
            rows["variant"].append(variant)
            rows["id"].append(f"{item:05d}")
            rows["cluster"].append(clusters[item] if clusters else f"{item:05d}")
            rows["target"].append([item % 2])
            rows["predicted"].append([item % 2 if score else 1 - item % 2])
            rows["score"].append(float(score))
            rows["confidence"].append(0.5)
    save_items(pd.DataFrame(rows), folder / ITEMS)


def first(count: int, of: int = 10) -> list[float]:
    """Scores of items of which the first ``count`` are right."""
    return [1.0] * count + [0.0] * (of - count)


def profile(clean: int, image: int, text: int) -> dict[str, list[float]]:
    """Right answers of ten on clean, blank image and blank text."""
    return {"clean": first(clean), "image-blank": first(image), "text-blank": first(text)}


def board_of(root: Path, **options: Any) -> Board:
    return build(collect([root]), "toy", **options)


METRICS: Mapping[str, tuple[bool | None, bool]] = {  # direction, shown
    "f1": (True, True),
    "wrong": (False, True),
    "yes_rate": (None, True),
}
Answers = Sequence[tuple[bool, bool]]
"""Target and prediction of each item, yes or no."""


def parts(target: bool, said: bool) -> dict[str, tuple[float, float]]:
    return {
        "f1": (2.0 * (target and said), float(target) + float(said)),
        "wrong": (float(target != said), 1.0),
        "yes_rate": (float(said), 1.0),
    }


def make_answered(
    root: Path,
    label: str,
    answers: Mapping[str, Mapping[str, Answers]],
    *,
    seed: int = 0,
    failed: bool = False,
    method: str = "sft",
    options: Mapping[str, str | int | float | bool] | None = None,
    track: Track = "compute",
) -> None:
    """A run trained on ``pool`` and scored on tasks and variants."""
    spec = RunSpec(method, "pool", "tiny-vlm", "S", seed, options=options or {},
                   data={"revision": "r"}, track=track)  # fmt: skip
    folder = root / f"{label}-{seed}"
    folder.mkdir(parents=True)
    scores = []
    for task, variants in answers.items():
        rows = []
        for variant, given in variants.items():
            each = [parts(*pair) for pair in given]
            for number, (pair, counted) in enumerate(zip(given, each, strict=True)):
                row = {"variant": variant, "id": f"{number:03}", "cluster": f"{number // 2:03}"}
                row |= {"subset": "even" if number % 2 == 0 else "odd", "answer": str(pair[1])}
                for name, (top, bottom) in counted.items():
                    row |= {f"{name}.top": top, f"{name}.bottom": bottom}
                rows.append(row)
            for subset in ("", "even"):
                chosen = [c for n, c in enumerate(each) if not subset or n % 2 == 0]
                for name, (higher, shown) in METRICS.items():
                    top, bottom = np.sum([c[name] for c in chosen], axis=0)
                    scores.append(
                        Score(task, variant, name, top / bottom if bottom else 0.0, len(chosen),
                              None, name == "f1" and not subset, higher, subset,
                              shown and (not subset or name == "f1"))
                    )  # fmt: skip
        table = pd.DataFrame(rows[::-1])
        save_items(table, folder / items_file(task, "pool"))
    ledger = Ledger({"forward": 60.0, "mine": 40.0}, {"train": 1.0}, 10, 320, 2**20, "cpu", 100.0,
                    None, "budget")  # fmt: skip
    record = Record(
        spec.id, label, spec, "failed" if failed else "done", "loss became nan at step 3" if failed
        else "", ledger, () if failed else tuple(scores), {"data": {"classes": 0}},
    )  # fmt: skip
    write(record, folder)


TRUTH = [number % 3 == 0 for number in range(40)]


def said(right: int) -> Answers:
    """Right on the first ``right`` items, inverted on the others."""
    return [(t, t if number < right else not t) for number, t in enumerate(TRUTH)]


def entry(right: int, blind: int = 20) -> dict[str, dict[str, Answers]]:
    return {
        "pool": {"clean": said(right)},
        "asked": {"clean": said(right), "image-blank": said(blind), "image-noise:3": said(30)},
    }
