"""Data for TRL trainers: prompts rendered once, answers as tokens, collators.

TRL's vision collators render, tokenise and resize every row again at each step, and take the answer
from the chat template, which may append text after the end of an answer. Here a prompt is rendered
by the processor as for generation, and an answer consists of its tokens and the end token, as
generation would produce it. Both are cached if they fit in memory.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Sampler

from steelyard.harness.core import ranks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import AHEAD, IN_MEMORY_BYTES, TrainData

ENDLESS = 1 << 40
"""Length of a sampler without an end: more rows than any budget pays for."""
ORDERED_ROWS = 1 << 17  # minimum length of a data set; the order repeats after its end
IGNORED = -100  # label of a token that is not trained on
KL = "KL_"  # prefix of the inputs of KTO's divergence
FACTS = ("label", "has_image")  # facts about rows of pairs, which are no model inputs


@dataclass(frozen=True, slots=True)
class Prompt:
    """Rendered user turn, up to the beginning of the answer."""

    tokens: Tensor
    """[P] int64."""
    aligned: Mapping[str, Tensor]
    """Other model arguments with one entry per token: [P]; zero for text."""
    images: Mapping[str, Tensor]
    """Model arguments of the picture; empty without a picture."""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Right and wrong answer to the training example at ``position``."""

    position: int
    chosen: str
    rejected: str


PromptAt = Callable[[int], Prompt]
"""Prompt of the training example at a position."""
Collator = Callable[[list[dict[str, int]]], dict[str, Tensor]]
"""Model inputs of rows of ``ordered``."""


def prompt_of(backbone: Vlm, batch: Batch) -> Prompt:
    """Return the prompt of a batch of one row, which has no padding."""
    inputs = {name: value.cpu() for name, value in backbone.prompts.plain(batch).items()}
    tokens, _ = inputs.pop("input_ids"), inputs.pop("attention_mask")
    # Token types, for example: answers need a value of them as well.
    aligned = {name: value for name, value in inputs.items() if value.shape == tokens.shape}
    return Prompt(
        tokens[0],
        {name: value[0] for name, value in aligned.items()},
        {name: value for name, value in inputs.items() if name not in aligned},
    )


def prompts_of(
    backbone: Vlm, data: TrainData, inputs_at: Callable[[int], Inputs] | None = None
) -> PromptAt:
    """Return prompts by position, cached if all of them fit in memory.

    ``inputs_at`` replaces the inputs of the training data.
    """
    cached: dict[int, Prompt] = {}

    def at(position: int) -> Prompt:
        if position in cached:
            return cached[position]
        gather = data.gather
        batch = backbone.collate([inputs_at(position)]) if inputs_at else gather([position])
        prompt = prompt_of(backbone, batch)
        # Token tensors are small beside pictures, which are assumed to be of one size.
        size = sum(value.nbytes for value in prompt.images.values())
        if size * len(data) <= IN_MEMORY_BYTES:
            cached[position] = prompt
        return prompt

    return at


