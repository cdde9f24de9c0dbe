"""PromptEncoder as a processor makes them: rendered, tokenised, left-padded, with their sides marked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.models.vlm_layout import IGNORED, MULTI_AXIS, PromptRow, with_image
from steelyard.harness.models.vlm_pixels import PASSED_ON, PIXELS, Picture, join, split

RENDERED = 1 << 14
"""PromptEncoder whose rendering is remembered."""


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """One processed item."""

    row: PromptRow
    has_text: bool
    answer: tuple[int, ...]
    picture: Picture | None


class PromptEncoder:
    """A processor with what it takes to turn items into batches and back."""

    def __init__(self, processor: Any, model_config: Any, config: VlmConfig) -> None:
        self.processor, self.config = processor, config
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # else prompts would not end where answers begin
        image_token = image_token_of(model_config)
        self.image_ids = sorted({image_token, *_more_image_tokens(model_config)})
        self.image_token = image_token
        self.eos_id = _end_of_turn(processor)
        self.lead = _lead(processor)
        self.adds_special = _adds_special(processor)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id
        self.multi_axis = model_config.model_type in MULTI_AXIS
        # A question is put to many images, a caption to all; templates are slow.
        self._rendered = lru_cache(RENDERED)(self._render_now)

    def messages(self, inputs: Inputs) -> list[dict[str, Any]]:
        """One user turn as chat messages, the images first."""
        images = [{"type": "image", "image": image} for image in inputs.images]
        return [{"role": "user", "content": [*images, {"type": "text", "text": inputs.prompt}]}]

    def render(self, inputs: Inputs) -> str:
        """The prompt up to where the answer begins, image placeholders unexpanded."""
        return self._rendered(inputs.prompt, len(inputs.images))

    def _render_now(self, prompt: str, images: int) -> str:
        content = [*[{"type": "image"}] * images, {"type": "text", "text": prompt}]
        rendered: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return rendered

    def image_capacity(self, images: int) -> int:
        """For how many of so many images at once the chat template has a place."""
        try:
            text = self._render_now("?", images)
        except TemplateError:  # it says itself that they are too many
            return 1
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids.count(self.image_token)

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer as they follow a prompt, end token included.

        They are cut out of the whole text, because many tokenisers give a word other tokens
        at the beginning of a text or after a space.

        Raises:
            UserError: there are more than the configuration allows.
        """
        before, between = self.lead
        coded = self.processor.tokenizer(
            [before, before + between + answer], add_special_tokens=False
        )["input_ids"]
        ids = _continuation(*coded)
        if ids is None:  # the answer would melt into the prompt's last token
            ids = self.processor.tokenizer(between + answer, add_special_tokens=False)["input_ids"]
        if len(ids) >= self.config.max_answer_tokens:
            raise UserError(
                f"The answer '{answer[:60]}' has {len(ids)} tokens and its end, the limit is "
                f"{self.config.max_answer_tokens}: --backbone-set max_answer_tokens={len(ids) + 1}."
            )
        return [*ids, self.eos_id]

    def collate(
        self, inputs: Sequence[Inputs], answers: Sequence[str] | None, device: torch.device
    ) -> Batch:
        """A batch on the device; targets have no column without answers."""
        return self.assemble(self.encode_items(inputs, answers), device)

    def encode_items(
        self, inputs: Sequence[Inputs], answers: Sequence[str] | None = None
    ) -> "list[EncodedItem]":
        """Each item processed, to be put into batches: it does not depend on its company.

        Raises:
            UserError: a prompt or an answer is too long.
        """
        rows = self._marked([Inputs(None, item.text, item.prompt) for item in inputs])
        seeing = [position for position, item in enumerate(inputs) if item.image is not None]
        pictured = [inputs[position] for position in seeing]
        expanded, pictures = self._with_images(pictured)
        found: dict[int, Picture] = {}
        short = self._marked(pictured)
        for place, position in enumerate(seeing):
            whole = self._expanded(expanded[place], short[place])
            rows[position] = with_image(whole, rows[position])
            found[position] = pictures[place]
        self._check_length(rows)
        ends = [tuple(self.answer_ids(answer)) for answer in answers] if answers else None
        return [
            EncodedItem(
                row,
                bool(inputs[position].text),
                ends[position] if ends else (),
                found.get(position),
            )
            for position, row in enumerate(rows)
        ]

    def _marked(self, items: Sequence[Inputs]) -> list[PromptRow]:
        """PromptEncoder as token rows with their text side marked, each image still one placeholder."""
        if not items:
            return []
        texts = [self.render(item) for item in items]
        coded = self.processor.tokenizer(
            texts, add_special_tokens=self.adds_special, return_offsets_mapping=True
        )
        return [
            PromptRow.of(ids, _text_tokens(text, item, offsets))
            for ids, text, item, offsets in zip(
                coded["input_ids"], texts, items, coded["offset_mapping"], strict=True
            )
        ]

    def _expanded(self, ids: Sequence[int], short: PromptRow) -> PromptRow:
        """The row the model reads, marked like the one in which an image is one placeholder."""
        start = short.tokens.index(self.image_token)
        tail = short.tokens[::-1].index(self.image_token)
        inside = (False,) * (len(ids) - start - tail)
        return PromptRow.of(
            ids, short.text_tokens[:start] + inside + short.text_tokens[len(short.tokens) - tail :]
        )

    def _with_images(self, items: Sequence[Inputs]) -> tuple[list[list[int]], list[Picture]]:
        """Token rows, and what the processor made of each item's images."""
        if not items:
            return [], []
        found = self.processor(
            text=[self.render(item) for item in items],
            images=[list(item.images) for item in items],
            padding=True,
            add_special_tokens=self.adds_special,
            return_tensors="pt",
        )
        rows = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True)
        ]
        return rows, split(found, [len(item.images) for item in items])

    def assemble(self, pieces: "Sequence[EncodedItem]", device: torch.device) -> Batch:
        """Processed items as a batch on the device."""
        rows = [piece.row for piece in pieces]
        made = join([piece.picture for piece in pieces if piece.picture is not None])
        whole = _left([row.tokens for row in rows], self.pad_id)
        real = _left([(True,) * len(row.tokens) for row in rows], False)
        has_image = torch.tensor([piece.picture is not None for piece in pieces])
        no_grid = torch.zeros(0, 3, dtype=torch.int64)
        grids = [(piece.picture or {}).get("image_grid_thw", no_grid) for piece in pieces]
        extra = {
            "row": whole,
            "real": real,
            "slots": (whole == self.image_token) & real,
            "only_with_image": _left([row.only_with_image for row in rows], False),
            "only_without_image": _left([row.only_without_image for row in rows], False),
            "text_tokens": _left([row.text_tokens for row in rows], False),
            "grid": pad_sequence(grids, batch_first=True),
        }
        shown = [row.shown for row in rows]
        batch = Batch(
            pixels=made.pop(PIXELS),
            has_image=has_image,
            tokens=_left(shown, self.pad_id),
            mask=_left([(1,) * len(row) for row in shown], 0),
            has_text=torch.tensor([piece.has_text for piece in pieces]),
            targets=_right([piece.answer for piece in pieces], IGNORED),
            extra=extra | made,
        )
        return _moved(batch, device)

    def _check_length(self, rows: Sequence[PromptRow]) -> None:
        longest = max(len(row.shown) for row in rows)
        if longest > self.config.max_prompt_tokens:
            raise UserError(
                f"A prompt has {longest} tokens with its image, the limit is "
                f"{self.config.max_prompt_tokens}: --backbone-set max_prompt_tokens={longest}, or "
                "smaller images."
            )

    def image_arguments(self, batch: Batch) -> dict[str, Tensor]:
        """What ``get_image_features`` takes."""
        passed = {name: batch.extra[name] for name in PASSED_ON if name in batch.extra}
        return {PIXELS: batch.pixels, **passed}

    def plain(self, batch: Batch) -> dict[str, Tensor]:
        """The arguments of the model's own forward pass for the batch's prompts."""
        found = {"input_ids": batch.tokens, "attention_mask": batch.mask}
        if self.multi_axis:
            found["mm_token_type_ids"] = (batch.tokens == self.image_token).long()
        if bool(batch.has_image.any()):
            found |= self.image_arguments(batch)
        return found


