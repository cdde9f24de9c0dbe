"""Data on the way into a TRL trainer: prompts rendered once, answers as tokens, batches.

TRL's own vision collators render, tokenise and resize every row again at each step, and take the
answer from the chat template, which may put text after the end of an answer. Here a prompt is what
the processor makes of it for generation, an answer is its tokens and the end token, as generation
would produce them, and both are kept while they fit in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import IN_MEMORY_BYTES, TrainData

ORDERED_ROWS = 1 << 17  # rows a data set lists at least; the order repeats after them
IGNORED = -100  # the label of a token that is not learnt


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user turn as the processor renders it, up to where the answer begins."""

    tokens: Tensor
    """[P] int64."""
    aligned: Mapping[str, Tensor]
    """What else has one entry a token, by the model's argument name: [P]; zero for text."""
    images: Mapping[str, Tensor]
    """The picture by the model's argument names; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A right and a wrong answer to the training example at ``position``."""

    position: int
    chosen: str
    rejected: str


Prompts = Callable[[int], Prompt]
Collator = Callable[[list[dict[str, int]]], dict[str, Tensor]]


def render(backbone: Vlm, inputs: Inputs) -> Prompt:
    """The prompt of one user turn, ready for an answer.

    Raises:
        UserError: it is too long.
    """
    return _prompt(backbone, backbone.collate([inputs]))


def _prompt(backbone: Vlm, batch: Batch) -> Prompt:
    """The prompt of a batch of one row, which has no padding."""
    made = {name: value.cpu() for name, value in backbone.prompts.plain(batch).items()}
    tokens, _ = made.pop("input_ids"), made.pop("attention_mask")
    aligned = {name: value for name, value in made.items() if value.shape == tokens.shape}
    return Prompt(
        tokens[0],
        {name: value[0] for name, value in aligned.items()},
        {name: value for name, value in made.items() if name not in aligned},
    )


def prompts_of(
    backbone: Vlm, data: TrainData, seen: Callable[[int], Inputs] | None = None
) -> Prompts:
    """Prompts by position, kept once rendered where all of them fit in memory.

    ``seen`` gives the inputs at a position where they are not the training data's own.
    """
    kept: dict[int, Prompt] = {}

    def at(position: int) -> Prompt:
        if position in kept:
            return kept[position]
        if seen:
            prompt = render(backbone, seen(position))
        else:
            prompt = _prompt(backbone, data.gather([position]))
        size = sum(value.nbytes for value in prompt.images.values())
        if size * len(data) <= IN_MEMORY_BYTES:
            kept[position] = prompt
        return prompt

    return at


