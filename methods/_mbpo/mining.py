"""Mining of wrong answers: select items that need their image, attack it, filter the answers.

Only the backbone interface is used, so this works for a classifier (an answer is a class) and for a
vision-language model (an answer is a row of tokens). Nothing is trained here: parameters are frozen
and the model is in evaluation mode. Callers charge it with ``meter.phase("mine")``.
"""

import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.progress import echo
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.pgd import ascend, frozen_weights, noisy_start
from steelyard.harness.training.train_data import TrainData

if TYPE_CHECKING:
    from steelyard.methods.mbpo import Config

Reference = Literal["removed", "black", "noise"]
Fault = Literal["same", "unfinished", "repetition", "refusal", "length", "grounded"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
ROWS = 8  # items of one batch of mining; costs are measured on one, so all have to be alike
LEAST_STEPS = 3  # of an attack whose budget is short
BATCHES = 8  # of pairs; a run on fewer is marked as starved
REPEATS = 3  # a block of tokens that occurs this often in sequence is a repetition
LONGEST_BLOCK = 4  # tokens
QUANTILES = (0.1, 0.5, 0.9)
# Normalisation removes articles: "as an ai" is "as ai".
REFUSALS = (
    r"sorry|i cannot|i can't|i can not|unable to|not able to|as ai|i don't know|i do not know|"
    r"cannot determine|cannot see|can't see|no image"
)


@dataclass(frozen=True, slots=True)
class MinedAnswer:
    """Answer of the model to the attacked image of a training item, beside the right one."""

    position: int
    right: tuple[int, ...]
    """Token ids with the end token; of a classifier one class."""
    wrong: tuple[int, ...]
    faults: tuple[Fault, ...]

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "MinedAnswer":
        """Return the answer that ``asdict`` made into JSON."""
        lists = (tuple(values[name]) for name in ("right", "wrong", "faults"))
        return cls(values["position"], *lists)


@dataclass
class Policy(ABC):
    """Model that is mined and trained; each kind of backbone has a subclass."""

    backbone: Backbone
    data: TrainData
    meter: Meter
    config: "Config"
    seed: int

    required_filters: ClassVar[frozenset[Fault]] = frozenset()
    """Faults that always drop an answer."""
    logged_faults: ClassVar[tuple[Fault, ...]] = FAULTS
    state: Sequence[Any] = field(default=(), init=False)
    """Parts of a checkpoint beside the backbone."""

    @property
    @abstractmethod
    def pairs_per_step(self) -> int:
        """Number of pairs of an offline batch."""

    @abstractmethod
    def answer_attacked(
        self, positions: Sequence[int], generator: torch.Generator, steps: int
    ) -> list[MinedAnswer]:
        """Answer the images of these training items after so many steps of the attack."""

    def balance(self, answers: Sequence[MinedAnswer], kept: Sequence[int]) -> Sequence[int]:
        """Thin the indices of answers that remain, if filters favour some right answers."""
        return kept

    @abstractmethod
    def train(self, pairs: Sequence[MinedAnswer]) -> None:
        """Train on pairs and on sampled answers until the budget is spent."""


def mine(policy: Policy) -> list[MinedAnswer]:
    """Answer attacked images of the items that need them most, within ``mine_share``.

    Raises:
        UserError: no training item has an image, or the share affords no attack.
    """
    stage = policy.meter.checkpoints.stage("mine")
    if stage.finished:
        return list(map(MinedAnswer.read, stage.result))
    work = stage.position or choose(policy)
    meter, size = policy.meter, ROWS * ranks.world()

    def answer(chunk: Sequence[int]) -> list[MinedAnswer]:
        # By its items, so that a batch gets the same noise wherever it is attacked.
        names = ("mining", "attack", *chunk)
        generator = torch.Generator().manual_seed(seed_for(policy.seed, *names))
        return policy.answer_attacked(chunk, generator, work["steps"])

    while work["positions"]:
        stage.mark(lambda: work, policy.state)
        # The plan is an estimate and the share a limit: the last batch holds what still fits.
        before, cost = meter.fraction, work["cost"]
        room = max(0.0, work["end"] - before)
        count = size if room >= cost * size else int(room / cost)
        if not count:
            break
        batch, work["positions"] = work["positions"][:count], work["positions"][count:]
        answers = itertools.chain(*ranks.deal(chunks(batch), answer))
        work["answers"] += map(asdict, answers)
        work["cost"] = (meter.fraction - before) / len(batch)
    stage.finish(work["answers"])
    return list(map(MinedAnswer.read, work["answers"]))


def choose(policy: Policy) -> dict[str, Any]:
    """Return the ``positions`` to attack, in so many ``steps``, up to a fraction ``end``.

    ``answers`` follow, and the ``cost`` of the last of them.
    """
    data, meter, config = policy.data, policy.meter, policy.config
    generator = torch.Generator().manual_seed(seed_for(policy.seed, "mining", "candidates"))
    order = torch.randperm(len(data), generator=generator).tolist()
    # Mining is free on the data track: it looks at no more items than training may.
    limit = min(config.mine_limit, meter.budget.items or config.mine_limit)
    positions = [i for i in order if data.examples[i].image is not None][:limit]
    if not positions:
        raise UserError("No training item has an image: there is nothing to attack.")
    end = meter.fraction + config.mine_share * (1 - meter.fraction)
    count, steps = plan(policy, positions, end)
    positions = positions[:count]
    if config.iig:
        positions = select(policy, positions)
    return {"positions": positions, "steps": steps, "end": end, "answers": [], "cost": 0.0}


def plan(policy: Policy, positions: Sequence[int], end: float) -> tuple[int, int]:
    """Return how many items to consider and the steps of the attack, to end at a fraction.

    Costs are measured on one batch. Only items that can be attacked are scored: n items cost
    n score + iig_top n (steps step + answer). There are as many steps, up to the option, as leave
    items for twice ``BATCHES`` batches of pairs, since many answers have faults; at least
    ``LEAST_STEPS``.
    """
    config, meter, pilot = policy.config, policy.meter, positions[:ROWS]
    generator = torch.Generator().manual_seed(seed_for(policy.seed, "mining", "plan"))

    def cost(work: Callable[[], object]) -> float:
        before = meter.fraction
        ranks.share(work)
        return (meter.fraction - before) / len(pilot)

    def score() -> None:
        batch = policy.data.gather(pilot)
        information_gain(policy.backbone, batch, config.iig_reference, generator)

    scoring, part = (cost(score), config.iig_top) if config.iig else (0.0, 1.0)
    one = cost(lambda: policy.answer_attacked(pilot, generator, 1))
    two = cost(lambda: policy.answer_attacked(pilot, generator, 2))
    room = end - meter.fraction

    def affordable(steps: int) -> int:
        each = scoring + part * (one + (steps - 1) * (two - one))
        # A budget of items alone leaves mining free.
        return min(len(positions), int(room / each)) if each > 0 else len(positions)

    enough = min(2 * BATCHES * policy.pairs_per_step / part, len(positions))
    steps = config.steps
    while steps > LEAST_STEPS and affordable(steps) < enough:
        steps -= 1
    if affordable(steps) < 1:
        raise UserError(
            f"mine_share={config.mine_share:g} of this budget affords no attacked item: raise the "
            "budget or mine_share, or set stream=online."
        )
    meter.log({"mine_steps": float(steps)})
    return affordable(steps), steps


def select(policy: Policy, positions: Sequence[int]) -> list[int]:
    """Return the positions whose right answers need the image most; log quantiles of the gain."""
    data, config = policy.data, policy.config

    def score(chunk: Sequence[int]) -> list[float]:
        generator = torch.Generator().manual_seed(seed_for(policy.seed, "mining", "gain", *chunk))
        batch = data.gather(chunk)
        gain: list[float] = information_gain(
            policy.backbone, batch, config.iig_reference, generator
        ).tolist()
        return gain

    gains = list(itertools.chain(*ranks.deal(chunks(positions), score)))
    levels = torch.tensor(gains).quantile(torch.tensor(QUANTILES))
    quantiles = {f"gain_q{100 * q:.0f}": level for q, level in zip(QUANTILES, levels, strict=True)}
    policy.meter.log({"mine_scored": float(len(gains)), **quantiles})
    subsets = [data.examples[position].subset for position in positions]
    return [positions[index] for index in best(gains, subsets, config.iig_top)]


def chunks(positions: Sequence[int], size: int = ROWS) -> Iterator[Sequence[int]]:
    """Yield positions in batches of ``size``."""
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def filter_pairs(policy: Policy, answers: Sequence[MinedAnswer]) -> list[MinedAnswer]:
    """Drop answers with a fault that the filters name, and mark a run on few pairs as starved.

    Raises:
        UserError: no answer remains.
    """
    dropped = parse_faults(policy.config.filters) | policy.required_filters
    faultless = [i for i, a in enumerate(answers) if not dropped.intersection(a.faults)]
    pairs = [answers[index] for index in policy.balance(answers, faultless)]
    counts = {fault: sum(fault in answer.faults for answer in answers) for fault in FAULTS}
    fractions = {f"mine_{fault}": counts[fault] / len(answers) for fault in policy.logged_faults}
    sizes = {"mine_items": float(len(answers)), "mine_pairs": float(len(pairs))}
    batches = len(pairs) / policy.pairs_per_step
    policy.meter.log(sizes | fractions | {"starved": float(batches < BATCHES)})
    if 0 < batches < BATCHES:
        echo(
            f"MBPO trains on {len(pairs)} pairs, {batches:.1f} batches: fewer than {BATCHES} say "
            "little about the method. Raise the budget, mine_share or mine_limit.",
            error=True,
        )
    if not pairs:
        # Only faults in the filters can be the cause.
        most = max((fault for fault in FAULTS if fault in dropped), key=lambda f: counts[f])
        optional = "" if most in policy.required_filters else ", or remove that fault from filters"
        raise UserError(
            f"No pair remains of {len(answers)} mined answers: {counts[most]} have the fault "
            f"'{most}'. Raise epsilon, steps or mine_limit{optional}."
        )
    return pairs


def information_gain(
    backbone: Backbone,
    batch: Batch,
    reference: Reference = "removed",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return by how much the image makes each answer likelier: IG(y; v, q) [B], in nats per token.

    It is compared with no image at all (``removed``, the language prior), a black image, or uniform
    ``noise`` over the full range, drawn from ``generator``. Zero for items without an image.
    """
    with frozen_weights(backbone), torch.no_grad():
        latents = backbone.encode(batch)
        with_image = backbone.loss(backbone.fuse(backbone.contribute(latents)), batch)
        if reference == "removed":
            blank = backbone.contribute(backbone.blank(latents, "image"))
            without_image = backbone.loss(backbone.fuse(blank), batch)
        else:
            pixels = uninformative_pixels(backbone, batch, reference, generator)
            without_image = backbone.loss(backbone.predict(replace(batch, pixels=pixels)), batch)
        return (without_image - with_image).float()


def uninformative_pixels(
    backbone: Backbone,
    batch: Batch,
    reference: Literal["black", "noise"],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return black or noisy pixels of the shape of ``batch.pixels``."""
    bounds = backbone.pixel_range(batch)
    if reference == "black":
        return bounds.low.expand_as(batch.pixels).clone()
    # Noise around the middle of the range can pass through ``pixel_gradient``, which makes copies
    # of one pixel equal.
    middle = (bounds.low + bounds.high) / 2
    noise = backbone.pixel_gradient(_uniform(batch.pixels, generator))
    return middle + noise * (bounds.high - bounds.low) / 2


def perturb(
    backbone: Backbone, batch: Batch, epsilon: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return pixels with uniform noise of at most ``epsilon``: an attack's start or control."""
    return noisy_start(backbone, batch, epsilon, _uniform(batch.pixels, generator))


def attacked_pixels(
    backbone: Backbone, batch: Batch, options: "Config", generator: torch.Generator | None = None
) -> Tensor:
    """Return the pixels of the batch under the attack; ``no_image`` is up to the caller.

    The attack is that of ``harness.models.pgd``, untargeted, on NLL(answer | v, question). Items do
    not affect each other's loss, so a batch gets the pixels that each item would get alone.
    """
    if options.mining == "blank":
        return uninformative_pixels(backbone, batch, "black")
    is_noisy = options.mining == "noise" or options.random_start
    start = perturb(backbone, batch, options.epsilon, generator) if is_noisy else batch.pixels
    if options.mining == "noise":
        return start

    def loss(attacked_batch: Batch) -> Tensor:
        return backbone.loss(backbone.predict(attacked_batch), attacked_batch)

    with frozen_weights(backbone):
        return ascend(backbone, batch, start, options.epsilon, options.step, options.steps, loss)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from [-1, 1] on the CPU, so that a seed gives the same numbers on every device."""
    return (torch.rand(like.shape, generator=generator) * 2 - 1).to(like)


def best(gains: Sequence[float], subsets: Sequence[str], top: float) -> list[int]:
    """Return sorted indices of the fraction ``top`` of highest gain in each subset, rounded up."""
    indices: set[int] = set()
    for subset in set(subsets):
        members = [index for index, name in enumerate(subsets) if name == subset]
        # The sort is stable: items of equal gain stay in their random order.
        members.sort(key=lambda index: -gains[index])
        indices.update(members[: math.ceil(top * len(members))])
    return sorted(indices)


def find_faults(
    rejected: str,
    gold: str,
    tokens: tuple[Sequence[int], Sequence[int]],
    gains: tuple[float, float],
    finished: bool,
) -> tuple[Fault, ...]:
    """Return everything that makes a mined answer useless as the wrong one of a pair, in order.

    ``rejected`` and ``gold`` are normalised texts; ``tokens`` and ``gains`` (information gain on
    the clean image) belong to the rejected and the gold answer. An answer is at fault if it equals
    the gold one, has not ended, repeats itself, refuses, is shorter than half or longer than twice
    the gold one, or has at least its information gain (``grounded``).
    """
    length = len(tokens[0]) / max(len(tokens[1]), 1)
    has_fault: dict[Fault, bool] = {
        "same": rejected == gold,
        "unfinished": not finished,
        "repetition": repeats(tokens[0]),
        "refusal": re.search(REFUSALS, rejected) is not None,
        "length": not 0.5 <= length <= 2,
        "grounded": gains[0] >= gains[1],
    }
    return tuple(fault for fault in FAULTS if has_fault[fault])


def parse_faults(text: str) -> frozenset[Fault]:
    """Read fault names from a comma-separated option; refuse unknown names."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_known("filter", name, FAULTS)
    return frozenset(fault for fault in FAULTS if fault in names)


def repeats(tokens: Sequence[int]) -> bool:
    """Return True if a block of one to four tokens occurs three times in sequence."""
    row = list(tokens)
    return any(
        row[start : start + REPEATS * size] == row[start : start + size] * REPEATS
        for size in range(1, LONGEST_BLOCK + 1)
        for start in range(len(row) - REPEATS * size + 1)
    )