def join(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], pad_id: int
) -> dict[str, Tensor]:
    """Return model inputs of [prompt | answer] rows, right-padded, and ``completion_mask`` [N, L].

    Image tensors are those of the rows with a picture, concatenated.
    """
    lengths = [
        len(prompt.tokens) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    shape = (len(prompts), max(lengths))
    inputs = {"input_ids": torch.full(shape, pad_id)}
    aligned = (name for prompt in prompts for name in prompt.aligned)
    for name in ("attention_mask", "completion_mask", *aligned):
        inputs[name] = torch.zeros(shape, dtype=torch.long)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        start, end = len(prompt.tokens), lengths[row]
        inputs["input_ids"][row, :start] = prompt.tokens
        inputs["input_ids"][row, start:end] = torch.tensor(answer)
        inputs["attention_mask"][row, :end] = 1
        inputs["completion_mask"][row, start:end] = 1
        for name, value in prompt.aligned.items():
            inputs[name][row, :start] = value
    for name in {name: None for prompt in prompts for name in prompt.images}:
        inputs[name] = _concatenate([p.images[name] for p in prompts if name in p.images])
    return inputs


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate rows, padding the other axes with zeros: pictures differ in number of tiles."""
    shape = [max(tensor.shape[axis] for tensor in tensors) for axis in range(1, tensors[0].dim())]
    padded = []
    for tensor in tensors:
        missing = [size - have for size, have in zip(shape, tensor.shape[1:], strict=True)]
        # ``pad`` counts axes from the last one, with two numbers per axis.
        padded.append(pad(tensor, [n for size in reversed(missing) for n in (0, size)]))
    return torch.cat(padded)


class Endless(Sampler[int]):
    """All rows in order, again and again: at the end of a pass a loader would draw a number."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[int]:
        return (row % self._count for row in itertools.count())


def ordered(
    count: int, batch_size: int, seed: int, stage: str, micro: int = 1, first: int = 0
) -> Any:
    """Return a ``datasets.Dataset`` of row numbers in the order of ``TrainData.batches``.

    It holds full batches only, pass after reshuffled pass, and stays in memory. ``first`` is the
    number of the row that it begins with. Of several ranks each gets every so many passes of
    ``micro`` rows.
    """
    from datasets import Dataset

    generator = np.random.default_rng(seed_for(seed, "batches", stage))
    per_pass = count // batch_size * batch_size
    passes = [generator.permutation(count)[:per_pass] for _ in range(-(-ORDERED_ROWS // per_pass))]
    parts = np.roll(np.concatenate(passes), -first).reshape(-1, micro)
    rows = parts[ranks.rank() :: ranks.world()].ravel()
    # A column ``image`` makes TRL treat the data as images; the collator supplies the pictures.
    return Dataset.from_dict({"row": rows, "image": rows})


def reading_ahead(
    collate: Collator,
    order: Sequence[int],
    position: Callable[[int], int],
    expect: Callable[[Sequence[int]], None],
) -> Collator:
    """Return a collator that also announces the examples of rows that are read later.

    It is called with the rows of ``order`` one after the other.
    """
    read = 0

    def collate_and_announce(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        nonlocal read
        read += len(rows)
        expect([position(row) for row in order[read : read + AHEAD * len(rows)]])
        return collate(rows)

    return collate_and_announce


def batch_size(backbone: Vlm, count: int, least: int = 1) -> int:
    """Return the rows of one step: the recipe's batch size, or all rows if there are fewer."""
    size = min(backbone.recipe.batch_size, count)
    if size < least:
        raise UserError(
            f"{size} example(s) per step: give at least {least}, with more data or batch_size."
        )
    return size


def supervised(backbone: Vlm, data: TrainData, prompt_at: PromptAt) -> Collator:
    """Return a collator for ``SFTTrainer``: labels at the tokens of the right answer."""
    padding = backbone.prompts.pad_id

    @cache
    def answer_at(position: int) -> list[int]:
        return backbone.prompts.answer_ids(data.turn(position).answer)

    def collate(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        positions = [row["row"] for row in rows]
        inputs = join(list(map(prompt_at, positions)), list(map(answer_at, positions)), padding)
        trained = inputs.pop("completion_mask").bool()
        return inputs | {"labels": inputs["input_ids"].masked_fill(~trained, IGNORED)}

    return collate


def preference(
    backbone: Vlm,
    pairs: Sequence[AnswerPair],
    prompt_at: PromptAt,
    corrupted_at: PromptAt | None = None,
) -> Collator:
    """Return a collator for ``DPOTrainer``: all chosen rows, then all rejected ones.

    With ``corrupted_at`` follow the chosen answers to corrupted images, and batches also hold
    ``has_image`` [B] bool.
    """
    padding, tokens = backbone.prompts.pad_id, cache(backbone.prompts.answer_ids)

    def collate(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        batch = [pairs[row["row"]] for row in rows]
        prompts = [prompt_at(pair.position) for pair in batch]
        right = [tokens(pair.chosen) for pair in batch]
        wrong = [tokens(pair.rejected) for pair in batch]
        if corrupted_at is None:
            return join([*prompts, *prompts], [*right, *wrong], padding)
        corrupted = [corrupted_at(pair.position) for pair in batch]
        inputs = join([*prompts, *prompts, *corrupted], [*right, *wrong, *right], padding)
        return inputs | {"has_image": torch.tensor([bool(prompt.images) for prompt in prompts])}

    return collate


def unpaired(backbone: Vlm, pairs: Sequence[AnswerPair], prompt_at: PromptAt) -> Collator:
    """Return a collator for ``KTOTrainer``: row 2i is pair i's chosen, 2i+1 its rejected answer.

    A KL row pairs a prompt with the same kind of answer of the next pair. Pairs are in random
    order, so it seldom fits; it is the same in every pass, so its reference can be cached.
    """
    padding, tokens = backbone.prompts.pad_id, cache(backbone.prompts.answer_ids)

    def answer_at(row: int) -> list[int]:
        pair = pairs[row // 2 % len(pairs)]
        return tokens(pair.rejected if row % 2 else pair.chosen)

    def collate(batch: list[dict[str, int]]) -> dict[str, Tensor]:
        rows = [row["row"] for row in batch]
        prompts = [prompt_at(pairs[row // 2].position) for row in rows]
        inputs = join(prompts, [answer_at(row) for row in rows], padding)
        kl_inputs = join(prompts, [answer_at(row + 2) for row in rows], padding)
        # KTOTrainer reads KL rows under this prefix, and takes their pictures from the rows.
        pictures = {name for prompt in prompts for name in prompt.images}
        inputs |= {KL + name: value for name, value in kl_inputs.items() if name not in pictures}
        return inputs | {"label": torch.tensor([row % 2 == 0 for row in rows])}

    return collate


def model_inputs(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the model inputs and answer masks of a batch of pairs, one for each forward pass."""
    rows = {k: v for k, v in batch.items() if k not in FACTS and not k.startswith(KL)}
    mismatched = {k.removeprefix(KL): v for k, v in batch.items() if k.startswith(KL)}
    return [rows, rows | mismatched] if mismatched else [rows]
