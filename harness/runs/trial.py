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
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from steelyard import methods
from steelyard.harness.budget.audit import Audit
from steelyard.harness.budget.live_bytes import ACTIVATIONS, WEIGHTS, LiveBytes
from steelyard.harness.budget.meter import BudgetSpent, Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES, Example, Turn
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
BATCHES = 16
"""Batches whose mean is a plain step of a vision-language model."""
SEVERAL = 4
"""Steps whose items are more than what a loader reads ahead."""
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
    activations: int = 0
    """Most bytes of them at any moment."""
    prepared: int = 0
    """Items that the method has read before its first pass."""
    ended: bool = False
    """Whether the method ended by itself, before its budget did."""


@dataclass(frozen=True, slots=True)
class Course:
    """Training of the full run, extrapolated."""

    flops: Mapping[str, float]
    """By phase."""
    steps: int
    items: int
    memory: Mapping[str, float]
    """Bytes of each part at the moment of most."""
    activations: float = 0.0
    """Most bytes of them at any moment."""

    @property
    def total(self) -> float:
        return sum(self.flops.values())


@dataclass(frozen=True, slots=True)
class Images:
    """Images whose features are stored when they are first seen."""

    items: int
    """All training items."""
    count: int
    """Different images among them."""
    flops: float
    """Of one image."""

    def cost(self, seen: float) -> float:
        """Return the FLOPs of the images among so many different items, drawn at random."""
        unseen = 1 - min(seen, self.items) / self.items
        return float(self.flops * self.count * (1 - unseen ** (self.items / max(1, self.count))))


def course(
    spec: RunSpec,
    backbone: "Classifier | Vlm",
    data: "TrainData",
    examples: Sequence[Example],
    encoding: float,
    image_flops: float | None = None,
) -> Course:
    """Try a run with small budgets and extrapolate it; the backbone is left as it is.

    ``data`` is a sample of the ``examples``; ``encoding`` are the FLOPs that frozen encoders charge
    for all of them before the first step, ``image_flops`` those of an image when it is first seen,
    by default the backbone's.

    Raises:
        UserError: the method refuses the data, or has made no step within the largest trial.
    """
    if not examples:  # a method that learns nothing
        size = sum(weight.nbytes for weight in backbone.parameters())
        return Course({}, 0, 0, {WEIGHTS: size})
    budget = parse_budget(spec.budget, spec.track, spec.wall)
    different = {example.image for example in examples if example.image}
    stored = stored_cost(backbone, data)
    images = Images(len(examples), len(different), stored if image_flops is None else image_flops)
    (plain, _), size = plain_step(backbone, data), backbone.recipe.batch_size
    reason = "no step"
    for factor in GROWTH:
        limits = [_limit(budget, steps * factor, plain, size) for steps in (SMALL, LARGE)]
        try:
            first = [miniature(spec, backbone, data, limit) for limit in limits]
            large = first[-1]
            if large.ended:
                flops = {**large.flops, FEATURES: encoding}
                return Course(flops, large.steps, large.items, large.memory, large.activations)
            if not large.steps:
                continue
            # Of a method that prepares its items, pairs for example, a further pass over them may
            # cost less than the first. Fewer items than there are means its own limit.
            prepared = large.prepared if large.prepared > SEVERAL * large.items / large.steps else 0
            pool = prepared if prepared < len(data) else len(examples)
            later = first
            if prepared:
                few = replace(data, examples=data.examples[: 2 * size])
                later = [miniature(spec, backbone, few, limit) for limit in limits]
            return extrapolate(first, later, pool, budget, images, encoding)
        except UserError as error:
            reason = str(error)
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
    memory = LiveBytes(model)
    meter = counted(model, budget, memory)
    ended, prepared = False, set[int]()

    def turn(position: int) -> Turn:
        if not meter.spent:
            prepared.add(position)
        return data.turn(position)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed_for("training"))
        with memory, meter, suppress(BudgetSpent):
            if model.kind == "vlm":  # trainers keep rows of pixels, in the host's memory
                data = replace(data, gather=memory.on_host(data.gather))
            method.train(model, replace(data, turn=turn), meter, config, spec.seed_for("method"))
            ended = meter.fraction < 1
    ledger = meter.ledger("finished")
    return Trial(
        ledger.flops,
        ledger.steps,
        ledger.items,
        memory.peak,
        memory.most_of[ACTIVATIONS],
        len(prepared),
        ended,
    )


