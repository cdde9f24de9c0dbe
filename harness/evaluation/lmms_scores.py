"""Scores and items of a task of lmms-eval, whose metrics may be any function of all answers.

A board resamples items, so it has to know what each item adds to a metric. For a metric that is a
weighted mean of one number an item, whatever the weights, that is found out by asking the metric
about made-up numbers. Any other metric (F1, pairs of questions) is recorded without an interval.
"""

import argparse
import inspect
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.errors import UserError
from steelyard.harness.evaluation.scores import Evaluation, as_items
from steelyard.harness.records.record import Score
from steelyard.tasks import Variant
from steelyard.tasks.metrics import ratio_stderr

if TYPE_CHECKING:
    from steelyard.tasks._lmms.stock_task import StockTask

Floats = NDArray[np.float64]
Part = tuple[float, float]
REASONING = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
"""What the ``lmms-eval`` command takes out of answers unless told otherwise."""
MOST_CALLS = 3000
"""Items above which a metric is not asked about each of them alone."""
EXACT = 1e-9


@contextmanager
def settings(task: "StockTask") -> Iterator[argparse.Namespace]:
    """What the ``lmms-eval`` command would pass on; what a task writes or prints goes nowhere."""
    from loguru import logger

    config = task.config
    rules = [config.doc_to_visual, config.doc_to_text, config.doc_to_target, config.process_results]
    talking = {rule.__module__ for rule in (*rules, *task.aggregation().values()) if callable(rule)}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        for module in talking:
            logger.disable(module)
        try:
            yield argparse.Namespace(
                process_with_media=False, reasoning_tags=REASONING, output_path=folder
            )
        finally:
            for module in talking:
                logger.enable(module)


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of a task."""

    name: str
    value: float
    parts: Mapping[int, Part]
    """By document, sums whose ratio is the value; empty where it is no weighted mean."""
    is_share: bool
    """Whether it is a weighted mean of numbers from 0 to 1, so that boards can show it."""


def evaluation(
    variant: Variant,
    task: "StockTask",
    values: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
) -> Evaluation:
    """Scores and items from what lmms-eval returned.

    The main metric is the share that most documents have part in, the first listed of several;
    without any share there is none, for upstream names none.

    Raises:
        UserError: the task gave no number.
    """
    found = [
        _measured(task, metric, float(values[key]), samples)
        for metric in task.aggregation()
        if _is_number(values.get(key := f"{metric},{task.filter_name}"))
    ]
    if not found:
        raise UserError(
            f"{variant}: none of its metrics is a number ({', '.join(task.aggregation())}): it "
            "only writes answers down for others to score."
        )
    shares = [each for each in found if each.is_share]
    main = max(shares, key=lambda each: len(each.parts)).name if shares else ""
    ordered = sorted(samples, key=lambda sample: task.items[sample["doc_id"]].id)
    scores = tuple(_score(variant, task, each, each.name == main, samples) for each in found)
    return Evaluation(variant, scores, as_items([_row(variant, task, found, s) for s in ordered]))


def _measured(
    task: "StockTask", metric: str, value: float, samples: Sequence[Mapping[str, Any]]
) -> Measured:
    given = {sample["doc_id"]: sample[metric] for sample in samples if metric in sample}
    key = task.config.score_key
    numbers = [each.get(key) if isinstance(each, dict) else each for each in given.values()]
    if not all(map(_is_number, numbers)):
        return Measured(metric, value, {}, False)
    own = np.array(numbers, dtype=np.float64)
    found = weights(task.aggregation()[metric], list(given.values()), key)
    if found is None or not math.isclose(found @ own, value, rel_tol=EXACT, abs_tol=EXACT):
        return Measured(metric, value, {}, False)
    tops, bottoms = len(own) * found * own, len(own) * found / found.sum()
    parts = zip(given, zip(tops.tolist(), bottoms.tolist(), strict=True), strict=True)
    plain = math.isclose(found.sum(), 1, abs_tol=EXACT)
    return Measured(metric, value, dict(parts), plain and bool(((own >= 0) & (own <= 1)).all()))


def weights(rule: Callable[..., Any], given: Sequence[Any], key: str) -> Floats | None:
    """How much each document's number weighs [n] in a metric that is a weighted sum of them.

    None for any other metric, and for one that also writes files or asks a judge (``args``).

    Args:
        rule: the metric, from a list of what single documents got to a number.
        given: numbers, or mappings that hold one under ``key`` beside what else the rule reads.
    """
    if "args" in inspect.signature(rule).parameters:
        return None
    count = len(given)
    made, held = list(given), np.full(count, np.nan)

    def ask(numbers: Floats) -> float:
        for place in np.flatnonzero(numbers != held).tolist():
            number, own = float(numbers[place]), given[place]
            made[place] = {**own, key: number} if isinstance(own, dict) else number
        held[:] = numbers
        answer = rule(list(made))
        return float(answer) if _is_number(answer) else math.nan

    rng = np.random.default_rng(0)
    probes = (np.ones(count), rng.random(count), rng.integers(2, size=count).astype(float))
    try:
        answers = [ask(probe) for probe in probes]
        if ask(np.zeros(count)) != 0 or not answers[0]:
            return None
        alike = np.full(count, answers[0] / count)
        if _fits(alike, probes, answers):
            return alike
        halves = ask((probes[0] + probes[1]) / 2)
        if count > MOST_CALLS or not math.isclose(2 * halves, answers[0] + answers[1]):
            return None
        apart = np.array([ask((np.arange(count) == place) * 1.0) for place in range(count)])
    except UserError:  # the rule does not take made-up numbers
        return None
    return apart if _fits(apart, probes, answers) else None


def _fits(found: Floats, probes: Sequence[Floats], answers: Sequence[float]) -> bool:
    return all(
        math.isclose(found @ probe, answer, rel_tol=EXACT, abs_tol=EXACT)
        for probe, answer in zip(probes, answers, strict=True)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _score(
    variant: Variant,
    task: "StockTask",
    metric: Measured,
    main: bool,
    samples: Sequence[Mapping[str, Any]],
) -> Score:
    clusters = [task.items[place].cluster or task.items[place].id for place in metric.parts]
    return Score(
        task=variant.task,
        variant=variant.name,
        metric=metric.name,
        value=metric.value,
        n=sum(metric.name in sample for sample in samples),
        stderr=ratio_stderr(list(metric.parts.values()), clusters) if clusters else None,
        main=main,
        higher_is_better=task.higher_is_better()[metric.name],
    )


def _row(
    variant: Variant, task: "StockTask", metrics: Sequence[Measured], sample: Mapping[str, Any]
) -> dict[str, Any]:
    place = sample["doc_id"]
    item = task.items[place]
    row: dict[str, Any] = {
        "variant": variant.name,
        "id": item.id,
        "cluster": item.cluster or item.id,
        "subset": "",
        "answer": str(sample["filtered_resps"][0]),
    }
    for metric in metrics:
        if metric.parts:
            top, bottom = metric.parts.get(place, (0.0, 0.0))
            row |= {f"{metric.name}.top": top, f"{metric.name}.bottom": bottom}
    return row
