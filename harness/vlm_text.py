"""Prompts as a processor makes them: rendered, tokenised, left-padded, with their sides marked."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from steelyard.harness.backbone import Batch, Inputs, PixelRange
from steelyard.harness.errors import UserError
from steelyard.harness.vlm_config import VlmConfig
from steelyard.harness.vlm_layout import IGNORED, differing_block

PASSED_ON = ("image_grid_thw", "image_sizes", "pixel_attention_mask")
"""What processors make of images beside pixels, one row an image."""
TEXT_OUTPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


class Prompts:
    """A processor with what it takes to turn items into batches and back."""

    def __init__(self, processor: Any, model_config: Any, config: VlmConfig) -> None:
        self.processor, self.config = processor, config
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # else prompts would not end where answers begin
        image_token = image_token_of(model_config)
        self.image_ids = sorted({image_token, *_more_image_tokens(model_config)})
        self.image_token = image_token
        self.eos_id = _end_of_turn(processor)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id
        text = model_config.get_text_config()
        self.multi_axis = "mrope_section" in str(text.to_dict().get("rope_parameters"))

    def messages(self, inputs: Inputs) -> list[dict[str, Any]]:
        """One user turn as chat messages, the image first."""
        content: list[dict[str, Any]] = [{"type": "text", "text": inputs.prompt}]
        if inputs.image is not None:
            content.insert(0, {"type": "image", "image": inputs.image})
        return [{"role": "user", "content": content}]

    def render(self, inputs: Inputs) -> str:
        """The prompt up to where the answer begins, image placeholder unexpanded."""
        content: list[dict[str, Any]] = [{"type": "text", "text": inputs.prompt}]
        if inputs.image is not None:
            content.insert(0, {"type": "image"})
        rendered: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return rendered

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, end token included.

        Raises:
            UserError: there are more than the configuration allows.
        """
        ids: list[int] = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
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
        plain = [Inputs(None, item.evidence, item.prompt) for item in inputs]
        texts = [self.render(item) for item in plain]
        blind = self.processor.tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True
        )
        seeing = [position for position, item in enumerate(inputs) if item.image is not None]
        made = self._with_images([inputs[position] for position in seeing])
        rows: list[list[int]] = [list(ids) for ids in blind["input_ids"]]
        blocks = [(0, 0)] * len(inputs)
        for position, ids in zip(seeing, made.pop("rows", []), strict=True):
            blocks[position] = differing_block(ids, rows[position])
            rows[position] = ids
        spans = [
            _token_span(text, item, offsets, block)
            for text, item, offsets, block in zip(
                texts, plain, blind["offset_mapping"], blocks, strict=True
            )
        ]
        self._check_length(rows)
        return _moved(self._padded(inputs, rows, blocks, spans, made, answers), device)

    def _with_images(self, items: Sequence[Inputs]) -> dict[str, Any]:
        """Token rows under ``rows``, and what the processor made of the images."""
        if not items:
            return {}
        found = self.processor(
            text=[self.render(item) for item in items],
            images=[[item.image] for item in items],
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        )
        rows = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True)
        ]
        images = {name: found[name] for name in found if name not in TEXT_OUTPUTS}
        return {"rows": rows, **images}

    def _padded(
        self,
        inputs: Sequence[Inputs],
        rows: Sequence[Sequence[int]],
        blocks: Sequence[tuple[int, int]],
        spans: Sequence[tuple[int, int]],
        made: Mapping[str, Tensor],
        answers: Sequence[str] | None,
    ) -> Batch:
        width = max(len(ids) for ids in rows)
        tokens = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        mask, block, side = (torch.zeros(len(rows), width, dtype=torch.bool) for _ in range(3))
        for row, ids in enumerate(rows):
            shift = width - len(ids)
            tokens[row, shift:] = torch.tensor(ids)
            mask[row, shift:] = True
            block[row, shift + blocks[row][0] : shift + blocks[row][1]] = True
            side[row, shift + spans[row][0] : shift + spans[row][1]] = True
        has_image = torch.tensor([item.image is not None for item in inputs])
        grid = torch.zeros(len(rows), 3, dtype=torch.int64)
        if "image_grid_thw" in made:
            grid[has_image] = made["image_grid_thw"]
        return Batch(
            pixels=made.get("pixel_values", torch.zeros(0, 3, 1, 1)),
            has_image=has_image,
            tokens=tokens,
            mask=mask.long(),
            has_text=torch.tensor([bool(item.evidence) for item in inputs]),
            targets=self._targets(answers, len(rows)),
            extra={
                "slots": (tokens == self.image_token) & mask,
                "block": block,
                "text_side": side,
                "grid": grid,
                **{name: made[name] for name in PASSED_ON if name in made},
            },
        )

    def _targets(self, answers: Sequence[str] | None, count: int) -> Tensor:
        ids = [self.answer_ids(answer) for answer in answers] if answers else [[]] * count
        width = max(map(len, ids))
        rows = [row + [IGNORED] * (width - len(row)) for row in ids]
        return torch.tensor(rows, dtype=torch.int64).view(count, width)

    def _check_length(self, rows: Sequence[Sequence[int]]) -> None:
        longest = max(len(ids) for ids in rows)
        if longest > self.config.max_prompt_tokens:
            raise UserError(
                f"A prompt has {longest} tokens with its image, the limit is "
                f"{self.config.max_prompt_tokens}: --backbone-set max_prompt_tokens={longest}, or "
                "smaller images."
            )

    def image_arguments(self, batch: Batch) -> dict[str, Tensor]:
        """What ``get_image_features`` takes."""
        passed = {name: batch.extra[name] for name in PASSED_ON if name in batch.extra}
        return {"pixel_values": batch.pixels, **passed}

    def plain(self, batch: Batch) -> dict[str, Tensor]:
        """The arguments of the model's own forward pass for the batch's prompts."""
        found = {"input_ids": batch.tokens, "attention_mask": batch.mask}
        if self.multi_axis:
            found["mm_token_type_ids"] = batch.extra["slots"].long()
        if bool(batch.has_image.any()):
            found |= self.image_arguments(batch)
        return found

    def pixel_range(self, pixels: Tensor) -> PixelRange:
        """Black and white after the processor's normalisation, broadcastable to ``pixels``."""
        images = self.processor.image_processor
        mean, std = torch.tensor(images.image_mean), torch.tensor(images.image_std)
        low, high = -mean / std, (1 - mean) / std
        if pixels.dim() == 2:  # Qwen-VL: one row a patch, colour channels outermost
            size = pixels.shape[1] // len(mean)
            low, high = low.repeat_interleave(size), high.repeat_interleave(size)
            return PixelRange(low.to(pixels), high.to(pixels))
        return PixelRange(low.to(pixels).view(-1, 1, 1), high.to(pixels).view(-1, 1, 1))

    def pixel_gradient(self, gradient: Tensor) -> Tensor:
        """Averaged over the frames that Qwen-VL copies a still image into."""
        if gradient.dim() != 2:
            return gradient
        images = self.processor.image_processor
        frames, area = images.temporal_patch_size, images.patch_size**2
        shaped = gradient.view(len(gradient), -1, frames, area)
        return shaped.mean(2, keepdim=True).expand_as(shaped).reshape(gradient.shape)


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


def _token_span(
    text: str, item: Inputs, offsets: Sequence[tuple[int, int]], block: tuple[int, int]
) -> tuple[int, int]:
    """Tokens of the item's text side, counted in the sequence with the image in it."""
    side = item.evidence if item.evidence and item.evidence in item.prompt else item.prompt
    turn = text.rfind(item.prompt)
    if not side or turn < 0:
        return 0, 0
    begin = turn + item.prompt.find(side)
    inside = [
        place
        for place, (left, right) in enumerate(offsets)
        if right > begin and left < begin + len(side) and right > left
    ]
    if not inside:
        return 0, 0
    first, last = inside[0], inside[-1] + 1
    shift = block[1] - block[0]
    return (
        first + shift if first >= block[0] else first,
        last + shift if last > block[0] else last,
    )
