"""Encode prompts with a processor: render, tokenise, pad on the left, mark text and image."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steelyard.harness.core.errors import ItemError, UserError, one_line
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.models.vlm_layout import IGNORED, PromptRow, merge_renderings
from steelyard.harness.models.vlm_pixels import PIXELS, Picture, join
from steelyard.tasks.answers import REASONING

CACHED_PROMPTS = 1 << 14
IMAGE_IDS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index",
             "vision_start_token_id", "vision_end_token_id", "start_image_token_id",
             "end_image_token_id", "boi_token_index", "eoi_token_index")  # fmt: skip
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
PROBE = "steelyard"
"""Answer that is rendered to read a chat template's format."""


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """Tokens and image tensors of one item, before they are joined to a batch."""

    row: PromptRow
    has_text: bool
    answer: tuple[int, ...]
    picture: Picture | None


class PromptEncoder:
    """Turns items into batches with a checkpoint's processor."""

    def __init__(self, processor: Any, model: Any, config: VlmConfig) -> None:
        self.processor, self.config = processor, config
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # prompts have to end where answers begin
        # A processor's image token may be another one, which it replaces.
        values: dict[str, Any] = {name: getattr(processor, name, None) for name in IMAGE_IDS[2:]}
        values |= model.config.to_dict()
        ids = {name: int(values[name]) for name in IMAGE_IDS if values.get(name) is not None}
        # Families name the image token by one or the other; the rest are optional.
        if not ids.keys() & set(IMAGE_IDS[:2]):
            raise UserError(
                f"The checkpoint ({model.config.model_type}) has no image token: give a "
                "vision-language model, one that AutoModelForImageTextToText loads."
            )
        self.image_token = next(iter(ids.values()))
        self.image_ids = sorted(set(ids.values()))
        """Tokens that an answer cannot contain."""
        special = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        tags = {f"<{slash}{name}>" for name in REASONING for slash in ("", "/")}
        self.silent = {token for token, text in special.items() if text not in tags}
        """Tokens that are left out of answers."""
        # The longest first: one token's text may begin another's.
        media = {processor.image_token, *tokenizer.convert_ids_to_tokens(self.image_ids)} - {None}
        control = sorted({*special.values(), *media}, key=len, reverse=True)
        self._control = re.compile(rf"\s*(?:{'|'.join(map(re.escape, control))})\s*")
        self._read_template()
        listed = model.generation_config.eos_token_id
        ends = {self.eos_id, tokenizer.eos_token_id}.union(
            listed if isinstance(listed, list) else [listed]
        )
        self.eos_ids = sorted(ends - {None})
        """Tokens of which any ends a generated answer."""
        # Most chat templates render the begin token themselves.
        begin = tokenizer.bos_token
        self.adds_special = begin is None or not self.lead[0].startswith(begin)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token_id = self.eos_id  # the processor pads as well
        self.pad_id = tokenizer.pad_token_id
        accepted = inspect.signature(model.forward).parameters
        self.type_argument = next((name for name in TOKEN_TYPES if name in accepted), None)
        """Name of the argument that tells image tokens (1) from text (0)."""
        # What stands for an image, in place of what the template writes, which some processors
        # replace by another token with text around it.
        soft = re.escape(tokenizer.convert_ids_to_tokens(self.image_token))
        wrapped = getattr(processor, "full_image_sequence", processor.image_token)
        self.placeholder = re.sub(f"({soft})+", r"\1", wrapped)
        # Templates are slow, and one question is often asked about many images.
        self._cached_render = lru_cache(CACHED_PROMPTS)(self.render)

    def _read_template(self) -> None:
        """Find the token that ends an assistant's turn, else end of text, and what leads to it."""
        tokenizer, prompt = self.processor.tokenizer, self.render("?", 0)
        question = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        reply = {"role": "assistant", "content": [{"type": "text", "text": PROBE}]}
        # Read off an example, because templates do not say how a turn ends.
        full = self.processor.apply_chat_template([question, reply], tokenize=False)
        tail = tokenizer(full.rpartition(PROBE)[2], add_special_tokens=False)["input_ids"]
        ends = [token for token in tail if token in tokenizer.all_special_ids]
        self.eos_id = int(ends[0] if ends else tokenizer.eos_token_id)
        """Token that ends an answer in training."""
        # Empty for a template that renders a finished turn in another form.
        between = full[len(prompt) :].partition(PROBE)[0] if full.startswith(prompt) else ""
        self.lead: tuple[str, str] = (prompt, between)
        """A prompt and the text, such as a space, between it and an answer."""

    def render(self, prompt: str, images: int) -> str:
        """Render a prompt up to the start of the answer, one placeholder per image."""
        content = [*[{"type": "image"}] * images, {"type": "text", "text": prompt}]
        text: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return text

    def as_text(self, words: str) -> str:
        """Return words of the data without the model's special tokens, such as an image's place.

        They would act as markup of the prompt. Words without any are unchanged.
        """
        if not self._control.search(words):
            return words
        return self._control.sub(lambda match: "\n" if "\n" in match[0] else " ", words).strip()

    def answer_ids(self, answer: str) -> list[int]:
        """Return the tokens of an answer as they follow a prompt, end token included.

        They are cut out of the full text, because many tokenisers split a word differently at the
        start of a text or after a space. UserError if there are more than the options allow.
        """
        answer, (prompt, between) = self.as_text(answer), self.lead
        before, full = self.processor.tokenizer(
            [prompt, prompt + between + answer], add_special_tokens=False
        )["input_ids"]
        ids = list(full[len(before) :])
        if list(full[: len(before)]) != list(before):  # the answer changed the last prompt token
            ids = self.processor.tokenizer(between + answer, add_special_tokens=False)["input_ids"]
        if len(ids) >= self.config.max_answer_tokens:
            raise UserError(
                f"The answer '{answer[:60]}' has {len(ids)} tokens and an end token, the limit is "
                f"{self.config.max_answer_tokens}: --backbone-set max_answer_tokens={len(ids) + 1}."
            )
        return [*ids, self.eos_id]

    def encode_items(
        self, inputs: Sequence[Inputs], answers: Sequence[str] | None = None
    ) -> list[EncodedItem]:
        """Encode items one by one; UserError if a prompt or an answer is too long."""
        inputs = [
            replace(i, text=i.text and self.as_text(i.text), prompt=self.as_text(i.prompt))
            for i in inputs
        ]
        # Both renderings of each: a view without image, or with another item's, needs the other.
        without_image = self._tokenised(inputs, [0] * len(inputs))
        short = self._tokenised(inputs, [max(1, len(item.images)) for item in inputs])
        positions = [position for position, item in enumerate(inputs) if item.image is not None]
        expanded = {position: self._processed(position, inputs[position]) for position in positions}
        rows, pictures = [], []
        for position, row in enumerate(short):
            ids, picture = expanded.get(position, (row.tokens, None))
            # Tokens outside the images are those of the rendering with one placeholder per image.
            start = row.tokens.index(self.image_token)
            tail = row.tokens[::-1].index(self.image_token)
            inside, end = (False,) * (len(ids) - start - tail), len(row.tokens) - tail
            marks = row.text_tokens[:start] + inside + row.text_tokens[end:]
            full, span = PromptRow.of(ids, marks), (start, len(ids) - tail)
            rows.append(merge_renderings(full, without_image[position], span))
            pictures.append(picture)
        pairs = enumerate(zip(rows, pictures, strict=True))
        longest, index = max((len(row.prompt(pic is not None)), i) for i, (row, pic) in pairs)
        if longest > self.config.max_prompt_tokens:
            raise ItemError(
                index,
                f"A prompt has {longest} tokens with its image, the limit is "
                f"{self.config.max_prompt_tokens}: --backbone-set max_prompt_tokens={longest}, or "
                "a smaller max_pixels.",
            )
        replies = [tuple(self.answer_ids(answer)) for answer in answers or ()] or [()] * len(rows)
        columns = zip(rows, inputs, replies, pictures, strict=True)
        return [
            EncodedItem(row, bool(item.text), reply, picture)
            for row, item, reply, picture in columns
        ]

    def _tokenised(self, items: Sequence[Inputs], images: Sequence[int]) -> list[PromptRow]:
        """Return prompts with so many placeholders as token rows with their text marked."""
        # Placeholders are not expanded here, so that offsets refer to the rendered text.
        prompts = zip(items, images, strict=True)
        texts = [
            self._cached_render(item.prompt, count).replace(
                self.processor.image_token, self.placeholder
            )
            for item, count in prompts
        ]
        coded = self.processor.tokenizer(
            texts, add_special_tokens=self.adds_special, return_offsets_mapping=True
        )
        columns = zip(coded["input_ids"], texts, items, coded["offset_mapping"], strict=True)
        return [
            PromptRow.of(ids, _text_tokens(text, item, offsets))
            for ids, text, item, offsets in columns
        ]

    def _processed(self, position: int, item: Inputs) -> tuple[list[int], Picture]:
        """Return tokens and image tensors of one item from the processor.

        Of one item, because a batch would be padded, and families differ in how.
        """
        try:
            output = self.processor(
                text=[self._cached_render(item.prompt, len(item.images))],
                images=[list(item.images)],
                add_special_tokens=self.adds_special,
                return_tensors="pt",
            )
        except Exception as error:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in item.images)
            message = f"the processor refuses its image of {sizes} ({one_line(error)})"
            raise ItemError(position, f"{message}: leave it out, or change its shape.") from error
        names = self.processor.image_processor.model_input_names
        return output["input_ids"][0].tolist(), {n: output[n] for n in names if n in output}

    def assemble(self, items: Sequence[EncodedItem], device: torch.device) -> Batch:
        """Join encoded items to a batch on the device."""
        present = [item.picture for item in items if item.picture is not None]
        # No image to exchange: without room for one.
        rows = [item.row if present else item.row.without_image() for item in items]
        images = join(present)
        names = dict.fromkeys((PIXELS, *images))  # in the order of ``image_arguments``
        tokens = _pad([row.tokens for row in rows], self.pad_id)
        mask = _pad([(True,) * len(row.tokens) for row in rows], False)
        no_grid = torch.zeros(0, 3, dtype=torch.int64)
        grids = [(item.picture or {}).get("image_grid_thw", no_grid) for item in items]
        extra = {
            "tokens": tokens,
            "mask": mask,
            # The mask too, because padding may have the id of any token.
            "slots": (tokens == self.image_token) & mask,
            "span": _pad([row.span for row in rows], False),
            "only_with_image": _pad([row.only_with_image for row in rows], False),
            "only_without_image": _pad([row.only_without_image for row in rows], False),
            "text_tokens": _pad([row.text_tokens for row in rows], False),
            "grid": pad_sequence(grids, batch_first=True),
            "picture_rows": torch.tensor(
                [[len((item.picture or {}).get(name, ())) for name in names] for item in items]
            ),
        }
        prompts = [item.row.prompt(item.picture is not None) for item in items]
        batch = Batch(
            pixels=images.pop(PIXELS),
            has_image=torch.tensor([item.picture is not None for item in items]),
            tokens=_pad(prompts, self.pad_id),
            mask=_pad([(1,) * len(prompt) for prompt in prompts], 0),
            has_text=torch.tensor([item.has_text for item in items]),
            targets=_pad([item.answer for item in items], IGNORED, on_left=False),
            extra=extra | images,
        )
        return batch if device.type == "cpu" else batch.map(lambda tensor: tensor.to(device))

    def split(self, batch: Batch, size: int) -> list[Batch]:
        """Split a batch into batches of at most ``size`` items, padded as it is."""
        pictures = self.image_arguments(batch)
        # Items differ in their images, tiles or patches: rows of each of these tensors.
        ends = batch.extra["picture_rows"].cumsum(0).tolist()
        begins, parts = [0] * len(pictures), []
        for start in range(0, len(ends), size):
            part = batch.map(itemgetter(slice(start, start + size)))
            stops = ends[min(start + size, len(ends)) - 1]
            spans = zip(pictures.items(), begins, stops, strict=True)
            rows = {name: tensor[begin:stop] for (name, tensor), begin, stop in spans}
            pixels, begins = rows.pop(PIXELS), stops
            parts.append(replace(part, pixels=pixels, extra={**part.extra, **rows}))
        return parts

    def image_arguments(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments of ``get_image_features``."""
        names = self.processor.image_processor.model_input_names
        return {PIXELS: batch.pixels} | {n: batch.extra[n] for n in names if n in batch.extra}

    def plain(self, batch: Batch, answers: bool = False) -> dict[str, Tensor]:
        """Return the arguments of the model's own forward pass: prompts, with answers if asked."""
        tokens, mask = batch.tokens, batch.mask
        if answers:
            tokens = torch.cat([tokens, batch.targets.clamp(min=0)], 1)
            mask = torch.cat([mask, (batch.targets != IGNORED).long()], 1)
        arguments = {"input_ids": tokens, "attention_mask": mask}
        if self.type_argument:
            arguments[self.type_argument] = (tokens == self.image_token).long()
        if bool(batch.has_image.any()):
            arguments |= self.image_arguments(batch)
        return arguments


def _text_tokens(text: str, item: Inputs, offsets: Sequence[tuple[int, int]]) -> tuple[bool, ...]:
    """Mark the tokens of a rendered prompt that belong to the item's text, else to the prompt."""
    part = item.text if item.text and item.text in item.prompt else item.prompt
    turn = text.rfind(item.prompt)  # the last: a system prompt may have the same words
    if not part or turn < 0:
        return (False,) * len(offsets)
    begin = turn + item.prompt.find(part)
    end = begin + len(part)
    # Special tokens have an empty span.
    return tuple(stop > begin and start < end and stop > start for start, stop in offsets)


def _pad(rows: Sequence[Sequence[int]], fill: int, *, on_left: bool = True) -> Tensor:
    """Pad rows with ``fill``, which decides the type: [B, longest] bool or int64."""
    width = max(map(len, rows))
    gaps = ([fill] * (width - len(row)) for row in rows)
    padded = [
        [*gap, *row] if on_left else [*row, *gap] for gap, row in zip(gaps, rows, strict=True)
    ]
    return torch.tensor(padded, dtype=torch.bool if fill is False else torch.int64)
