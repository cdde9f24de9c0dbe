"""What the online methods share: rows of data, whole batches of one kind, a trainer set up.

TRL draws a group of answers to each prompt, so its batches consist of each row several times in a
row. ``BlockSampler`` makes them, and keeps apart what may not meet in one batch: rows with and
without an image (TRL 1.16 fails on a mixture) and rows of different streams.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Turn
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import rewards as _rewards

if TYPE_CHECKING:
    from steelyard.harness.models.vlm import Vlm

Stream = Literal["online", "offline"]
DECODED = 128  # rows kept ready; a row comes up several times within one batch


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an online or hybrid run, by its position in the training data."""

    position: int
    has_image: bool
    stream: Stream = "online"
    good: tuple[int, ...] = ()
    """Answer tokens of an offline pair, end included; the right answer and the mined one."""
    bad: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows that may share a batch, each repeated so often, and their share of the batches."""

    rows: tuple[int, ...]
    repeats: int
    share: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled and rewarded."""

    group: int
    temperature: float
    max_tokens: int
    beta: float
    format_reward: bool
    skip_flat: bool = False

    def arguments(self, own_reference: bool) -> dict[str, Any]:
        """TRL's names for it. With a reference of our own the trainer is made without one."""
        return {
            "num_generations": self.group,
            "temperature": self.temperature,
            "max_completion_length": self.max_tokens,
            "beta": 0.0 if own_reference else self.beta,
            "num_iterations": 1,
            "steps_per_generation": 1,
            "log_completions": False,
        }