def join(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], pad_id: int
) -> dict[str, Tensor]:
    """Model inputs of [prompt | answer] rows, right-padded, and ``completion_mask`` [N, L]."""
    lengths = [
        len(prompt.tokens) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    length = max(lengths)
    made = {
        "input_ids": torch.full((len(prompts), length), pad_id),
        "attention_mask": torch.zeros(len(prompts), length, dtype=torch.long),
        "completion_mask": torch.zeros(len(prompts), length, dtype=torch.long),
    }
    made |= {
        name: torch.zeros(len(prompts), length, dtype=torch.long)  # of text, where there is none
        for prompt in prompts
        for name in prompt.aligned
    }
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        start, end = len(prompt.tokens), lengths[row]
        made["input_ids"][row, :start] = prompt.tokens
        made["input_ids"][row, start:end] = torch.tensor(answer)
        made["attention_mask"][row, :end] = 1
        made["completion_mask"][row, start:end] = 1
        for name, value in prompt.aligned.items():
            made[name][row, :start] = value
    return made | _pictures(prompts)


def _pictures(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Image tensors of the rows that have one, one after another."""
    names = {name: None for prompt in prompts for name in prompt.images}
    return {
        name: _stacked([prompt.images[name] for prompt in prompts if name in prompt.images])
        for name in names
    }


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Concatenated rows, the other axes zero-padded to the largest (numbers of tiles differ)."""
    widest = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
    wide = []
    for part in parts:
        missing = [wanted - have for wanted, have in zip(widest, part.shape[1:], strict=True)]
        wide.append(pad(part, [n for each in reversed(missing) for n in (0, each)]))
    return torch.cat(wide)


def ordered(count: int, batch_size: int, seed: int, stage: str) -> Any:
    """A ``datasets.Dataset`` of row numbers, whole batches of one reshuffled pass after another.

    Read in sequence it gives the order of ``TrainData.batches``. It lives in memory. TRL takes it
    for a data set of images by its column ``image``; the pictures come from the collator.
    """
    from datasets import Dataset

    generator = np.random.default_rng(seed_for(seed, "batches", stage))
    whole = count // batch_size * batch_size
    passes = [generator.permutation(count)[:whole] for _ in range(-(-ORDERED_ROWS // whole))]
    rows = np.concatenate(passes)
    return Dataset.from_dict({"row": rows, "image": rows})


def batch_size(backbone: Vlm, count: int, least: int = 1) -> int:
    """Rows of one step: the recipe's, or all there are where they are fewer."""
    size = min(backbone.recipe.batch_size, count)
    if size < least:
        raise UserError(
            f"{size} example(s) a step: give at least {least}, with more data or batch_size."
        )
    return size


def supervised(backbone: Vlm, data: TrainData, prompts: Prompts) -> Collator:
    """Batches for ``SFTTrainer``: labels at the tokens of the right answer."""
    padding = backbone.prompts.pad_id

    @cache
    def answer(position: int) -> list[int]:
        return backbone.prompts.answer_ids(data.turn(position).answer)

    def collate(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        positions = [row["row"] for row in rows]
        made = join([prompts(i) for i in positions], [answer(i) for i in positions], padding)
        learnt = made.pop("completion_mask").bool()
        return made | {"labels": made["input_ids"].masked_fill(~learnt, IGNORED)}

    return collate


def preference(backbone: Vlm, pairs: Sequence[Pair], prompts: Prompts) -> Collator:
    """Batches for ``DPOTrainer``: all chosen rows, then all rejected ones."""
    padding, tokens = backbone.prompts.pad_id, cache(backbone.prompts.answer_ids)

    def collate(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        drawn = [pairs[row["row"]] for row in rows]
        asked = [prompts(pair.position) for pair in drawn]
        answers = [pair.chosen for pair in drawn] + [pair.rejected for pair in drawn]
        return join(asked * 2, [tokens(answer) for answer in answers], padding)

    return collate


def unpaired(backbone: Vlm, pairs: Sequence[Pair], prompts: Prompts) -> Collator:
    """Batches for ``KTOTrainer``: row 2i is pair i's chosen answer, row 2i+1 its rejected one.

    The KL term takes each prompt with the next row's answer, which must be of another prompt.
    """
    padding, tokens = backbone.prompts.pad_id, cache(backbone.prompts.answer_ids)

    def collate(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        drawn = [pairs[row["row"] // 2] for row in rows]
        wanted = [row["row"] % 2 == 0 for row in rows]
        asked = [prompts(pair.position) for pair in drawn]
        said = [p.chosen if good else p.rejected for p, good in zip(drawn, wanted, strict=True)]
        answers = [tokens(answer) for answer in said]
        made = join(asked, answers, padding)
        other = join(asked, answers[-1:] + answers[:-1], padding)
        pictures = {name for prompt in asked for name in prompt.images}
        made |= {f"KL_{name}": value for name, value in other.items() if name not in pictures}
        return made | {"label": torch.tensor(wanted)}

    return collate


def image_preference(
    backbone: Vlm, pairs: Sequence[Pair], prompts: Prompts, corrupted: Prompts
) -> Collator:
    """Chosen rows, rejected rows, then chosen answers with damaged images, and ``seen`` [B] bool.

    ``seen`` tells which examples have an image.
    """
    padding, tokens = backbone.prompts.pad_id, cache(backbone.prompts.answer_ids)

    def collate(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        drawn = [pairs[row["row"]] for row in rows]
        asked = [prompts(pair.position) for pair in drawn]
        blurred = [corrupted(pair.position) for pair in drawn]
        chosen, rejected = [p.chosen for p in drawn], [p.rejected for p in drawn]
        answers = [tokens(answer) for answer in (*chosen, *rejected, *chosen)]
        made = join([*asked, *asked, *blurred], answers, padding)
        return made | {"seen": torch.tensor([bool(prompt.images) for prompt in asked])}

    return collate
