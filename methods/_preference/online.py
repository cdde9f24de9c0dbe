"""Parts of the methods that sample answers: options, questions, rewards, order of batches.

A reward is 0 or 1, by rules: for the right answer, and for its form. ``row_trainer`` samples the
answers and hands them to TRL.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import Sampler

from steelyard.harness.core import ranks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example
from steelyard.harness.core.options import require
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference.trl_data import ENDLESS
from steelyard.tasks.answers import exact

Stream = Literal["online", "offline"]
PHRASE_WORDS = 3  # an open question can be verified if its answer is at most this long
PAIR = 2  # rows of an offline group: the right and the wrong answer


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of every method that samples answers; the method's ``Config`` extends them."""

    group: int = 8
    """Answers sampled per question; divides the batch size, which counts answers."""
    temperature: float = 1.0
    """Temperature of sampled answers."""
    max_tokens: int = 64
    """Maximum length of a sampled answer."""
    beta: float = 0.04
    """Weight of the divergence from the start model; 0 leaves it out."""
    clip: float = 0.2
    """Largest change of the probability ratio that gets a gradient."""
    format_reward: bool = True
    """Reward the form of an answer as well."""
    resample: int = 3
    """Most rounds in which questions whose answers got equal rewards are replaced by others."""

    def __post_init__(self) -> None:
        require(self, "group", self.group >= 2, "at least 2 answers, to compare them")
        require(self, "temperature", self.temperature > 0, "a positive number")
        require(self, "max_tokens", self.max_tokens >= 1, "at least 1")
        require(self, "beta", self.beta >= 0, "0 or more")
        require(self, "resample", self.resample >= 0, "0 or more")

    def check_batch(self, size: int) -> None:
        """Refuse a batch size that does not hold complete groups and complete pairs."""
        world = ranks.world()
        if size % (self.group * world) or size % (PAIR * world):
            parts = f" of each of {world} ranks" if world > 1 else ""
            raise UserError(
                f"group={self.group} does not divide batch_size={size}{parts}, or that is odd: "
                f"give another --set group=, or --backbone-set batch_size={2 * self.group * world}."
            )


@dataclass(frozen=True, slots=True)
class StreamRow:
    """Row of an online or hybrid run, by its position in the training data."""

    position: int
    stream: Stream = "online"
    good: tuple[int, ...] = ()
    """Tokens of the right answer of an offline pair, end token included."""
    bad: tuple[int, ...] = ()
    """Tokens of the mined answer."""


@dataclass(frozen=True, slots=True)
class RowPool:
    """Indices of the rows of one stream, and how they are drawn."""

    rows: tuple[int, ...]
    repeats: int
    """Number of times that a row occurs in sequence."""
    fraction: float
    """Fraction of the batches."""


class BlockSampler(Sampler[int]):
    """Row numbers in blocks of one optimiser step, each block from one pool.

    Pools alternate in fixed proportions (smooth weighted round robin). Within a pool, every row
    occurs once per epoch, in an order that is reshuffled for each epoch. A block is repeated for
    each of the ``passes`` with gradients of a step. Each of several ranks draws all rows and yields
    an equal part of every block, so that all see the same kind of rows in a step.

    It has no end. Loaders read ahead: ``unused`` are the blocks that no step has used, and an
    iterator begins with them.
    """

    def __init__(self, pools: Sequence[RowPool], block: int, seed: int, passes: int = 1) -> None:
        self.pools = [pool for pool in pools if pool.rows and pool.fraction > 0]
        self.block, self.passes = block, passes
        self.unused: deque[list[int]] = deque()
        self._generator = torch.Generator().manual_seed(seed)
        self._upcoming: list[list[int]] = [[] for _ in self.pools]
        """Rows of each pool that are left of its epoch."""
        self._due = [0.0] * len(self.pools)

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[int]:
        yield from itertools.chain(*self.unused)
        while True:
            index = self._next_pool()
            repeats = self.pools[index].repeats
            rows = ranks.slice_of(self.draw(index, self.block // repeats))
            # TRL asks for the block before each pass, and reads it before the first only.
            self.unused.append([row for row in rows for _ in range(repeats)] * self.passes)
            yield from self.unused[-1]

    def draw(self, pool: int, count: int) -> list[int]:
        """Return the next rows of a pool's order."""
        rows, upcoming = self.pools[pool].rows, self._upcoming[pool]
        while len(upcoming) < count:
            order = torch.randperm(len(rows), generator=self._generator).tolist()
            upcoming += [rows[i] for i in order]
        result, self._upcoming[pool] = upcoming[:count], upcoming[count:]
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the order, as JSON."""
        return {
            "unused": list(self.unused),
            "upcoming": self._upcoming,
            "due": self._due,
            "generator": self._generator.get_state().tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a position."""
        self.unused = deque(state["unused"])
        self._upcoming, self._due = state["upcoming"], state["due"]
        self._generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))

    def _next_pool(self) -> int:
        total = sum(pool.fraction for pool in self.pools)
        self._due = [
            due + pool.fraction / total for due, pool in zip(self._due, self.pools, strict=True)
        ]
        # The pool that is furthest behind its proportion is next.
        index = max(range(len(self.pools)), key=lambda index: self._due[index])
        self._due[index] -= 1
        return index


def pools(rows: Sequence[StreamRow], group: int, mix: float) -> list[RowPool]:
    """Group rows by stream, online first; ``mix`` is the fraction of offline batches."""
    streams: tuple[tuple[Stream, int, float], ...] = (
        ("online", group, 1 - mix),
        ("offline", PAIR, mix),
    )
    return [
        RowPool(tuple(i for i, row in enumerate(rows) if row.stream == stream), repeats, fraction)
        for stream, repeats, fraction in streams
    ]


def online_rows(data: TrainData) -> list[StreamRow]:
    """Return the training items whose answer can be verified: closed and short open questions."""
    if any(len(example.labels) > 1 for example in data.examples):
        raise UserError(
            "Answers with several labels cannot be verified as right or wrong: train an online "
            "method on data with one answer per item, for example --task instruct."
        )
    rows = [StreamRow(i) for i, example in enumerate(data.examples) if verifiable(example)]
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


def correctness(answer: str, right: str) -> float:
    """Return 1 for an answer that equals the right one after normalisation, else 0."""
    return exact(answer, [right])


def form(answer: str, choices: Sequence[str], finished: bool) -> float:
    """Return 1 for an answer that is one of the choices, or one short phrase, and has ended.

    Choices are compared regardless of case, but not normalised: "a red ball." is not "red ball".
    """
    words = answer.strip().casefold()
    if not finished or not words:
        return 0.0
    if choices:
        return float(words in {choice.casefold() for choice in choices})
    return float("\n" not in words and len(words.split()) <= PHRASE_WORDS)
