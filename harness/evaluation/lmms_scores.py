"""Scores and items of lmms-eval's own tasks, whose metrics may be any function of all answers.

A metric that is a weighted mean of one number per item (``metric_weights``) gets a standard error
and columns in the item table; any other is recorded as a value only.
"""

import argparse
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import TemporaryFolder
from steelyard.harness.evaluation.metric_weights import EXACT, is_number, metric_weights
from steelyard.harness.evaluation.scores import Evaluation, as_items
from steelyard.harness.records.record import Score
from steelyard.tasks import Variant
from steelyard.tasks.metrics import ratio_stderr

if TYPE_CHECKING:
    from steelyard.tasks._lmms.stock_task import StockTask


@contextmanager
def settings(task: "StockTask") -> Iterator[argparse.Namespace]:
    """Yield the ``lmms-eval`` command's settings; files and output of the task are dropped."""
    from loguru import logger

    config = task.config
    rules = [config.doc_to_visual, config.doc_to_text, config.doc_to_target, config.process_results]
    modules = {rule.__module__ for rule in (*rules, *task.aggregation().values()) if callable(rule)}
    # Some tasks write answers to files and print while they score.
    with TemporaryFolder() as folder, redirect_stdout(io.StringIO()):
        for module in modules:
            logger.disable(module)
        try:
            yield argparse.Namespace(process_with_media=False, output_path=folder)
        finally:
            for module in modules:
                logger.enable(module)


@dataclass(frozen=True, slots=True)
class StockMetric:
    """Value of one metric, and its items' parts."""

    name: str
    value: float
    parts: Mapping[int, tuple[float, float]]
    """By document, sums whose ratio is the value; empty if it is no weighted mean."""
    is_fraction: bool
    """Whether it is a mean of numbers from 0 to 1, so that boards can show it."""


def stock_evaluation(
    variant: Variant,
    task: "StockTask",
    values: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
) -> Evaluation:
    """Build scores and items from lmms-eval's results; UserError if no metric is a number.

    lmms-eval names no main metric. It is the fraction over the most documents, the first of
    several; without a fraction there is none.
    """
    metrics = [
        _stock_metric(task, metric, float(values[key]), samples)
        for metric in task.aggregation()
        if is_number(values.get(key := f"{metric},{task.filter_name}"))
    ]
    if not metrics:
        raise UserError(
            f"{variant}: none of its metrics is a number ({', '.join(task.aggregation())}): it "
            "only writes answers to files, for others to score."
        )
    fractions = [metric for metric in metrics if metric.is_fraction]
    main = max(fractions, key=lambda metric: len(metric.parts)).name if fractions else ""
    clusters = [item.cluster or item.id for item in task.items]
    scores = tuple(
        Score(
            task=variant.task,
            variant=variant.name,
            metric=metric.name,
            value=metric.value,
            n=sum(metric.name in sample for sample in samples),
            stderr=(
                ratio_stderr(list(metric.parts.values()), [clusters[i] for i in metric.parts])
                if metric.parts
                else None
            ),
            main=metric.name == main,
            higher_is_better=task.higher_is_better()[metric.name],
        )
        for metric in metrics
    )
    rows = []
    for sample in sorted(samples, key=lambda sample: task.items[sample["doc_id"]].id):
        index = sample["doc_id"]
        answer = str(sample["filtered_resps"][0])
        item = {"id": task.items[index].id, "cluster": clusters[index]}
        parts = {m.name: m.parts.get(index, (0.0, 0.0)) for m in metrics if m.parts}
        rows.append(({**item, "subset": "", "answer": answer}, parts))
    return Evaluation(variant, scores, as_items(variant, rows))


def _stock_metric(
    task: "StockTask", metric: str, value: float, samples: Sequence[Mapping[str, Any]]
) -> StockMetric:
    results = {sample["doc_id"]: sample[metric] for sample in samples if metric in sample}
    key = task.config.score_key
    values = [
        result.get(key) if isinstance(result, dict) else result for result in results.values()
    ]
    if not all(map(is_number, values)):
        return StockMetric(metric, value, {}, False)
    numbers = np.array(values, dtype=np.float64)
    weights = metric_weights(task.aggregation()[metric], list(results.values()), key)
    # The weights come from made-up numbers, so they are tested on the real ones.
    if weights is None or not math.isclose(weights @ numbers, value, rel_tol=EXACT, abs_tol=EXACT):
        return StockMetric(metric, value, {}, False)
    # Bottoms add up to n and tops to n times the value, whatever the sum of the weights.
    tops, bottoms = len(numbers) * weights * numbers, len(numbers) * weights / weights.sum()
    parts = zip(results, zip(tops.tolist(), bottoms.tolist(), strict=True), strict=True)
    is_mean = math.isclose(weights.sum(), 1, abs_tol=EXACT)
    in_range = bool(((numbers >= 0) & (numbers <= 1)).all())
    return StockMetric(metric, value, dict(parts), is_mean and in_range)
