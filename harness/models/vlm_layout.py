"""How prompt, image and answer lie in one sequence, and what is blanked or exchanged in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Modality
from steelyard.harness.models.backbone import Batch

MULTI_AXIS = ("qwen2_vl", "qwen2_5_vl")
IGNORED = -100  # marks padding among answer tokens, as torch's losses do


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt's tokens, with the image and without it at once."""

    tokens: tuple[int, ...]
    text_tokens: tuple[bool, ...]
    only_with_image: tuple[bool, ...]
    """Only there with the image."""
    only_without_image: tuple[bool, ...]
    """Only there without it: tokenisers split what lies beside an image otherwise."""

    @classmethod
    def of(cls, tokens: Sequence[int], text_tokens: Sequence[bool]) -> Self:
        """A row that is the same either way."""
        never = (False,) * len(tokens)
        return cls(tuple(tokens), tuple(text_tokens), never, never)

    @property
    def shown(self) -> tuple[int, ...]:
        """The prompt itself."""
        pairs = zip(self.tokens, self.only_without_image, strict=True)
        return tuple(token for token, bridge in pairs if not bridge)


def with_image(seeing: PromptRow, blind: PromptRow) -> PromptRow:
    """Both renderings of one prompt as one row: shared beginning, image, bridge, shared end."""
    start, end = differing_block(seeing.tokens, blind.tokens)
    tail = len(seeing.tokens) - end
    stop = len(blind.tokens) - tail
    inside, bridge = end - start, stop - start
    return PromptRow(
        tokens=seeing.tokens[:end] + blind.tokens[start:stop] + seeing.tokens[end:],
        text_tokens=seeing.text_tokens[:end]
        + blind.text_tokens[start:stop]
        + seeing.text_tokens[end:],
        only_with_image=(False,) * start + (True,) * inside + (False,) * (bridge + tail),
        only_without_image=(False,) * end + (True,) * bridge + (False,) * tail,
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """The context of one batch's latents: [prompt, left-padded to P | answer, right-padded to A].

    A prompt here is what it is with its image and without it, at once; ``visible`` says which.

    Rows of prompts, of images and of answers can be chosen apart, which is what permuting a side
    means.
    """

    tokens: Tensor
    """[B, P] prompt tokens."""
    mask: Tensor
    """[B, P] bool, real tokens."""
    slots: Tensor
    """[B, P] bool, places that image tokens take."""
    only_with_image: Tensor
    """[B, P] bool, tokens that are only there because of the image: slots and what wraps them."""
    only_without_image: Tensor
    """[B, P] bool, tokens that are only there because the image is not."""
    text_tokens: Tensor
    """[B, P] bool, tokens of the evidence, or of the whole user text where there is none."""
    text_visible: Tensor
    """[B] bool, text side not blanked."""
    image_visible: Tensor
    """[B] bool, image present and not blanked."""
    image_count: Tensor
    """[B] int64, image tokens of the row's images."""
    grid: Tensor
    """[B, N, 3] int64 patch grids of a row's images, zeros after the last; N is 0 where the family
    has none."""
    answers: Tensor
    """[B, A] answer tokens, ``IGNORED`` where there is none."""

    def select(self, rows: Tensor, image: Tensor, text: Tensor) -> Self:
        """See ``backbone.Context``.

        Raises:
            UserError: a row's image does not have the number of tokens its prompt has places for.
        """
        made = type(self)(
            tokens=self.tokens[text],
            mask=self.mask[text],
            slots=self.slots[text],
            only_with_image=self.only_with_image[text],
            only_without_image=self.only_without_image[text],
            text_tokens=self.text_tokens[text],
            text_visible=self.text_visible[text],
            image_visible=self.image_visible[image],
            image_count=self.image_count[image],
            grid=self.grid[image],
            answers=self.answers[rows],
        )
        return made.checked()

    def checked(self) -> Self:
        """This layout, with images only where the prompt has places for them."""
        places = self.slots.sum(1)
        here = self.image_visible & (places > 0)
        if bool((here & (places != self.image_count)).any()):
            raise UserError(
                "Images of one batch take different numbers of tokens, so they cannot be exchanged "
                "between prompts: resize the images to one size first."
            )
        return replace(self, image_visible=here)

    def blank(self, modality: Modality, rows: Tensor) -> Self:
        """With one side missing where ``rows`` [B] is true."""
        if modality == "image":
            return replace(self, image_visible=self.image_visible & ~rows)
        return replace(self, text_visible=self.text_visible & ~rows)

    @property
    def visible(self) -> Tensor:
        """[B, P] bool: prompt tokens that are attended to."""
        no_image = self.only_with_image & ~self.image_visible[:, None]
        no_text = self.text_tokens & ~self.text_visible[:, None]
        with_image = self.only_without_image & self.image_visible[:, None]
        return self.mask & ~no_image & ~with_image & ~no_text

    @property
    def answered(self) -> Tensor:
        """[B, A] bool: real answer tokens."""
        return self.answers != IGNORED

    def filled(self, text: Tensor, image: Tensor) -> Tensor:
        """Prompt embeddings [B, P, D] with the image tokens [B, I, D] in their places."""
        if not image.shape[1]:
            return text
        order = (self.slots.cumsum(1) - 1).clamp(0, image.shape[1] - 1)
        placed = image.gather(1, order[..., None].expand(-1, -1, image.shape[2]))
        shown = self.slots & self.image_visible[:, None]
        return torch.where(shown[..., None], placed.to(text.dtype), text)

    def positions(self, model: Any, attended: Tensor) -> Tensor:
        """Position of each token for ``attended`` [B, L]: [B, L], or [3, B, L] under M-RoPE.

        Counted over attended tokens only, so that what is blanked leaves no gap.
        """
        if not multi_axis(model):
            return (attended.cumsum(1) - 1).clamp(min=0)
        length = attended.shape[1]
        shown = self.slots & self.image_visible[:, None]
        types = torch.nn.functional.pad(shown.long(), (0, length - shown.shape[1]))
        grids = self.grid[self.image_visible].flatten(0, 1)
        positions: Tensor = model.get_rope_index(
            types,
            mm_token_type_ids=types,
            image_grid_thw=grids[grids.any(1)],
            attention_mask=attended.long(),
        )[0]
        return positions


def of_batch(batch: Batch) -> Layout:
    """The layout of a collated batch, nothing blanked but absent images."""
    extra = batch.extra
    return Layout(
        tokens=extra["row"],
        mask=extra["real"],
        slots=extra["slots"],
        only_with_image=extra["only_with_image"],
        only_without_image=extra["only_without_image"],
        text_tokens=extra["text_tokens"],
        text_visible=torch.ones_like(batch.has_image),
        image_visible=batch.has_image,
        image_count=extra["slots"].sum(1),
        grid=extra["grid"],
        answers=batch.targets,
    )


def multi_axis(model: Any) -> bool:
    """Whether the family counts positions along time, height and width (Qwen-VL's M-RoPE)."""
    return model.config.model_type in MULTI_AXIS


def differing_block(long: Sequence[int], short: Sequence[int]) -> tuple[int, int]:
    """Start and end of what ``long`` has between the parts that it shares with ``short``."""
    start = 0
    while start < len(short) and long[start] == short[start]:
        start += 1
    tail = 0
    while tail < len(short) - start and long[-1 - tail] == short[-1 - tail]:
        tail += 1
    return start, len(long) - tail
