"""Score a backbone on one variant of a task with lmms-eval, in this process.

corpus = tasks.load("food101", root)
result = evaluate(backbone, tasks.parse_variant("food101@image-noise:3"), corpus)
print(result.scores[0].value, result.items.head())
"""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval, swapped
from steelyard.harness.core.examples import Corpus, enclosing
from steelyard.harness.core.progress import no_progress
from steelyard.harness.evaluation import lmms_scores
from steelyard.harness.evaluation.scores import Evaluation, as_items
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.models.registry import check_images
from steelyard.harness.records.record import Score
from steelyard.tasks import build
from steelyard.tasks.metrics import Pool, clustered_stderr, mean, ratio, ratio_stderr

if TYPE_CHECKING:
    from steelyard.harness.evaluation.adversarial import WhiteBox
    from steelyard.tasks._lmms.memory_task import MemoryTask
    from steelyard.tasks._lmms.stock_task import StockTask


def evaluate(
    backbone: Backbone,
    variant: tasks.Variant,
    corpus: Corpus,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    progress: Callable[[float], None] = no_progress,
) -> Evaluation:
    """Score a backbone on a variant of its task; ``progress`` gets the fraction of answers.

    Raises:
        UserError: no such split, ``limit`` is not positive, or the backbone has other classes.
        ValueError: an answer does not have the form that the task needs.
    """
    from steelyard.harness.evaluation.adversarial import white_box

    check_images(backbone, variant.task, corpus.at_once)
    task = build(variant, corpus, split, limit)
    if tasks.is_stock(variant.task):
        with lmms_scores.settings(task) as settings:
            values, samples = _run(backbone, task, batch_size, progress, settings)
            return lmms_scores.stock_evaluation(variant, task, values, samples)
    with white_box(backbone, variant) as attack:
        values, samples = _run(backbone, task, batch_size, progress, attack=attack)
    samples = sorted(samples, key=lambda sample: str(sample["item"]["id"]))
    info = tasks.info(variant.task)
    if info.generative:
        samples = _pooled(task, samples)
        scores = _ratio_scores(variant, info, samples)
    else:
        scores = _class_scores(variant, task, values, samples)
    metrics = info.metrics if info.generative else ()
    rows = ((s["item"], {name: s[name] for name in metrics if name in s}) for s in samples)
    return Evaluation(variant, scores, as_items(variant, rows), attack.cost if attack else None)


def _run(
    backbone: Backbone,
    task: "MemoryTask | StockTask",
    batch_size: int,
    progress: Callable[[float], None],
    settings: Namespace | None = None,
    attack: "WhiteBox | None" = None,
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Return metric values under lmms-eval's names, and its samples."""
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


def _class_scores(
    variant: tasks.Variant,
    task: "MemoryTask",
    values: Mapping[str, float],
    samples: Sequence[Mapping[str, Any]],
) -> tuple[Score, ...]:
    clusters = [sample["item"]["cluster"] for sample in samples]
    return tuple(
        Score(
            task=variant.task,
            variant=variant.name,
            metric=metric,
            value=float(values[f"{metric},none"]),
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


def _pooled(task: "MemoryTask", samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return samples with one ratio per item for every metric that any of them has.

    A metric over groups of items becomes a ratio per item; an item outside a metric has (0, 0). A
    metric without any item is left out: it was not measured, which is not 0.
    """
    pooled = [dict(sample) for sample in samples]
    for metric, aggregate in task.aggregation().items():
        measured = [sample for sample in pooled if metric in sample]
        if not measured:
            continue
        values = [sample[metric] for sample in measured]
        parts = aggregate.fractions(values) if isinstance(aggregate, Pool) else values
        for sample, part in zip(measured, parts, strict=True):
            sample[metric] = part
        for sample in pooled:
            sample.setdefault(metric, (0.0, 0.0))
    return pooled


def _ratio_scores(
    variant: tasks.Variant, info: tasks.TaskInfo, samples: Sequence[Mapping[str, Any]]
) -> tuple[Score, ...]:
    """Return every metric over all items and, if the task has subsets, over each of them."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        # The empty name is the group of all items.
        for subset in ("", *(enclosing(sample["item"]["subset"]) if info.subsets else ())):
            groups[subset].append(sample)
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
            main=metric == info.main and not subset,
            higher_is_better=higher,
            subset=subset,
            shown=(f"{subset}.{metric}" if subset else metric) in info.columns,
        )
        for subset, group in sorted(groups.items())
        for metric, higher in info.metrics.items()
        # Leave out metrics that were not measured, have no meaning in a subset, or count nothing.
        if metric in group[0]
        and (
            not subset
            or (metric not in info.total_only and any(sample[metric][1] for sample in group))
        )
    )
