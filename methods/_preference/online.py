"""Parts of the methods that sample answers: options, rows, order of batches, trainer set-up.

A reward is 0 or 1, by rules: for the right answer, and for its form. The functions have the
signature of TRL's reward functions: keyword lists with one entry per completion, which is a
conversation of one turn. They return None for rows of the offline stream, which TRL leaves out of
sums and means. They read two data columns: ``solution``, the right answer, None in an offline row;
and ``choices``, all answers that a closed question allows, empty for an open one.

TRL samples a group of answers per prompt, so its batches hold every row several times in sequence.
``BlockSampler`` makes such batches and never mixes, within one batch, rows with and without an
image (TRL 1.16 fails on a mixture) or rows of different streams.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example
from steelyard.harness.core.options import require
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import trl
from steelyard.tasks.answers import exact, without_reasoning

Stream = Literal["online", "offline"]
Reward = Callable[..., list[float | None]]
PHRASE_WORDS = 3  # an open question can be verified if its answer is at most this long
DECODED = 128  # decoded rows in memory; a row occurs several times within one batch


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of every method that samples answers; the method's ``Config`` extends them."""

    group: int = 8
    """Answers sampled per question; divides the batch size."""
    temperature: float = 1.0
    max_tokens: int = 12
    """Maximum length of an answer."""
    beta: float = 0.04
    """Weight of the divergence from the start model; 0 leaves it out."""
    clip: float = 0.2
    """Largest change of the probability ratio that gets a gradient."""
    format_reward: bool = True
    """Reward the form of an answer as well."""
    skip_flat: bool = False
    """Leave a question out of the next pass if all its sampled answers got the same reward."""

    def __post_init__(self) -> None:
        require(self, "group", self.group >= 2, "at least 2 answers, to compare them")
        require(self, "temperature", self.temperature > 0, "a positive number")
        require(self, "max_tokens", self.max_tokens >= 1, "at least 1")
        require(self, "beta", self.beta >= 0, "0 or more")


@dataclass(frozen=True, slots=True)
class StreamRow:
    """Row of an online or hybrid run, by its position in the training data."""

    position: int
    has_image: bool
    stream: Stream = "online"
    good: tuple[int, ...] = ()
    """Tokens of the right answer of an offline pair, end token included."""
    bad: tuple[int, ...] = ()
    """Tokens of the mined answer."""


@dataclass(frozen=True, slots=True)
class RowPool:
    """Indices of rows that may be in one batch, and how they are drawn."""

    rows: tuple[int, ...]
    repeats: int
    """Number of times that a row occurs in sequence."""
    fraction: float
    """Fraction of the batches."""


