"""Mining wrong answers from an image: how much an answer needs it, and how to attack it.

On the backbone interface alone, so that it serves a classifier (an answer is a class) and a
vision-language model (an answer is a row of tokens) alike. Nothing here trains: parameters are
frozen while it runs, in evaluation mode. Charge it with ``meter.phase("mine")``.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.pgd import ascend, frozen_weights, noisy_start
from steelyard.harness.training.train_data import TrainData

Reference = Literal["removed", "black", "noise"]
Mining = Literal["adversarial", "noise", "blank", "no_image"]
Fault = Literal["same", "unfinished", "repetition", "refusal", "length", "grounded"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
REPEATS = 3  # a block of tokens said this often in a row is a repetition
LONGEST_BLOCK = 4
QUANTILES = (0.1, 0.5, 0.9)
REFUSALS = (
    "sorry",
    "i cannot",
    "i can't",
    "i can not",
    "unable to",
    "not able to",
    "as ai",  # articles are gone after normalisation
    "i don't know",
    "i do not know",
    "cannot determine",
    "cannot see",
    "can't see",
    "no image",
)


@dataclass(frozen=True, slots=True)
class Attack:
    """What takes the place of an image so that the model answers wrongly."""

    mining: Mining
    epsilon: float
    step: float
    steps: int
    random_start: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """Which items are worth mining."""

    limit: int
    """Items looked at most."""
    share: float
    """Share of the budget left that looking and mining may take."""
    top: float | None
    """Share kept of each subset, by information gain; None keeps all."""
    reference: Reference


def information_gain(
    backbone: Backbone,
    batch: Batch,
    reference: Reference = "removed",
    generator: torch.Generator | None = None,
) -> Tensor:
    """How much likelier the image makes each answer: [B], in nats a token.

        IG(y; v, q) = (1/T) sum_t [ log p(y_t | v, q, y_<t) - log p(y_t | v', q, y_<t) ]

    ``v'`` is no image at all (``removed``, the language prior), a black image, or uniform
    ``noise`` over the whole range, drawn from ``generator``. Zero where an item has no image.
    """
    with frozen_weights(backbone), torch.no_grad():
        latents = backbone.encode(batch)
        seen = backbone.loss(backbone.fuse(backbone.contribute(latents)), batch)
        if reference == "removed":
            blind = backbone.contribute(backbone.blank(latents, "image"))
            unseen = backbone.loss(backbone.fuse(blind), batch)
        else:
            pixels = stand_in(backbone, batch, reference, generator)
            unseen = backbone.loss(backbone.predict(replace(batch, pixels=pixels)), batch)
        return (unseen - seen).float()


def stand_in(
    backbone: Backbone,
    batch: Batch,
    reference: Literal["black", "noise"],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pixels that hold no information, in the place of ``batch.pixels`` and of their shape."""
    bounds = backbone.pixel_range(batch)
    if reference == "black":
        return bounds.low.expand_as(batch.pixels).clone()
    # Scattered about the middle, so that copies of one pixel can be made equal as a gradient is.
    middle = (bounds.low + bounds.high) / 2
    spread = backbone.pixel_gradient(_uniform(batch.pixels, generator))
    return middle + spread * (bounds.high - bounds.low) / 2


def perturb(
    backbone: Backbone, batch: Batch, epsilon: float, generator: torch.Generator | None = None
) -> Tensor:
    """Pixels with uniform noise of at most ``epsilon``: the start of an attack, and its control."""
    return noisy_start(backbone, batch, epsilon, _uniform(batch.pixels, generator))


def pgd(
    backbone: Backbone,
    batch: Batch,
    epsilon: float,
    step: float,
    steps: int,
    generator: torch.Generator | None = None,
    random_start: bool = True,
) -> Tensor:
    """Pixels near ``batch.pixels`` under which the batch's answers are least likely.

    The attack of ``harness.models.pgd``, untargeted, on NLL(answer | v, question). The items'
    losses are independent, so a batch is attacked at once and gives each item what it would
    get alone.
    """
    start = perturb(backbone, batch, epsilon, generator) if random_start else batch.pixels

    def loss(seen: Batch) -> Tensor:
        return backbone.loss(backbone.predict(seen), seen)

    with frozen_weights(backbone):
        return ascend(backbone, batch, start, epsilon, step, steps, loss)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform in [-1, 1]; drawn on the CPU, so that a seed means the same on every device."""
    return (torch.rand(like.shape, generator=generator) * 2 - 1).to(like)


def attacked(
    backbone: Backbone, batch: Batch, attack: Attack, generator: torch.Generator
) -> Tensor:
    """Pixels of the batch under the attack; the image is not removed here for ``no_image``."""
    if attack.mining == "blank":
        return stand_in(backbone, batch, "black")
    if attack.mining == "noise":
        return perturb(backbone, batch, attack.epsilon, generator)
    return pgd(
        backbone,
        batch,
        attack.epsilon,
        attack.step,
        attack.steps,
        generator,
        attack.random_start,
    )


def candidates(
    backbone: Backbone, data: TrainData, meter: Meter, selection: Selection, seed: int
) -> list[int]:
    """Positions of the items to mine, in random order; those of highest gain where asked for.

    Scoring takes at most half of the selection's share of what is left of the budget. Logs how the
    gain is spread.
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "mining", "candidates"))
    order = torch.randperm(len(data), generator=generator).tolist()
    found = [i for i in order if data.examples[i].image is not None][: selection.limit]
    if not found:
        raise UserError("No training item has an image: there is nothing to attack.")
    if selection.top is None:
        return found
    gains: list[float] = []
    size = backbone.recipe.batch_size
    for chunk in affordable(meter, until(meter, selection.share / 2), found, size):
        batch = data.gather(chunk)
        gains += information_gain(backbone, batch, selection.reference, generator).tolist()
    spread = torch.tensor(gains).quantile(torch.tensor(QUANTILES))
    named = {f"gain_q{100 * q:.0f}": value for q, value in zip(QUANTILES, spread, strict=True)}
    meter.log({"mine_scored": float(len(gains)), **named})
    subsets = [data.examples[position].subset for position in found[: len(gains)]]
    return [found[index] for index in best(gains, subsets, selection.top)]