class BlockSampler(Sampler[int]):
    """Row numbers in blocks of one generation batch, each block from one pool.

    Pools take turns in fixed proportions (smooth weighted round robin); within a pool every row
    comes up once in an order reshuffled each time. ``rest`` lets rows sit out their next turn.
    """

    def __init__(self, pools: Sequence[Pool], block: int, seed: int) -> None:
        self.pools = [pool for pool in pools if pool.rows and pool.share > 0]
        self.block = block
        self._resting: set[int] = set()
        generator = torch.Generator().manual_seed(seed)
        self._orders = [self._endless(pool.rows, generator) for pool in self.pools]
        self._due = [0.0] * len(self.pools)
        self._blocks = -(-sum(len(p.rows) * p.repeats for p in self.pools) // block)

    def __len__(self) -> int:
        return self._blocks * self.block

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._blocks):
            turn = self._next_pool()
            pool, order = self.pools[turn], self._orders[turn]
            for _ in range(self.block // pool.repeats):
                row = next(order)
                yield from [row] * pool.repeats

    def rest(self, rows: Sequence[int]) -> None:
        """These rows sit out their next turn."""
        self._resting.update(rows)

    def _next_pool(self) -> int:
        total = sum(pool.share for pool in self.pools)
        self._due = [
            due + pool.share / total for due, pool in zip(self._due, self.pools, strict=True)
        ]
        turn = max(range(len(self.pools)), key=lambda index: self._due[index])
        self._due[turn] -= 1
        return turn

    def _endless(self, rows: Sequence[int], generator: torch.Generator) -> Iterator[int]:
        while True:
            for index in torch.randperm(len(rows), generator=generator).tolist():
                if rows[index] in self._resting:
                    self._resting.discard(rows[index])
                else:
                    yield rows[index]


def pools(rows: Sequence[Row], group: int, mix: float) -> list[Pool]:
    """Rows by stream and image; ``mix`` is the share of offline batches where both exist."""
    shares: dict[Stream, float] = {"online": 1 - mix, "offline": mix}
    made = []
    for stream, share in shares.items():
        total = sum(row.stream == stream for row in rows)
        for has_image in (True, False):
            kind = (stream, has_image)
            found = tuple(i for i, row in enumerate(rows) if (row.stream, row.has_image) == kind)
            if found:
                repeats = group if stream == "online" else 2
                made.append(Pool(found, repeats, share * len(found) / total))
    return made


def online_rows(data: TrainData) -> list[Row]:
    """The training items whose answer can be verified: closed questions and short open ones.

    Raises:
        UserError: there is none, or items have several right answers at once.
    """
    if any(len(example.labels) > 1 for example in data.examples):
        raise UserError(
            "Answers with several labels cannot be verified as right or wrong: train an online "
            "method on data with one answer an item, for example --task instruct."
        )
    rows = [
        Row(position, example.image is not None)
        for position, example in enumerate(data.examples)
        if _rewards.verifiable(example)
    ]
    if not rows:
        raise UserError(
            "No training item is a closed question or has an answer of at most "
            f"{_rewards.PHRASE_WORDS} words: train an online method on --task instruct."
        )
    return rows


def dataset(backbone: "Vlm", data: TrainData, rows: Sequence[Row]) -> Any:
    """A ``datasets.Dataset`` of row numbers that turns into TRL's columns when it is read.

    No image is encoded or written anywhere. No column but ``prompt`` has a name that TRL takes for
    a conversation (it picks one of those present by hash order).
    """
    from datasets import Dataset

    @lru_cache(maxsize=DECODED)
    def columns(number: int) -> Mapping[str, Any]:
        row = rows[number]
        return _columns(number, row, data.turn(row.position), backbone)

    def look_up(batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        found = [columns(number) for number in batch["row"]]
        return {name: [each[name] for each in found] for name in found[0]}

    return Dataset.from_dict({"row": list(range(len(rows)))}).with_transform(look_up)


def _columns(number: int, row: Row, turn: Turn, backbone: "Vlm") -> dict[str, Any]:
    online = row.stream == "online"
    return {
        "prompt": backbone.messages(turn.inputs),
        "row": number,
        "stream": row.stream,
        "solution": turn.answer if online else None,
        "choices": turn.choices,
        "good": row.good,
        "bad": row.bad,
        "judged": None,
    }


def check_options(group: int, temperature: float, max_tokens: int, beta: float) -> None:
    """Refuse what no sampler can do."""
    if group < 2:
        raise UserError(f"group={group}: give at least 2, or no answer can beat another.")
    if temperature <= 0:
        raise UserError(f"temperature={temperature}: give a positive number.")
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens}: give at least 1.")
    if beta < 0:
        raise UserError(f"beta={beta}: give 0 or more.")


def check_group(backbone: "Vlm", group: int) -> None:
    """A batch must hold whole groups, and whole pairs."""
    size = backbone.recipe.batch_size
    if size % group or size % 2:
        raise UserError(
            f"group={group}: the backbone's batch size is {size}; give a divisor of an even one "
            "with the method option group or the backbone option batch_size."
        )


def train_online(
    trainer_class: Any,
    config_class: Any,
    backbone: "Vlm",
    data: TrainData,
    meter: Meter,
    seed: int,
    how: Sampling,
    **own: Any,
) -> None:
    """Train one of TRL's online trainers on verified questions until the budget is used.

    ``own`` are further settings of that trainer.
    """
    from steelyard.methods._preference import trl

    check_group(backbone, how.group)
    rows = online_rows(data)
    sampler = sampler_of(rows, backbone, how.group, 0.0, seed)
    with trl.workspace(backbone) as folder:
        reference = trl.reference_copy(backbone) if how.beta else None
        args = trl.arguments(
            config_class, backbone, seed, folder, **how.arguments(reference is not None), **own
        )
        trainer = trainer_class(
            model=backbone.model,
            reward_funcs=reward_functions(backbone, how.format_reward),
            args=args,
            train_dataset=dataset(backbone, data, rows),
            processing_class=backbone.processor,
        )
        set_up(trainer, meter, reference, how.beta, sampler, how.skip_flat)
        trl.run(trainer, backbone, meter, items=backbone.recipe.batch_size)


def set_up(
    trainer: Any,
    meter: Meter,
    reference: Any,
    beta: float,
    sampler: BlockSampler,
    skip_flat: bool,
) -> None:
    """Give a fresh GRPO or RLOO trainer its sampler, its reference model and its phases.

    TRL would load the reference by the name in the model's configuration, which is another model
    than the start of this run and unknown to the meter. So a trainer of all weights is made with
    beta 0 and gets the copy here; with LoRA, TRL's own second adapter is the start.
    """
    if reference is not None:
        trainer.ref_model, trainer.beta = reference, beta
    trainer._get_train_sampler = lambda dataset=None: sampler
    trainer._generate_single_turn = _charged(trainer._generate_single_turn, meter)
    trainer._calculate_rewards = _watched(trainer, sampler, skip_flat)


def _charged(generate: Callable[..., Any], meter: Meter) -> Callable[..., Any]:
    def charged(*args: Any, **kwargs: Any) -> Any:
        with meter.phase("rollout"):
            return generate(*args, **kwargs)

    return charged


def _watched(trainer: Any, sampler: BlockSampler, skip_flat: bool) -> Callable[..., Any]:
    """Logs the share of sampled groups whose rewards are all equal, and lets their rows rest."""
    judge = trainer._calculate_rewards

    def watched(inputs: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any) -> Any:
        rewards = judge(inputs, *args, **kwargs)
        if inputs[0]["stream"] == "online":
            flat = flat_groups(rewards, trainer.num_generations)
            trainer._metrics["train"]["flat_groups"].append(flat.float().mean().item())
            if skip_flat:
                asked = [row["row"] for row in inputs[:: trainer.num_generations]]
                sampler.rest([row for row, even in zip(asked, flat.tolist(), strict=True) if even])
        return rewards

    return watched


def flat_groups(rewards: Tensor, group: int) -> Tensor:
    """Whether all answers of a group earned the same: [N, F] rewards (NaN: not judged) -> [N/G]."""
    total = rewards.nansum(dim=1).view(-1, group)
    return total.amax(dim=1) == total.amin(dim=1)


def reward_functions(backbone: "Vlm", form: bool) -> list[_rewards.Reward]:
    """Correctness, and the form of the answer unless switched off."""
    formatting = [_rewards.formatting([backbone.eos_id])] if form else []
    return [_rewards.correctness, *formatting]


def sampler_of(
    rows: Sequence[Row], backbone: "Vlm", group: int, mix: float, seed: int
) -> BlockSampler:
    """The order of a run: by name from its seed."""
    made = pools(rows, group, mix)
    return BlockSampler(made, backbone.recipe.batch_size, seed_for(seed, "online", "order"))
