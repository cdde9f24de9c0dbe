"""Vision-language backbone: any AutoModelForImageTextToText behind encode, contribute, fuse."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs, Modality, ModelKind
from steelyard.harness.core.options import Option
from steelyard.harness.models.backbone import (
    Batch,
    Latents,
    PixelRange,
    Recipe,
    evaluation_mode,
    require_finite,
)
from steelyard.harness.models.extension import Extension
from steelyard.harness.models.precision import autocast_calls
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.models.vlm_generation import OnPass, ReadPrompts, ignore_pass, sample_answers
from steelyard.harness.models.vlm_layout import IGNORED, Layout, layout_of
from steelyard.harness.models.vlm_pixels import pixel_gradient, pixel_range
from steelyard.harness.models.vlm_prompts import PromptEncoder


class Vlm(nn.Module):
    """``Backbone`` of generative models; the protocol documents its methods."""

    kind: ModelKind = "vlm"
    classes: tuple[str, ...] = ()
    multi_label = False

    def __init__(self, name: str, config: VlmConfig, model: Any, processor: Any) -> None:
        super().__init__()
        self.name, self.config, self.recipe = name, config, Recipe.of(config)
        self.trainer_settings: Mapping[str, Option] = {}
        """Settings of a run for the trainer of TRL that trains this model, if one does."""
        self.model, self.processor = model, processor
        self.extension: Extension | None = None
        self.prompts = PromptEncoder(processor, self.base, config)
        self.eos_ids = self.prompts.eos_ids
        self.width = self.base.config.get_text_config().hidden_size
        if self.recipe.precision == "bf16":
            head = self.base.get_output_embeddings()
            autocast_calls((*vision_modules(self.base), self.language_model, head))

    @property
    def base(self) -> Any:
        """Transformers model, without the PEFT wrapper of an adapter."""
        from peft import PeftModel

        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def language_model(self) -> Any:
        """Decoder without its head."""
        return self.base.get_decoder()

    @property
    def metered_modules(self) -> tuple[nn.Module, ...]:
        # The last block shows the meter whether a backward pass ends there; it is watched after its
        # outer module, or the meter would not know it as a part of it.
        last, head = self.embedding("image"), self.base.get_output_embeddings()
        return (*vision_modules(self.base), self.language_model, last, head)

    def encode(self, batch: Batch) -> Latents:
        """Return image tokens [B, I, D] and prompt embeddings [B, P, D]; I is 0 without images.

        Image tokens are the projected ones and the embeddings of the tokens between them; behind
        them are as many for each deeper layer of the decoder that takes features of its own.
        """
        text = self.base.get_input_embeddings()(batch.extra["tokens"])
        layout = layout_of(batch)
        spans = [row[span] for row, span in zip(text, layout.span, strict=True)]
        image = nn.utils.rnn.pad_sequence(spans, batch_first=True)
        if bool(batch.has_image.any()):
            arguments = self.prompts.image_arguments(batch)
            features = self.base.model.get_image_features(**arguments)
            layers = [features.pooler_output, *(features.get("deepstack_features") or ())]
            slots = [row[span] for row, span in zip(layout.shown, layout.span, strict=True)]
            is_image = nn.utils.rnn.pad_sequence(slots, batch_first=True)[..., None]
            # An item's images follow one another, and so do the items.
            tokens = (torch.cat(list(layer)).to(text.dtype) for layer in layers)
            image = torch.cat([image.masked_scatter(is_image, rows) for rows in tokens], 1)
            layout = replace(layout, depth=len(layers) - 1)
        return Latents(image, text, layout)

    def contribute(self, latents: Latents) -> Latents:
        return latents  # a decoder mixes both modalities from its first layer

    def fuse(self, parts: Latents) -> Tensor:
        """Return logits [A, V] at the answer tokens, one row per token in row order."""
        layout = self.layout(parts).packed()
        answered = layout.answered
        # Padding (-100) is no token; the embedding of token 0 is masked out below.
        answers = self.base.get_input_embeddings()(layout.answers.clamp(min=0))
        attended = torch.cat([layout.visible, answered], 1)
        states = self.read(parts, layout, attended, answers)
        # The last prompt token predicts the first answer token, and so on.
        before = states[:, layout.mask.shape[1] - 1 : -1]
        logits: Tensor = self.base.get_output_embeddings()(before[answered])
        return logits.float()

    def read(
        self,
        parts: Latents,
        layout: Layout,
        attended: Tensor,
        answers: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Return the states [B, L, D] of the prompts and the embedded ``answers`` after them."""
        embedded = layout.filled(parts.text, parts.image)
        if answers is not None:
            embedded = torch.cat([embedded, answers.to(embedded.dtype)], 1)
        types, further = layout.token_types(attended.shape[1]), {}
        if layout.depth:
            further = {
                "visual_pos_masks": types.bool(),
                "deepstack_visual_embeds": layout.deeper(parts.text, parts.image),
            }
        positions = layout.positions(self.base.model, attended)
        return self.run_decoder(embedded, attended, positions, cache, token_types=types, **further)

    def run_decoder(self, *args: Any, **further: Any) -> Tensor:
        """Return the states [B, N, D] of the last N of the tokens ``attended`` [B, L]."""
        call = self.decoder_arguments(*args, **further)
        states: Tensor = self.language_model(**call).last_hidden_state
        return states

    def decoder_arguments(
        self,
        embedded: Tensor,
        attended: Tensor,
        positions: Tensor,
        cache: Any = None,
        token_types: Tensor | None = None,
        **further: Any,
    ) -> dict[str, Any]:
        mask: Any = attended.long()
        # Models with masks of their own let the tokens of an image attend to each other.
        if masks := getattr(self.base, "create_masks_for_generate", None):
            config = self.base.config
            mask = masks(config, embedded, mask, cache, positions, token_type_ids=token_types)
        return {
            "inputs_embeds": embedded,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": cache is not None,
            **({} if cache is None else {"past_key_values": cache}),
            **further,
        }

    def layout(self, latents: Latents) -> Layout:
        """Return the context of latents; TypeError if they are another backbone's."""
        if not isinstance(latents.context, Layout):
            raise TypeError("These latents are not from this backbone's encode.")
        return latents.context

    def predict(self, batch: Batch) -> Tensor:
        return self.fuse(self.encode(batch))

    def unimodal(self, latents: Latents) -> Latents:
        """Return logits [A, V] of each modality with the other blanked: two decoder passes."""
        image = self.fuse(self.blank(latents, "text"))
        return Latents(image, self.fuse(self.blank(latents, "image")))

    def blank(self, latents: Latents, modality: Modality, rows: Tensor | None = None) -> Latents:
        """Attend to none of the modality's tokens, as if the prompt had been rendered without."""
        layout = self.layout(latents)
        selected = torch.ones_like(layout.image_visible) if rows is None else rows
        return replace(latents, context=layout.blank(modality, selected))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        answered = batch.targets != IGNORED
        losses = cross_entropy(logits, batch.targets[answered], reduction="none")
        rows = answered.nonzero()[:, 0]
        total = torch.zeros(len(answered), device=losses.device).index_add(0, rows, losses)
        # A row without answer tokens has loss 0.
        return total / answered.sum(1).clamp(min=1)

    def scored_loss(self, batch: Batch) -> Tensor:
        return self.loss(self.predict(batch), batch)

    def modality_modules(self, modality: Modality) -> tuple[nn.Module, ...]:
        return vision_modules(self.base) if modality == "image" else (self.language_model,)

    def embedding(self, modality: Modality) -> Any:
        return self.language_model.layers[-1]

    def split(self, batch: Batch, size: int) -> list[Batch]:
        return self.prompts.split(batch, size)

    def pixel_range(self, batch: Batch) -> PixelRange:
        real = batch.extra.get("pixel_attention_mask")
        return pixel_range(self.processor.image_processor, batch.pixels, real)

    def pixel_gradient(self, gradient: Tensor) -> Tensor:
        return pixel_gradient(self.processor.image_processor, gradient)

    def image_capacity(self, images: int) -> int:
        """Count the placeholders that the chat template renders for so many images."""
        try:
            text = self.prompts.render("?", images)
        except TemplateError:  # the template refuses more than one image
            return 1
        # Some templates accept several images and show one.
        return text.count(self.processor.image_token)

    def messages(self, inputs: Inputs) -> list[dict[str, Any]]:
        """Return one user turn as chat messages, images first."""
        images = [{"type": "image", "image": image} for image in inputs.images]
        text = {"type": "text", "text": self.prompts.as_text(inputs.prompt)}
        return [{"role": "user", "content": [*images, text]}]

    def collate(self, inputs: Sequence[Inputs], answers: Sequence[str] | None = None) -> Batch:
        """Render, tokenise and pad; UserError if a prompt or an answer is too long."""
        return self.prompts.assemble(self.prompts.encode_items(inputs, answers), self.device)

    @torch.no_grad()
    def continuations(
        self,
        batch: Batch,
        max_tokens: int,
        temperature: float | None = None,
        samples: int = 1,
        on_pass: OnPass = ignore_pass,
    ) -> list[list[int]]:
        """Return the tokens that follow each prompt, up to an end token, greedy or sampled.

        With several ``samples`` the rows of a prompt follow one another. Sampling draws from
        torch's global generator. ``training.generation`` charges what it costs.
        """
        with evaluation_mode(self):
            return sample_answers(self, batch, max_tokens, temperature, samples, on_pass)

    def _length(self, ids: Sequence[int]) -> int:
        """Return the number of tokens before the first end token."""
        ends = (index for index, token in enumerate(ids) if token in self.eos_ids)
        return next(ends, len(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Return text up to the end token without special tokens, but with tags of reasoning."""
        text: str = self.processor.tokenizer.decode(
            [i for i in ids[: self._length(ids)] if i not in self.prompts.silent]
        )
        return text.strip()

    def count_tokens(self, text: str) -> int:
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def answer(
        self, inputs: Sequence[Inputs], choices: Sequence[str], pixels: Tensor | None = None
    ) -> Tensor:
        """Return softmax [B, C] of the mean log-likelihoods of the choices' tokens, end included.

        Each prompt is read once; the choices continue it from the key-value cache.
        """
        with evaluation_mode(self):
            batch = _with_pixels(self.collate(inputs), pixels)
            scores = require_finite(self._choice_scores(batch, choices))
            return torch.softmax(scores, dim=1).cpu()

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: Tensor | None = None
    ) -> list[str]:
        rows = self.continuations(_with_pixels(self.collate(inputs), pixels), max_tokens)
        return [self.decode(ids) for ids in rows]

    def _choice_scores(self, batch: Batch, choices: Sequence[str]) -> Tensor:
        """Return the mean log-likelihood [B, C] of each choice after each prompt."""
        prompts, head = ReadPrompts(self, batch), self.base.get_output_embeddings()
        # In single precision also for a bf16 model: differences between choices are small.
        start = log_softmax(head(prompts.last).float(), dim=1)
        scores = []
        for choice in choices:
            # One row for all prompts, because a choice has the same tokens after each of them.
            ids = torch.tensor([self.prompts.answer_ids(choice)], device=start.device)
            ids = ids.expand(len(start), -1)
            total = start.gather(1, ids[:, :1])[:, 0]
            states = prompts.append(ids[:, :-1])
            # The next choice continues the prompt, not this choice.
            prompts.remove(ids.shape[1] - 1)
            rest = log_softmax(head(states).float(), dim=2).gather(2, ids[:, 1:, None])
            # The mean, so that choices of many tokens are not less probable for their length.
            scores.append((total + rest.sum((1, 2))) / ids.shape[1])
        return torch.stack(scores, dim=1)


def vision_modules(base: Any) -> tuple[nn.Module, ...]:
    """Return vision tower and, if separate, projector; UserError if there is no tower."""
    tower = base.get_encoder(modality="image")
    if tower in (base, base.model):  # transformers' way to say that there is none
        children = ", ".join(name for name, _ in base.model.named_children())
        raise UserError(f"{base.config.model_type}: no vision tower among {children}.")
    rest = (m for m in base.model.children() if m not in (tower, base.get_decoder()))
    return (tower, *(module for module in rest if any(True for _ in module.parameters())))


def _with_pixels(batch: Batch, pixels: Tensor | None) -> Batch:
    return batch if pixels is None else replace(batch, pixels=pixels)
