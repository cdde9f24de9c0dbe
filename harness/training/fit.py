"""Training loop of all methods: the same batches, schedule, clipping and stopping.

def step(batch):
    loss = backbone.loss(backbone.predict(batch), batch).mean()
    return loss, {"loss_task": loss.detach()}

fit(backbone, data, meter, step, seed=seed)
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.errors import NonFiniteLoss
from steelyard.harness.core.progress import no_progress
from steelyard.harness.models.backbone import Backbone, Batch, Recipe
from steelyard.harness.training.train_data import TrainData

StepResult = tuple[Tensor, Mapping[str, Tensor | float]]
"""Scalar loss of a batch, and values to log."""
TrainStep = Callable[[Batch], StepResult]


def fit(
    backbone: Backbone,
    data: TrainData,
    meter: Meter,
    step: TrainStep,
    *,
    seed: int,
    stage: str = "train",
    until: float = 1.0,
    extra: Sequence[nn.Module] = (),
    after_backward: Callable[[], None] = no_progress,
    learning_rate_scale: float = 1.0,
    state: Sequence[Any] | None = None,
) -> None:
    """Train until the fraction ``until`` of the budget is used, or BudgetSpent is raised.

    ``seed`` and ``stage`` decide the order of the batches. ``extra`` are further modules to train.
    ``after_backward`` runs before clipping. The learning rate follows ``schedule`` in this stage.

    ``state`` are the parts of ``Stage.mark`` that change in training beside backbone and ``extra``,
    such as generators: an interrupted run continues with them. With None it starts anew.

    ``step`` gets the recipe's micro-batches one by one; their mean loss is that of the batch if it
    is a mean over items. Terms that compare items see one micro-batch. The ranks, if there are
    several, take the micro-batches of a step in turns, and gradients are averaged over them: what
    one process would have trained.

    Raises:
        NonFiniteLoss: the loss or a gradient is NaN or infinite; names the step.
    """
    backbone.train()
    modules: tuple[Backbone | nn.Module, ...] = (backbone, *extra)
    section = meter.checkpoints.stage(stage)
    if section.finished:
        return
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimiser = new_optimiser(parameters, backbone.recipe)
    meter.start_stage()
    position = section.position or {"step": 0, "start": meter.fraction}
    changing = None if state is None else (optimiser, *extra, *state)
    for positions in data.positions(backbone.recipe.batch_size, seed, stage, position["step"]):
        section.mark(lambda: position, changing)
        if meter.fraction >= until:
            break
        progress = (meter.fraction - position["start"]) / (until - position["start"])
        meter.afford_step(len(positions))  # ends the run between two steps and not inside one
        rate = set_rate(optimiser, backbone.recipe, progress, learning_rate_scale)
        optimiser.zero_grad(set_to_none=True)
        with ranks.together():
            means = _gradients(data, positions, step, backbone.recipe, meter)
        ranks.average(parameters)
        after_backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, backbone.recipe.clip_norm).item()
        if not math.isfinite(norm):
            raise NonFiniteLoss(meter.steps + 1, norm, "gradient norm")
        optimiser.step()
        meter.log(means, rate)
        meter.step(len(positions))
        position["step"] += 1
    section.finish()


def _gradients(
    data: TrainData, positions: Sequence[int], step: TrainStep, recipe: Recipe, meter: Meter
) -> dict[str, float]:
    """Add the gradients of the mean loss of this rank's micro-batches; return means to log."""
    half = recipe.precision == "bf16"
    size = recipe.micro_size(len(positions), compares=True)
    starts = range(0, len(positions), size)[ranks.rank() :: ranks.world()]
    count = len(starts)
    means: dict[str, float] = defaultdict(float)
    for start in starts:
        batch = data.gather(positions[start : start + size])
        with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=half):
            loss, values = step(batch)
        # Before the backward pass: a NaN would reach all weights.
        if not math.isfinite(loss.item()):
            raise NonFiniteLoss(meter.steps + 1, loss.item())
        torch.autograd.backward(loss / count)
        for name, value in {"loss": loss.detach(), **values}.items():
            means[name] += float(value) / count
    return means


def set_rate(
    optimiser: torch.optim.Optimizer, recipe: Recipe, progress: float, scale: float = 1.0
) -> float:
    """Set and return the learning rate of the next step.

    It follows the used fraction of the budget and not steps, whose number is unknown.
    """
    rate = recipe.learning_rate * scale * schedule(progress, recipe.warmup)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def schedule(progress: float, warmup: float) -> float:
    """Return the learning-rate factor at a fraction of the stage: a line to 1, a cosine to 0."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)  # not 0, or the first step would be lost
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def new_optimiser(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Build the recipe's optimiser; its learning rate is zero until a training loop sets it."""
    decay, betas = recipe.weight_decay, (recipe.beta1, recipe.beta2)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=0.0, momentum=recipe.beta1, weight_decay=decay, nesterov=recipe.beta1 > 0
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0, betas=betas, weight_decay=decay, foreach=True)
    import bitsandbytes

    paged = recipe.optimizer.startswith("paged")
    kind = bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit
    optimiser: torch.optim.Optimizer = kind(parameters, lr=0.0, betas=betas, weight_decay=decay)
    return optimiser
