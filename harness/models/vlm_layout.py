"""Layout of prompt, image and answer in one sequence, and how parts are blanked or exchanged.

A prompt is stored once, with its image and without it:

    tokens              <user> <img> <slot> <slot> </img> ▁what  what  colour  ?
    only_with_image            x     x      x      x
    only_without_image                                    x
    (shared)            x                                        ...

The model attends to the shared tokens and to one of the two other groups.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Self

import torch
from torch import Tensor

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Modality
from steelyard.harness.models.backbone import Batch

MULTI_AXIS = ("qwen2_vl", "qwen2_5_vl")
"""Families that count positions along time, height and width (Qwen-VL's M-RoPE)."""
TEXT_TENSORS = ("tokens", "mask", "slots", "only_with_image", "only_without_image", "text_tokens")
IGNORED = -100  # marks padding among answer tokens, as torch's losses do


@dataclass(frozen=True, slots=True)
class PromptRow:
    """Tokens of one prompt, with its image and without it."""

    tokens: tuple[int, ...]
    text_tokens: tuple[bool, ...]
    only_with_image: tuple[bool, ...]
    only_without_image: tuple[bool, ...]
    """Tokenisers split the text beside an image differently without the image."""

    @classmethod
    def of(cls, tokens: Sequence[int], text_tokens: Sequence[bool]) -> Self:
        """Build the row of one rendering, in which no token depends on the image."""
        never = (False,) * len(tokens)
        return cls(tuple(tokens), tuple(text_tokens), never, never)

    @property
    def prompt(self) -> tuple[int, ...]:
        """Tokens of the prompt with its image."""
        pairs = zip(self.tokens, self.only_without_image, strict=True)
        return tuple(token for token, absent in pairs if not absent)


def merge_renderings(with_image: PromptRow, without_image: PromptRow) -> PromptRow:
    """Merge both renderings of one prompt: shared start, image part, text part, shared end."""
    start, end = differing_block(with_image.tokens, without_image.tokens)
    tail = len(with_image.tokens) - end
    stop = len(without_image.tokens) - tail
    inside, replaced = end - start, stop - start
    return PromptRow(
        tokens=with_image.tokens[:end] + without_image.tokens[start:stop] + with_image.tokens[end:],
        text_tokens=with_image.text_tokens[:end]
        + without_image.text_tokens[start:stop]
        + with_image.text_tokens[end:],
        only_with_image=(False,) * start + (True,) * inside + (False,) * (replaced + tail),
        only_without_image=(False,) * end + (True,) * replaced + (False,) * tail,
    )


def differing_block(long: Sequence[int], short: Sequence[int]) -> tuple[int, int]:
    """Return start and end, in ``long``, of the part between the shared start and shared end."""

    def shared(pairs: Iterable[tuple[int, int]]) -> int:
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    # The end is searched after the start, so that no token is in both.
    start = shared(zip(long, short, strict=False))
    tail = shared(zip(reversed(long[start:]), reversed(short[start:]), strict=False))
    return start, len(long) - tail


@dataclass(frozen=True, slots=True)
class Layout:
    """Context of one batch's latents: [prompt, left-padded to P | answer, right-padded to A].

    Rows of prompts, images and answers can be chosen separately, to permute one modality.
    """

    tokens: Tensor
    """[B, P] prompt tokens, with image and without."""
    mask: Tensor
    """[B, P] bool, real tokens."""
    slots: Tensor
    """[B, P] bool, positions that image tokens take."""
    only_with_image: Tensor
    """[B, P] bool, slots and the tokens that wrap them."""
    only_without_image: Tensor
    """[B, P] bool."""
    text_tokens: Tensor
    """[B, P] bool, tokens of the item's text, or of the full user text if it has none."""
    text_visible: Tensor
    """[B] bool, text not blanked."""
    image_visible: Tensor
    """[B] bool, image present and not blanked."""
    image_count: Tensor
    """[B] int64, image tokens of the row's images."""
    grid: Tensor
    """[B, N, 3] int64 patch grids of a row's images, padded with zeros; N is 0 if the family has
    none."""
    answers: Tensor
    """[B, A] answer tokens, padded with ``IGNORED``."""

    def select(self, rows: Tensor, image: Tensor, text: Tensor) -> Self:
        """Select rows by part; see ``backbone.Context``.

        Raises:
            UserError: a row's image does not have as many tokens as its prompt has slots.
        """
        parts = {name: getattr(self, name)[text] for name in (*TEXT_TENSORS, "text_visible")}
        for name in ("image_visible", "image_count", "grid"):
            parts[name] = getattr(self, name)[image]
        layout = replace(self, **parts, answers=self.answers[rows])
        # A prompt that was rendered without image has no slot for one.
        slots = layout.slots.sum(1)
        visible = layout.image_visible & (slots > 0)
        if bool((visible & (slots != layout.image_count)).any()):
            raise UserError(
                "Images of one batch take different numbers of tokens, so they cannot be exchanged "
                "between prompts: resize the images to one size first."
            )
        return replace(layout, image_visible=visible)

    def blank(self, modality: Modality, rows: Tensor) -> Self:
        """Remove one modality where ``rows`` [B] is true."""
        if modality == "image":
            return replace(self, image_visible=self.image_visible & ~rows)
        return replace(self, text_visible=self.text_visible & ~rows)

    @property
    def visible(self) -> Tensor:
        """[B, P] bool, prompt tokens that are attended to."""
        image = self.image_visible[:, None]
        hidden = (
            (self.only_with_image & ~image)
            | (self.only_without_image & image)
            | (self.text_tokens & ~self.text_visible[:, None])
        )
        return self.mask & ~hidden

    @property
    def answered(self) -> Tensor:
        """[B, A] bool, real answer tokens."""
        return self.answers != IGNORED

    def filled(self, text: Tensor, image: Tensor) -> Tensor:
        """Return prompt embeddings [B, P, D] with image tokens [B, I, D] in their slots."""
        if not image.shape[1]:
            return text
        # Clamped, because tokens before the first slot have index -1; they are not filled.
        order = (self.slots.cumsum(1) - 1).clamp(0, image.shape[1] - 1)
        in_slots = image.gather(1, order[..., None].expand(-1, -1, image.shape[2]))
        filled = self.slots & self.image_visible[:, None]
        return torch.where(filled[..., None], in_slots.to(text.dtype), text)

    def positions(self, model: Any, attended: Tensor) -> Tensor:
        """Return the position of each token for ``attended`` [B, L]: [B, L], M-RoPE [3, B, L].

        Only attended tokens count, so that blanked ones leave no gap.
        """
        if model.config.model_type not in MULTI_AXIS:
            return (attended.cumsum(1) - 1).clamp(min=0)
        filled = self.slots & self.image_visible[:, None]
        # Answer tokens are text, which is type 0.
        types = torch.nn.functional.pad(filled.long(), (0, attended.shape[1] - filled.shape[1]))
        grids = self.grid[self.image_visible].flatten(0, 1)
        positions: Tensor = model.get_rope_index(
            # In place of token ids, of which only the shape is used.
            types,
            mm_token_type_ids=types,
            # Without the rows of zeros that pad a batch.
            image_grid_thw=grids[grids.any(1)],
            attention_mask=attended.long(),
        )[0]
        return positions


def layout_of(batch: Batch) -> Layout:
    """Return the layout of a collated batch; only absent images are blanked."""
    return Layout(
        **{name: batch.extra[name] for name in (*TEXT_TENSORS, "grid")},
        text_visible=torch.ones_like(batch.has_image),
        image_visible=batch.has_image,
        image_count=batch.extra["slots"].sum(1),
        answers=batch.targets,
    )