def extrapolate(
    first: Sequence[Trial],
    later: Sequence[Trial],
    pool: int,
    budget: Budget,
    images: Images,
    encoding: float,
) -> Course:
    """Draw the line through two trials to the full budget.

    ``later`` are two trials whose steps cost as those after the first pass over ``pool`` items.
    """
    _, large = first
    each, again = _slope(*first), _slope(*later)
    once = {phase: max(0.0, f - each[phase] * large.steps) for phase, f in large.flops.items()}
    size = large.items / large.steps

    def flops(steps: int) -> dict[str, float]:
        new = min(steps, pool / size) if pool else steps
        spent = {
            phase: once[phase] + each[phase] * new + again.get(phase, 0.0) * (steps - new)
            for phase in each
        }
        return {**spent, FEATURES: encoding + images.cost(min(steps * size, pool or math.inf))}

    if budget.items is not None:
        steps = int(budget.items / size)
    else:
        most = int(budget.flops / min(sum(each.values()), sum(again.values()))) + 1
        totals = range(most + 1)
        steps = bisect_right(totals, budget.flops, key=lambda n: sum(flops(n).values())) - 1
        steps = max(0, steps)
    items = round(steps * size)
    return Course(flops(steps), steps, items, large.memory, large.activations)


def _slope(small: Trial, large: Trial) -> dict[str, float]:
    """Return the FLOPs of one step by phase."""
    more = large.steps - small.steps
    return {
        phase: (flops - small.flops.get(phase, 0.0)) / more if more else flops / large.steps
        for phase, flops in large.flops.items()
    }


def counted(
    model: "Classifier | Vlm",
    budget: Budget | None = None,
    memory: LiveBytes | None = None,
    *,
    encoders: bool = False,
) -> Meter:
    """Return a meter, without limit if no budget is given, that watches the model.

    Its own passes are left out of ``memory``. ``encoders`` watches frozen encoders too, which
    training passes by.
    """
    limit = budget or Budget("trial", math.inf)
    meter = Meter(limit, str(model.device), Audit(memory=memory))
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


def plain_step(backbone: "Classifier | Vlm", data: "TrainData") -> tuple[float, float]:
    """Return FLOPs of one plain step, forward and back over a batch, and bytes of activations.

    Of a vision-language model, whose rows differ in length, they are the mean FLOPs and the most
    bytes of some batches of the data.
    """
    size = min(backbone.recipe.batch_size, len(data))
    part = backbone.recipe.micro_size(size)
    count = min(BATCHES if backbone.kind == "vlm" else 1, len(data) // part)
    starts = [index * (len(data) // count) for index in range(count)]
    batches = [data.gather(range(start, start + part)) for start in starts]

    def step(model: "Classifier | Vlm") -> None:
        half = model.recipe.precision == "bf16"
        for batch in batches:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
                loss = model.loss(model.predict(batch), batch).mean()
            torch.autograd.backward(loss)
            model.zero_grad()  # each batch is a step

    flops = spent(backbone, step) / count * size / part
    model = copy.deepcopy(backbone)
    with LiveBytes(model) as memory:
        step(model)
    return flops, float(memory.most_of[ACTIVATIONS])


def stored_cost(backbone: "Classifier | Vlm", data: "TrainData") -> float:
    """Return the FLOPs of an image that are spent when it is first seen, and not again.

    Afterwards all images of the data are in the store of a frozen tower.
    """
    size = backbone.recipe.batch_size
    rows = range(0, len(data), max(1, len(data) // size))[:size]
    batch = data.gather(rows)
    with torch.no_grad():
        first, second = (spent(backbone, lambda model: model.encode(batch)) for _ in range(2))
        if first > second:
            for start in range(0, len(data), size):
                backbone.encode(data.gather(range(len(data))[start : start + size]))
    return (first - second) / max(1, len({data.examples[row].image for row in rows} - {None}))
