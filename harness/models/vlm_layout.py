"""Layout of prompt, image and answer in one sequence, and how parts are blanked or exchanged.

A prompt is stored once, with its image and without it:

    tokens              <user> <img> <slot> <slot> </img> ▁what  what  colour  ?
    span                             x      x
    only_with_image            x     x      x      x      x
    only_without_image                                           x
    (shared)            x                                              x       x

The model attends to the shared tokens and to one of the two other groups. The span is what the
processor writes for the item's images; in a prompt with another image it is that image's span.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Self

import torch
from torch import Tensor

from steelyard.harness.core.examples import Modality
from steelyard.harness.models.backbone import Batch

MARKS = ("mask", "slots", "span", "only_with_image", "only_without_image", "text_tokens")
IGNORED = -100  # marks padding among answer tokens, as torch's losses do


@dataclass(frozen=True, slots=True)
class PromptRow:
    """Tokens of one prompt, with its image and without it.

    An item without an image has the place of one: a span of one placeholder.
    """

    tokens: tuple[int, ...]
    text_tokens: tuple[bool, ...]
    span: tuple[bool, ...]
    """Tokens that depend on the images alone: placeholders, and what separates them."""
    only_with_image: tuple[bool, ...]
    only_without_image: tuple[bool, ...]
    """Tokenisers split the text beside an image differently without the image."""

    @classmethod
    def of(cls, tokens: Sequence[int], text_tokens: Sequence[bool]) -> Self:
        """Build the row of one rendering, in which no token depends on the image."""
        never = (False,) * len(tokens)
        return cls(tuple(tokens), tuple(text_tokens), never, never, never)

    def prompt(self, shown: bool) -> tuple[int, ...]:
        """Return the tokens of the prompt with its image, or without."""
        hidden = self.only_without_image if shown else self.only_with_image
        pairs = zip(self.tokens, hidden, strict=True)
        return tuple(token for token, absent in pairs if not absent)

    def without_image(self) -> Self:
        """Return the row of the rendering without image alone."""
        columns = zip(self.only_with_image, self.text_tokens, strict=True)
        return self.of(self.prompt(False), [text for absent, text in columns if not absent])


def merge_renderings(
    with_image: PromptRow, without_image: PromptRow, span: tuple[int, int]
) -> PromptRow:
    """Merge both renderings of one prompt: shared start, image part, text part, shared end.

    ``span`` is where the images' tokens start and end in the rendering with them.
    """
    start, end = differing_block(with_image.tokens, without_image.tokens)
    tail = len(with_image.tokens) - end
    stop = len(without_image.tokens) - tail
    inside, replaced = end - start, stop - start
    return PromptRow(
        tokens=with_image.tokens[:end] + without_image.tokens[start:stop] + with_image.tokens[end:],
        text_tokens=with_image.text_tokens[:end]
        + without_image.text_tokens[start:stop]
        + with_image.text_tokens[end:],
        span=tuple(span[0] <= index < span[1] for index in range(end + replaced + tail)),
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

    source: Tensor
    """[B, P] int64, where each token's embedding is: in the row's text embeddings, or behind them
    in its image tokens."""
    depth: int
    """Decoder layers to which further image features are added (Qwen3-VL's DeepStack)."""
    mask: Tensor
    """[B, P] bool, real tokens."""
    slots: Tensor
    """[B, P] bool, positions that projected image tokens take."""
    span: Tensor
    """[B, P] bool, slots and the tokens between them."""
    only_with_image: Tensor
    """[B, P] bool, the span and the tokens that wrap it."""
    only_without_image: Tensor
    """[B, P] bool."""
    text_tokens: Tensor
    """[B, P] bool, tokens of the item's text, or of the full user text if it has none."""
    text_visible: Tensor
    """[B] bool, text not blanked."""
    image_visible: Tensor
    """[B] bool, image present and not blanked."""
    grid: Tensor
    """[B, N, 3] int64 patch grids of a row's images, padded with zeros; N is 0 if the family has
    none."""
    answers: Tensor
    """[B, A] answer tokens, padded with ``IGNORED``."""

    def select(self, rows: Tensor, image: Tensor, text: Tensor) -> Self:
        """Select rows by part, as if prompts were rendered anew; see ``backbone.Context``.

        A row is the tokens of ``text`` before its span, the span of ``image``, and the tokens of
        ``text`` after its span. Spans may differ in length.
        """
        width, length = self.mask.shape[1], self.span.sum(1)
        start, padding = self.span.int().argmax(1), width - self.mask.sum(1)
        size = (width - padding - length)[text] + length[image]
        before, inside = (start - padding)[text, None], length[image, None]
        # The index of a token in its row; negative in the padding on the left.
        index = torch.arange(int(size.max()), device=size.device) - (size.max() - size)[:, None]
        from_text = padding[text, None] + index
        # In the row of ``text`` followed by the row of ``image``.
        origin = torch.where(
            index < before + inside,
            width + start[image, None] + index - before,
            from_text + length[text, None] - inside,
        )
        origin = torch.where(index < before, from_text, origin).clamp(min=0)

        def moved(tensor: Tensor) -> Tensor:
            return torch.cat([tensor[text], tensor[image]], 1).gather(1, origin)

        marks: dict[str, Any] = {name: moved(getattr(self, name)) & (index >= 0) for name in MARKS}
        return replace(
            self,
            **marks,
            source=moved(self.source),
            text_visible=self.text_visible[text],
            image_visible=self.image_visible[image],
            grid=self.grid[image],
            answers=self.answers[rows],
        )

    def blank(self, modality: Modality, rows: Tensor) -> Self:
        """Remove one modality where ``rows`` [B] is true."""
        if modality == "image":
            return replace(self, image_visible=self.image_visible & ~rows)
        return replace(self, text_visible=self.text_visible & ~rows)

    def packed(self) -> Self:
        """Move blanked tokens to the padding on the left, as if prompts were rendered without.

        Layers with a sliding window count all tokens between two, attended to or not.
        """
        order = self.visible.int().argsort(dim=1, stable=True)
        columns = {name: getattr(self, name).gather(1, order) for name in (*MARKS, "source")}
        return replace(self, **columns)

    def trimmed(self) -> Self:
        """Drop the columns of a packed layout that are padding in every row."""
        width = int(self.visible.sum(1).max())
        columns = {name: getattr(self, name)[:, -width:] for name in (*MARKS, "source")}
        return replace(self, **columns)

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
        """Return embeddings [B, P, D] from those of text tokens and of image tokens [B, I, D]."""
        both = torch.cat([text, image.to(text.dtype)], 1)
        return both.gather(1, self.source[..., None].expand(-1, -1, both.shape[2]))

    def deeper(self, text: Tensor, image: Tensor) -> list[Tensor]:
        """Return the features [S, D] that each of ``depth`` layers adds at its S visible slots."""
        length = image.shape[1] // (1 + self.depth)
        return [
            # Rows of the image tokens follow one another, one layer after the other.
            replace(self, source=self.source + layer * length).filled(text, image)[self.shown]
            for layer in range(1, 1 + self.depth)
        ]

    @property
    def shown(self) -> Tensor:
        """[B, P] bool, slots of visible images."""
        return self.slots & self.image_visible[:, None]

    def token_types(self, width: int) -> Tensor:
        """Return 1 for slots of visible images and 0 for text: [B, width], as processors do."""
        return torch.nn.functional.pad(self.shown.long(), (0, width - self.slots.shape[1]))

    def positions(self, model: Any, attended: Tensor) -> Tensor:
        """Return the position of each token for ``attended`` [B, L]: [B, L], M-RoPE [3, B, L].

        Only attended tokens count, so that blanked ones leave no gap.
        """
        if not hasattr(model, "get_rope_index"):
            return (attended.cumsum(1) - 1).clamp(min=0)
        types = self.token_types(attended.shape[1])
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
    span = batch.extra["span"]
    width = span.shape[1]
    in_text = torch.arange(width, device=span.device)
    return Layout(
        **{name: batch.extra[name] for name in (*MARKS, "grid")},
        source=torch.where(span, width + span.cumsum(1) - 1, in_text),
        text_visible=torch.ones_like(batch.has_image),
        image_visible=batch.has_image,
        depth=0,
        answers=batch.targets,
    )