class BlockSampler(Sampler[int]):
    """Row numbers in blocks of one generation batch, each block from one pool.

    Pools alternate in fixed proportions (smooth weighted round robin). Within a pool, every row
    occurs once per pass, in an order that is reshuffled for each pass. A block is repeated for each
    of the ``passes`` with gradients of a step.
    """

    def __init__(self, pools: Sequence[RowPool], block: int, seed: int, passes: int = 1) -> None:
        self.pools = [pool for pool in pools if pool.rows and pool.fraction > 0]
        self.block, self.passes = block, passes
        self._resting: set[int] = set()
        generator = torch.Generator().manual_seed(seed)
        # Made once, so that the trainer's next pass continues the order instead of repeating it.
        self._orders = [self._endless(pool.rows, generator) for pool in self.pools]
        self._due = [0.0] * len(self.pools)
        # Rounded up, so that small data make at least one block.
        self._blocks = -(-sum(len(p.rows) * p.repeats for p in self.pools) // block)

    def __len__(self) -> int:
        return self._blocks * self.passes * self.block

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._blocks):
            index = self._next_pool()
            pool, order = self.pools[index], self._orders[index]
            rows = [next(order) for _ in range(self.block // pool.repeats)]
            # TRL asks for the block before each pass, and reads it before the first only.
            yield from [row for row in rows for _ in range(pool.repeats)] * self.passes

    def rest(self, rows: Sequence[int]) -> None:
        """Leave these rows out of their next pass."""
        self._resting.update(rows)

    def _next_pool(self) -> int:
        total = sum(pool.fraction for pool in self.pools)
        self._due = [
            due + pool.fraction / total for due, pool in zip(self._due, self.pools, strict=True)
        ]
        # The pool that is furthest behind its proportion is next.
        index = max(range(len(self.pools)), key=lambda index: self._due[index])
        self._due[index] -= 1
        return index

    def _endless(self, rows: Sequence[int], generator: torch.Generator) -> Iterator[int]:
        while True:
            for index in torch.randperm(len(rows), generator=generator).tolist():
                if rows[index] in self._resting:
                    self._resting.discard(rows[index])
                else:
                    yield rows[index]


def pools(rows: Sequence[StreamRow], group: int, mix: float) -> list[RowPool]:
    """Group rows by stream and image; ``mix`` is the fraction of offline batches if both exist."""
    streams: tuple[tuple[Stream, int, float], ...] = (
        ("online", group, 1 - mix),
        ("offline", 2, mix),  # right and wrong answer
    )
    result = []
    for (stream, repeats, fraction), has_image in product(streams, (True, False)):
        total = sum(row.stream == stream for row in rows)
        kind = (stream, has_image)
        members = tuple(i for i, row in enumerate(rows) if (row.stream, row.has_image) == kind)
        if members:
            result.append(RowPool(members, repeats, fraction * len(members) / total))
    return result


def online_rows(data: TrainData) -> list[StreamRow]:
    """Return the training items whose answer can be verified: closed and short open questions."""
    if any(len(example.labels) > 1 for example in data.examples):
        raise UserError(
            "Answers with several labels cannot be verified as right or wrong: train an online "
            "method on data with one answer per item, for example --task instruct."
        )
    rows = [
        StreamRow(position, example.image is not None)
        for position, example in enumerate(data.examples)
        if verifiable(example)
    ]
    if not rows:
        raise UserError(
            "No training item is a closed question or has an answer of at most "
            f"{PHRASE_WORDS} words: train an online method on --task instruct."
        )
    return rows


def verifiable(example: Example) -> bool:
    """Return True if answers can be checked by comparison: closed or short open questions."""
    if example.choices or example.labels:
        return True
    return bool(example.answers) and 0 < len(example.answers[0].split()) <= PHRASE_WORDS


def well_formed(answer: str, choices: Sequence[str], finished: bool) -> bool:
    """Return True if an answer is one of the choices, or one short phrase, and has ended.

    Choices are compared regardless of case, but not normalised: "a red ball." is not "red ball".
    """
    words = answer.strip().casefold()
    if not finished or not words:
        return False
    if choices:
        return words in {choice.casefold() for choice in choices}
    return "\n" not in words and len(words.split()) <= PHRASE_WORDS


def correctness(
    completions: Sequence[Any], solution: Sequence[str | None], **columns: object
) -> list[float | None]:
    """Return 1 for answers that equal the right one after normalisation."""
    return [
        None if right is None else exact(turns[0]["content"], [right])
        for turns, right in zip(completions, solution, strict=True)
    ]


def formatting(eos_ids: Sequence[int]) -> Reward:
    """Return the reward for the form of an answer; ``eos_ids`` are the tokens that end one."""

    def form(
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[str | None],
        choices: Sequence[Sequence[str]],
        **columns: object,
    ) -> list[float | None]:
        rows = zip(completions, completion_ids, solution, choices, strict=True)
        return [
            None
            if right is None
            else float(well_formed(turns[0]["content"], allowed, bool(ids) and ids[-1] in eos_ids))
            for turns, ids, right, allowed in rows
        ]

    return form


def dataset(backbone: Vlm, data: TrainData, rows: Sequence[StreamRow]) -> Any:
    """Return a ``datasets.Dataset`` of row numbers, turned into TRL's columns when it is read.

    So no image is encoded or written to disk.
    """
    from datasets import Dataset

    @lru_cache(maxsize=DECODED)
    def columns(number: int) -> Mapping[str, Any]:
        row = rows[number]
        turn = data.turn(row.position)
        # TRL takes several column names for a conversation, in hash order: only ``prompt`` is one.
        return {
            "prompt": backbone.messages(turn.inputs),
            "row": number,
            "stream": row.stream,
            "solution": turn.answer if row.stream == "online" else None,
            "choices": turn.choices,
            "good": row.good,
            "bad": row.bad,
            "stored_reward": None,
        }

    def look_up(batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        table = [columns(number) for number in batch["row"]]
        return {name: [row[name] for row in table] for name in table[0]}

    return Dataset.from_dict({"row": list(range(len(rows)))}).with_transform(look_up)


def check_group(backbone: Vlm, group: int) -> None:
    """Refuse a batch size that does not hold complete groups and complete pairs."""
    size = backbone.recipe.batch_size
    if size % group or size % 2:
        raise UserError(
            f"group={group}: the backbone's batch size is {size}; give a divisor of an even one "
            "with the method option group or the backbone option batch_size."
        )


@contextmanager
def online_trainer(
    trainer_class: Callable[..., Any],
    config_class: type[Any],
    backbone: Vlm,
    data: TrainData,
    meter: Meter,
    config: Sampling,
    seed: int,
    *,
    rows: Sequence[StreamRow] | None = None,
    mix: float = 0.0,
    rewards: Sequence[Reward] = (),
    **settings: Any,
) -> Iterator[Any]:
    """Open a workspace with a GRPO or RLOO trainer on these rows, by default ``online_rows``.

    ``mix`` is the fraction of offline batches. ``rewards`` follow those for right answers and for
    their form. ``settings`` are further arguments of ``config_class``.
    """
    check_group(backbone, config.group)
    rows = online_rows(data) if rows is None else rows
    order = pools(rows, config.group, mix)
    size = backbone.recipe.batch_size
    passes = size // backbone.recipe.micro_size(size)
    sampler = BlockSampler(order, size, seed_for(seed, "online", "order"), passes)
    form = [formatting([backbone.eos_id])] if config.format_reward else []
    with trl.workspace(backbone) as folder:
        # TRL would load the reference by the name in the model's configuration: that is not the
        # start of this run, and the meter does not watch it. With beta 0 TRL loads none. Under
        # LoRA ``reference`` is None, and TRL's second adapter is a copy of the start.
        reference = trl.reference_copy(backbone) if config.beta else None
        settings = {
            "num_generations": config.group,
            "temperature": config.temperature,
            "max_completion_length": config.max_tokens,
            "beta": config.beta if reference is None else 0.0,
            # One update per sampled batch: the policy that sampled is the policy itself.
            "num_iterations": 1,
            "log_completions": False,
            "epsilon": config.clip,
            **settings,
        }
        trainer = trainer_class(
            model=backbone.model,
            reward_funcs=[correctness, *form, *rewards],
            args=trl.arguments(config_class, backbone, seed, folder, **settings),
            train_dataset=dataset(backbone, data, rows),
            processing_class=backbone.processor,
        )
        if reference is not None:
            trainer.ref_model, trainer.beta = reference, config.beta
        # TRL's sampler mixes rows with and without an image.
        trainer._get_train_sampler = lambda dataset=None: sampler
        watch(trainer, backbone, meter, sampler, config.skip_flat)
        yield trainer


def watch(
    trainer: Any, backbone: Vlm, meter: Meter, sampler: BlockSampler, skip_flat: bool
) -> None:
    """Charge sampling to ``rollout``, and log or skip groups of equal rewards.

    An answer is rewarded as it is scored, without the model's reasoning.
    """
    generate, calculate = trainer._generate_single_turn, trainer._calculate_rewards

    def charged(*args: Any, **kwargs: Any) -> Any:
        with meter.phase("rollout"):
            return generate(*args, **kwargs)

    def watched(
        inputs: Sequence[Mapping[str, Any]],
        prompts: Any,
        completions: Any,
        ids: Sequence[Sequence[int]],
    ) -> Any:
        # Not TRL's own texts, in which tags of reasoning may be lost as special tokens.
        answers = [without_reasoning(backbone.decode(row)) for row in ids]
        turns = [[{"role": "assistant", "content": answer}] for answer in answers]
        rewards = calculate(inputs, prompts, turns, ids)
        if inputs[0]["stream"] == "online":
            flat = flat_groups(rewards, trainer.num_generations)
            trainer._metrics["train"]["flat_groups"].append(flat.float().mean().item())
            if skip_flat:
                # The rows of a group are equal; one of them is enough.
                rows = [row["row"] for row in inputs[:: trainer.num_generations]]
                sampler.rest(
                    [row for row, is_flat in zip(rows, flat.tolist(), strict=True) if is_flat]
                )
        return rewards

    trainer._generate_single_turn = charged
    trainer._calculate_rewards = watched


def flat_groups(rewards: Tensor, group: int) -> Tensor:
    """Return which groups got equal rewards: [N, F] rewards (NaN: not judged) -> [N/G] bool."""
    total = rewards.nansum(dim=1).view(-1, group)
    return total.amax(dim=1) == total.amin(dim=1)