def until(meter: Meter, share: float) -> float:
    """The meter's fraction at which this share of what is left will have been used."""
    return meter.fraction + share * (1 - meter.fraction)


def affordable(
    meter: Meter, end: float, positions: Sequence[int], size: int
) -> Iterator[Sequence[int]]:
    """Chunks of positions until the meter's fraction is ``end``; at least one."""
    for start in range(0, len(positions), size):
        if start and meter.fraction >= end:
            return
        yield positions[start : start + size]


def best(gains: Sequence[float], subsets: Sequence[str], top: float) -> list[int]:
    """Indices of the share ``top`` (rounded up) of highest gain within each subset, in order."""
    kept: set[int] = set()
    for subset in set(subsets):
        members = [index for index, name in enumerate(subsets) if name == subset]
        members.sort(key=lambda index: -gains[index])
        kept.update(members[: math.ceil(top * len(members))])
    return sorted(kept)


def parse_faults(text: str) -> frozenset[Fault]:
    """The filters named in a comma-separated option; refuses unknown names."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FAULTS:
            raise unknown("filter", name, FAULTS)
    return frozenset(fault for fault in FAULTS if fault in names)


def find_faults(
    rejected: str,
    gold: str,
    tokens: tuple[Sequence[int], Sequence[int]],
    gains: tuple[float, float],
    finished: bool,
) -> tuple[Fault, ...]:
    """Everything that makes a mined answer useless as the wrong half of a pair, in fixed order.

    ``rejected`` and ``gold`` are normalised texts; ``tokens`` and ``gains`` (information gain on
    the clean image) are those of the rejected answer and of the gold one. An answer is at fault if
    it says the same; never ended; repeats itself; refuses; is shorter than half or longer than
    twice the gold one; or is better grounded in the clean image than the gold one.
    """
    length = len(tokens[0]) / max(len(tokens[1]), 1)
    found: dict[Fault, bool] = {
        "same": rejected == gold,
        "unfinished": not finished,
        "repetition": repeats(tokens[0]),
        "refusal": any(phrase in rejected for phrase in REFUSALS),
        "length": not 0.5 <= length <= 2,
        "grounded": gains[0] >= gains[1],
    }
    return tuple(fault for fault in FAULTS if found[fault])


def repeats(tokens: Sequence[int]) -> bool:
    """Whether a block of one to four tokens occurs three times in a row."""
    row = list(tokens)
    for size in range(1, LONGEST_BLOCK + 1):
        for start in range(len(row) - REPEATS * size + 1):
            block = row[start : start + size]
            if row[start : start + REPEATS * size] == block * REPEATS:
                return True
    return False


def retarget(batch: Batch, answers: Sequence[Sequence[int]]) -> Batch:
    """The batch with other answer tokens of a vlm: right-padded with -100, [B, A]."""
    width = max(1, *(len(answer) for answer in answers))
    rows = [[*answer, *[-100] * (width - len(answer))] for answer in answers]
    targets = torch.tensor(rows, dtype=torch.int64, device=batch.targets.device)
    return replace(batch, targets=targets)


def answers_of(batch: Batch) -> list[list[int]]:
    """The answer tokens of each row of a vlm's batch, padding left out."""
    return [[token for token in row if token >= 0] for row in batch.targets.tolist()]
