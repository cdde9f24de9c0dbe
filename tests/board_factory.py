"""Synthetic records for the tests of boards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steelyard.harness.record import ITEMS, Ledger, Record, Score, write
from steelyard.harness.spec import RunSpec
from steelyard.leaderboards.board import Board, build
from steelyard.leaderboards.collect import collect

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
    higher_is_better: bool = True,
    status: str = "done",
    flops: float = 100.0,
    budget: str = "S",
    backbone: str = "tiny",
    clusters: Sequence[str] | None = None,
    revision: str = "r1",
    device: str = "cpu",
    recorded: Mapping[str, float] | None = None,
    method: str = "",
) -> Path:
    """Write one run: its record and, when done, its items."""
    spec = RunSpec(
        method=method or label, task=task, backbone=backbone, budget=budget, seed=seed,
        data={"revision": revision},
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
    pq.write_table(pa.table(rows), folder / ITEMS)


def first(count: int, of: int = 10) -> list[float]:
    """Scores of items of which the first ``count`` are right."""
    return [1.0] * count + [0.0] * (of - count)


def profile(clean: int, image: int, text: int) -> dict[str, list[float]]:
    """Right answers of ten on clean, blank image and blank text."""
    return {"clean": first(clean), "image-blank": first(image), "text-blank": first(text)}


def board_of(root: Path, **options: Any) -> Board:
    return build(collect([root]), "toy", **options)
