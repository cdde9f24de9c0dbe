"""Scoring a backbone on one variant of a task with lmms-eval, in this process."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval, swapped
from steelyard.harness.core.examples import Corpus, enclosing
from steelyard.harness.evaluation.scores import Evaluation, as_items
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.models.registry import check_images
from steelyard.harness.records.record import Score
from steelyard.tasks.metrics import POOLS, clustered_stderr, mean, ratio, ratio_stderr

if TYPE_CHECKING:
    from steelyard.harness.evaluation.adversarial import WhiteBox
    from steelyard.tasks._lmms.ask_task import AskTask
    from steelyard.tasks._lmms.score_task import ScoreTask
    from steelyard.tasks._lmms.stock_task import StockTask

FILTER = "none"  # lmms-eval's name for answers scored as they came
Progress = Callable[[float], None]


def no_progress(share: float) -> None:
    """Tell nobody."""


def evaluate(
    backbone: Backbone,
    variant: tasks.Variant,
    corpus: Corpus,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score a backbone on a variant of its task; ``progress`` is told the share of answers.

    Raises:
        UserError: no such split, ``limit`` is not positive, or the backbone knows other classes.
        ValueError: an answer is not what the task asked for.
    """
    from steelyard.harness.evaluation.adversarial import white_box

    check_images(backbone, variant.task, corpus.at_once)
    task = tasks.build(variant, corpus, split, limit)
    if tasks.is_stock(variant.task):
        from steelyard.harness.evaluation import lmms_scores

        with lmms_scores.settings(task) as settings:
            values, samples = _run(backbone, task, batch_size, progress, settings)
            return lmms_scores.evaluation(variant, task, values, samples)
    with white_box(backbone, variant) as attack:
        values, samples = _run(backbone, task, batch_size, progress, attack=attack)
    samples = sorted(samples, key=lambda sample: str(sample["item"]["id"]))
    declared = tasks.info(variant.task)
    if declared.generative:
        samples = _pooled(task, samples)
        scores = _ratio_scores(variant, declared, samples)
        rows = [_ratio_row(variant, declared, sample) for sample in samples]
    else:
        scores = _scores(variant, task, values, samples)
        rows = [{"variant": variant.name, **sample["item"]} for sample in samples]
    return Evaluation(variant, scores, as_items(rows), attack.cost if attack else None)


def _run(
    backbone: Backbone,
    task: "ScoreTask | AskTask | StockTask",
    batch_size: int,
    progress: Progress,
    settings: Namespace | None = None,
    attack: "WhiteBox | None" = None,
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Metric values by lmms-eval's names for them, and its samples."""
    evaluator = import_lmms_eval()
    from lmms_eval.api import task as requests

    from steelyard.harness.evaluation.lmms_model import Scorer

    def no_bar(*args: Any, **kwargs: Any) -> Any:
        return bar(*args, **{**kwargs, "disable": True})

    bar, name = evaluator.tqdm, task.task_name
    scorer = Scorer(backbone, batch_size, progress, attack)
    scorer.task_dict[name] = task.dataset_no_image
    with swapped(evaluator, "tqdm", no_bar), swapped(requests, "tqdm", no_bar):
        # Not simple_evaluate: around this same call it reseeds every random stream, patches ssl
        # and file locks, and starts git three times. "torchrun" spares building an Accelerator.
        results = evaluator.evaluate(
            scorer,
            {name: task},
            bootstrap_iters=0,
            process_docs_parallel=1,
            distributed_executor_backend="torchrun",
            cli_args=settings,
        )
    samples, expected = results["samples"][name], len(task.eval_docs)
    if len(samples) != expected:
        raise RuntimeError(f"{name}: lmms-eval scored {len(samples)} of {expected} items.")
    return results["results"][name], samples


def _scores(
    variant: tasks.Variant,
    task: "ScoreTask",
    values: Mapping[str, float],
    samples: Sequence[Mapping[str, Any]],
) -> tuple[Score, ...]:
    clusters = [sample["item"]["cluster"] for sample in samples]
    return tuple(
        Score(
            task=variant.task,
            variant=variant.name,
            metric=metric,
            value=float(values[f"{metric},{FILTER}"]),
            n=len(samples),
            stderr=(
                clustered_stderr([sample[metric] for sample in samples], clusters)
                if aggregate is mean
                else None
            ),
            main=metric == task.config.metadata["main"],
            higher_is_better=task.higher_is_better()[metric],
        )
        for metric, aggregate in task.aggregation().items()
    )


def _pooled(task: "AskTask", samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples with one share an item of every metric that any of them has part in.

    A metric over groups of items becomes a share an item, and who has no part in a metric has
    (0, 0). A metric that nobody has part in stays out: it was not measured, which is not 0.
    """
    filled = [dict(sample) for sample in samples]
    for metric, aggregate in task.aggregation().items():
        own = [sample for sample in filled if metric in sample]
        if not own:
            continue
        parts = POOLS.get(aggregate, list)([sample[metric] for sample in own])
        for sample, part in zip(own, parts, strict=True):
            sample[metric] = part
        for sample in filled:
            sample.setdefault(metric, (0.0, 0.0))
    return filled


def _ratio_scores(
    variant: tasks.Variant, declared: tasks.TaskInfo, samples: Sequence[Mapping[str, Any]]
) -> tuple[Score, ...]:
    """Every metric over all items and, where the task has subsets, over each of them."""
    groups = {"": list(samples)}
    if declared.subsets:
        parts = [enclosing(sample["item"]["subset"]) for sample in samples]
        for name in sorted({name for own in parts for name in own}):
            groups[name] = [s for s, own in zip(samples, parts, strict=True) if name in own]
    return tuple(
        Score(
            task=variant.task,
            variant=variant.name,
            metric=metric,
            value=ratio([sample[metric] for sample in group]),
            n=len(group),
            stderr=ratio_stderr(
                [sample[metric] for sample in group],
                [sample["item"]["cluster"] for sample in group],
            ),
            main=metric == declared.main and not subset,
            higher_is_better=higher,
            subset=subset,
            shown=(f"{subset}.{metric}" if subset else metric) in declared.shown,
        )
        for subset, group in groups.items()
        for metric, higher in declared.metrics.items()
        # It was measured, means something there, and counts something.
        if metric in group[0]
        and (
            not subset
            or (metric not in declared.whole and any(sample[metric][1] for sample in group))
        )
    )


def _ratio_row(
    variant: tasks.Variant, declared: tasks.TaskInfo, sample: Mapping[str, Any]
) -> dict[str, Any]:
    row = {"variant": variant.name, **sample["item"]}
    for metric in filter(sample.__contains__, declared.metrics):
        row[f"{metric}.top"], row[f"{metric}.bottom"] = sample[metric]
    return row
