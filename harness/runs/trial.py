"""A run in miniature: the same method, model and data with a budget of a few steps.

It shows what a step costs, what is spent once, and how much memory the dearest moment takes, of any
method: nothing here knows one. Two sizes give a line, and the line gives the full run:

    spent
      |                             . run
      |                       .
      |        o  larger
      |    o  smaller
      | .  spent once
      +------------------------------ steps
"""

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from steelyard import methods
from steelyard.harness.budget.live_bytes import WEIGHTS, LiveBytes
from steelyard.harness.budget.meter import BudgetSpent, Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES
from steelyard.harness.records.budget import Budget, parse_budget
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.training import add_modules, learning_rate

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm
    from steelyard.harness.training.train_data import TrainData

SMALL, LARGE = 12, 36
"""Budgets of the two trials, in plain steps: one pass forward and back over a batch."""
GROWTH = (1, 4, 16)
"""Factors on both budgets, tried in turn until the method has made a step."""
FEATURES = "features"
"""Phase of what a frozen encoder or tower computes once an item."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a run in miniature has spent."""

    flops: Mapping[str, float]
    """By phase."""
    steps: int
    items: int
    memory: Mapping[str, int]
    """Bytes of each part at the moment of most."""
    ended: bool
    """Whether the method ended by itself, before its budget did."""


@dataclass(frozen=True, slots=True)
class Course:
    """Training of the full run, extrapolated."""

    flops: Mapping[str, float]
    """By phase."""
    steps: int
    items: int
    step_flops: float
    """Of one step, without what is spent once."""
    memory: Mapping[str, int]
    """Bytes of each part at the moment of most."""

    @property
    def total(self) -> float:
        return sum(self.flops.values())


def course(
    spec: RunSpec, backbone: "Classifier | Vlm", data: "TrainData", count: int, encoding: float
) -> Course:
    """Try a run with two small budgets and extrapolate it; the backbone is left as it is.

    ``data`` is a sample of ``count`` items; ``encoding`` are the FLOPs that frozen encoders charge
    for all of them before the first step.

    Raises:
        UserError: the method refuses the data, or has made no step within the largest trial.
    """
    if not count:  # a method that learns nothing
        size = sum(weight.nbytes for weight in backbone.parameters())
        return Course({}, 0, 0, 0.0, {WEIGHTS: size})
    budget = parse_budget(spec.budget, spec.track, spec.wall)
    stored, plain = stored_cost(backbone, data), step_cost(backbone, data)
    reason = "no step"
    for factor in GROWTH:
        limits = [_limit(budget, size * factor, plain, backbone.recipe.batch_size)
                  for size in (SMALL, LARGE)]  # fmt: skip
        try:
            small, large = (miniature(spec, backbone, data, limit) for limit in limits)
        except UserError as error:
            reason = str(error)
            continue
        if large.steps or large.ended:
            return extrapolate(small, large, budget, count, stored, encoding)
    raise UserError(f"{spec.method} on {spec.task}: no estimate after {limits[-1]}: {reason}")


def _limit(budget: Budget, steps: int, plain: float, batch_size: int) -> Budget:
    """Return a budget of so many plain steps, of the same kind and no larger."""
    if budget.items is not None:
        return Budget("trial", items=min(budget.items, steps * batch_size))
    return Budget("trial", flops=min(budget.flops, steps * plain))


def miniature(
    spec: RunSpec, backbone: "Classifier | Vlm", data: "TrainData", budget: Budget
) -> Trial:
    """Train a copy of the backbone within a budget; count its memory."""
    method = methods.load(spec.method)
    config = methods.configure(method, spec.options, backbone.kind)
    model = copy.deepcopy(backbone)
    add_modules(model, method, config, spec)
    model.recipe = replace(model.recipe, learning_rate=learning_rate(spec))
    meter = counted(model, budget)
    ended = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed_for("training"))
        with LiveBytes(model) as memory, meter, suppress(BudgetSpent):
            method.train(model, data, meter, config, spec.seed_for("method"))
            ended = meter.fraction < 1
    ledger = meter.ledger("finished")
    return Trial(ledger.flops, ledger.steps, ledger.items, memory.peak, ended)


def extrapolate(
    small: Trial, large: Trial, budget: Budget, count: int, stored: float, encoding: float
) -> Course:
    """Draw the line through two trials to the full budget.

    ``stored`` are FLOPs of an item that are spent when it is first seen, of ``count`` items.
    """
    if large.ended:
        flops = {**large.flops, FEATURES: encoding}
        step = sum(large.flops.values()) / max(1, large.steps)
        return Course(flops, large.steps, large.items, step, large.memory)
    more = large.steps - small.steps
    each = {
        phase: (flops - small.flops.get(phase, 0.0)) / more if more else flops / large.steps
        for phase, flops in large.flops.items()
    }
    once = {phase: max(0.0, f - each[phase] * large.steps) for phase, f in large.flops.items()}
    size, step = large.items / large.steps, sum(each.values())
    if budget.items is not None:
        steps = int(budget.items / size)
    else:
        rest = budget.flops - encoding - sum(once.values())
        steps = int(rest / (step + stored * size))
        if steps * size > count:  # the later passes over the items see none for the first time
            steps = int((rest - stored * count) / step)
        steps = max(0, steps)
    flops = {phase: once[phase] + each[phase] * steps for phase in each}
    flops[FEATURES] = encoding + stored * min(steps * size, count)
    return Course(flops, steps, round(steps * size), step, large.memory)


def counted(
    model: "Classifier | Vlm", budget: Budget | None = None, *, encoders: bool = False
) -> Meter:
    """Return a meter, without limit if no budget is given, that watches the model.

    ``encoders`` watches frozen encoders too, which training passes by.
    """
    meter = Meter(budget or Budget("trial", math.inf), str(model.device))
    modules = list(model.metered_modules)
    if encoders:
        modules += [model.modality_modules(modality)[0] for modality in MODALITIES]
    for module in dict.fromkeys(modules):
        meter.watch(module)
    return meter


def spent(backbone: "Classifier | Vlm", run_pass: "Callable[[Classifier | Vlm], object]") -> float:
    """Return the FLOPs that a call with a copy of the backbone executes."""
    model = copy.deepcopy(backbone)  # shares the store of a frozen tower
    with counted(model) as meter:
        run_pass(model)
    return meter.spent


def step_cost(backbone: "Classifier | Vlm", data: "TrainData") -> float:
    """Return the FLOPs of one plain step: a pass forward and back over a batch."""
    size = min(backbone.recipe.batch_size, len(data))
    part = backbone.recipe.micro_size(size)
    batch = data.gather(range(part))

    def step(model: "Classifier | Vlm") -> None:
        half = model.recipe.precision == "bf16"
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            loss = model.loss(model.predict(batch), batch).mean()
        torch.autograd.backward(loss)

    return spent(backbone, step) * size / part


def stored_cost(backbone: "Classifier | Vlm", data: "TrainData") -> float:
    """Return the FLOPs an item that are spent when its image is first seen, and not again.

    Afterwards all images of the data are in the store of a frozen tower.
    """
    size = backbone.recipe.batch_size
    batch = data.gather(range(0, len(data), max(1, len(data) // size))[:size])
    with torch.no_grad():
        first, second = (spent(backbone, lambda model: model.encode(batch)) for _ in range(2))
        if first > second:
            for start in range(0, len(data), size):
                backbone.encode(data.gather(range(len(data))[start : start + size]))
    return (first - second) / len(batch.has_image)