def _moved(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    extra = {name: tensor.to(device) for name, tensor in tensors.pop("extra").items()}
    return Batch(**{name: tensor.to(device) for name, tensor in tensors.items()}, extra=extra)


def image_token_of(model_config: Any) -> int:
    """Id of the token that image tokens take the place of.

    Raises:
        UserError: the checkpoint has none: it is no vision-language model.
    """
    known = model_config.to_dict()
    for name in ("image_token_id", "image_token_index"):
        if known.get(name) is not None:
            return int(known[name])
    raise UserError(
        f"The checkpoint ({model_config.model_type}) has no image token: give a vision-language "
        "model, one that AutoModelForImageTextToText loads."
    )


def _more_image_tokens(model_config: Any) -> list[int]:
    known = model_config.to_dict()
    names = ("video_token_id", "video_token_index", "vision_start_token_id", "vision_end_token_id")
    return [int(known[name]) for name in names if known.get(name) is not None]


def _end_of_turn(processor: Any) -> int:
    """The token after which the chat template ends an assistant's turn, else the end of text."""
    tokenizer = processor.tokenizer
    said = "steelyard"
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": said}]},
    ]
    rendered = processor.apply_chat_template(turns, tokenize=False)
    tail = rendered.rpartition(said)[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    ends = [token for token in ids if token in tokenizer.all_special_ids]
    return int(ends[0] if ends else tokenizer.eos_token_id)


def _lead(processor: Any) -> tuple[str, str]:
    """A prompt, and what the chat template puts between it and an answer, such as a space."""
    said = "steelyard"
    asked = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    reply = {"role": "assistant", "content": [{"type": "text", "text": said}]}
    prompt: str = processor.apply_chat_template([asked], add_generation_prompt=True, tokenize=False)
    whole: str = processor.apply_chat_template([asked, reply], tokenize=False)
    if not whole.startswith(prompt):
        return prompt, ""
    return prompt, whole[len(prompt) :].partition(said)[0]


def _adds_special(processor: Any) -> bool:
    """Whether the tokeniser has to put the begin token before what the template renders."""
    rendered, _ = _lead(processor)
    begin = processor.tokenizer.bos_token
    return begin is None or not rendered.startswith(begin)


def _continuation(before: Sequence[int], whole: Sequence[int]) -> list[int] | None:
    """What ``whole`` has after ``before``, None where it does not begin with it."""
    return list(whole[len(before) :]) if list(whole[: len(before)]) == list(before) else None


def _text_tokens(text: str, item: Inputs, offsets: Sequence[tuple[int, int]]) -> tuple[bool, ...]:
    """Which tokens of a rendered prompt belong to its evidence, else to the user's text."""
    modality = item.text if item.text and item.text in item.prompt else item.prompt
    turn = text.rfind(item.prompt)
    if not modality or turn < 0:
        return (False,) * len(offsets)
    begin = turn + item.prompt.find(modality)
    end = begin + len(modality)
    return tuple(right > begin and left < end and right > left for left, right in offsets)


def _left(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows padded on the left: [B, longest]."""
    width = max(len(row) for row in rows)
    return torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])


def _right(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows padded on the right: [B, longest] int64, which may be no column at all."""
    width = max(len(row) for row in rows)
    padded = [list(row) + [fill] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).view(len(rows), width)
