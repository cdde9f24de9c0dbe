"""Vision-language backbone: any AutoModelForImageTextToText behind encode, contribute, fuse."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs, Modality
from steelyard.harness.models.backbone import Batch, Latents, PixelRange
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.models.vlm_layout import IGNORED, Layout, layout_of
from steelyard.harness.models.vlm_pixels import pixel_gradient, pixel_range
from steelyard.harness.models.vlm_prompts import PromptEncoder


class Vlm(nn.Module):
    """The ``Backbone`` of generative models; see that protocol for the meaning of each part."""

    kind: Literal["classifier", "vlm"] = "vlm"
    classes: tuple[str, ...] = ()
    multi_label = False

    def __init__(self, name: str, config: VlmConfig, model: Any, processor: Any) -> None:
        super().__init__()
        self.name, self.config, self.recipe = name, config, config.recipe
        self.model, self.processor = model, processor
        self.prompts = PromptEncoder(processor, self.base.config, config)
        self.width = self.base.config.get_text_config().hidden_size

    @property
    def base(self) -> Any:
        """The transformers model, without the PEFT wrapper there may be around it."""
        from peft import PeftModel

        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def eos_id(self) -> int:
        """The token that ends an answer."""
        return self.prompts.eos_id

    @property
    def language_model(self) -> nn.Module:
        """The decoder without its head."""
        module: nn.Module = self.base.get_decoder()
        return module

    @property
    def metered_modules(self) -> tuple[nn.Module, ...]:
        """The modules a meter watches: together they hold every matrix product of the model."""
        part = self.embedding("image")  # tells how far a backward pass goes
        head = self.base.get_output_embeddings()
        return (*vision_modules(self.base), self.language_model, part, head)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but a frozen vision tower."""
        super().train(mode)
        if self.config.vision == "frozen":
            vision_modules(self.base)[0].eval()
        return self

    def encode(self, batch: Batch) -> Latents:
        """Image tokens [B, I, D] and prompt embeddings [B, P, D]; no image takes no tokens."""
        text = self.base.get_input_embeddings()(batch.extra["row"])
        image = text.new_zeros(len(text), 0, text.shape[2])
        if bool(batch.has_image.any()):
            image = self._image_tokens(batch).to(text.dtype)
        return Latents(image, text, layout_of(batch))

    def contribute(self, latents: Latents) -> Latents:
        """The identity: a decoder mixes both sides from its first layer."""
        return latents

    def fuse(self, parts: Latents) -> Tensor:
        """Logits [A, V] at the answer tokens, teacher-forced, one row a token in row order."""
        layout = _layout(parts)
        prompt = layout.filled(parts.text, parts.image)
        answered = layout.answered
        answers = self.base.get_input_embeddings()(layout.answers.clamp(min=0))
        attended = torch.cat([layout.visible, answered], 1)
        states = self.language_model(
            inputs_embeds=torch.cat([prompt, answers.to(prompt.dtype)], 1),
            attention_mask=attended.long(),
            position_ids=layout.positions(self.base.model, attended),
            use_cache=False,
        ).last_hidden_state
        # The last prompt token predicts the first answer token, and so on.
        before = states[:, prompt.shape[1] - 1 : -1]
        logits: Tensor = self.base.get_output_embeddings()(before[answered])
        return logits

    def predict(self, batch: Batch) -> Tensor:
        """Logits [A, V] of a batch."""
        return self.fuse(self.encode(batch))

    def forward(self, batch: Batch) -> Tensor:
        """Same as ``predict``."""
        return self.predict(batch)

    def unimodal(self, latents: Latents) -> Latents:
        """Logits [A, V] of each side with the other blanked: two passes of the language model."""
        image = self.fuse(self.blank(latents, "text"))
        return Latents(image, self.fuse(self.blank(latents, "image")))

    def blank(self, latents: Latents, modality: Modality, rows: Tensor | None = None) -> Latents:
        """The one place that says what a missing side is: its tokens are attended to by nothing.

        Equal to a prompt that was rendered without them; the image's wrapper tokens go with it.
        """
        layout = _layout(latents)
        chosen = torch.ones_like(layout.image_visible) if rows is None else rows
        return replace(latents, context=layout.blank(modality, chosen))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each row's answer tokens: [B]."""
        answered = batch.targets != IGNORED
        each = cross_entropy(logits.float(), batch.targets[answered], reduction="none")
        rows = answered.nonzero()[:, 0]
        total = torch.zeros(len(answered), device=each.device).index_add(0, rows, each)
        return total / answered.sum(1).clamp(min=1)

    def scored_loss(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each row's answer tokens: [B]."""
        return self.loss(self.predict(batch), batch)

    def modality_modules(self, modality: Modality) -> tuple[nn.Module, ...]:
        """Vision tower and projector, or the language model that both sides share."""
        return vision_modules(self.base) if modality == "image" else (self.language_model,)

    def embedding(self, modality: Modality) -> nn.Module:
        """The last block of the language model, for either side."""
        last: nn.Module = self.base.get_decoder().layers[-1]
        return last

    def pixel_range(self, batch: Batch) -> PixelRange:
        """Bounds of black and white in the processor's normalised units."""
        real = batch.extra.get("pixel_attention_mask")
        return pixel_range(self.processor.image_processor, batch.pixels, real)

    def pixel_gradient(self, gradient: Tensor) -> Tensor:
        """Averaged over the equal frames that Qwen-VL makes of a still image."""
        return pixel_gradient(self.processor.image_processor, gradient)

    def image_capacity(self, images: int) -> int:
        """For how many of so many images at once the prompt has a place."""
        return self.prompts.image_capacity(images)

    def messages(self, inputs: Inputs) -> list[dict[str, Any]]:
        """One user turn as chat messages, the images first."""
        return self.prompts.messages(inputs)

    def collate(self, inputs: Sequence[Inputs], answers: Sequence[str] | None = None) -> Batch:
        """Render, tokenise and pad; ``answers`` become targets, without them there are none.

        Raises:
            UserError: a prompt or an answer is longer than the limits of the configuration.
        """
        return self.prompts.collate(inputs, answers, self.device)

    @torch.no_grad()
    def continuations(
        self, batch: Batch, max_tokens: int, temperature: float | None = None
    ) -> list[list[int]]:
        """Tokens that follow each prompt, the end token included where it was reached.

        Greedy, or sampled from torch's global generator. ``batch.pixels`` are taken as they are.
        """
        training = self.training
        self.eval()
        # The checkpoint's own habits, such as a penalty on repetition, are set aside.
        sampling: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "num_beams": 1}
        if temperature is not None:
            sampling |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        try:
            found = self.model.generate(
                **self.prompts.plain(batch),
                max_new_tokens=max_tokens,
                suppress_tokens=self.prompts.image_ids,
                eos_token_id=self.eos_id,
                pad_token_id=self.prompts.pad_id,
                use_cache=True,
                **sampling,
            )
        finally:
            self.train(training)
        return [self._ended(row) for row in found[:, batch.tokens.shape[1] :].tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        text: str = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def count_tokens(self, text: str) -> int:
        """Length of an answer in tokens, without the end token."""
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def answer(
        self, inputs: Sequence[Inputs], choices: Sequence[str], pixels: Tensor | None = None
    ) -> Tensor:
        """Softmax [B, C] of the mean log-likelihoods of the choices' tokens, end token included.

        Each prompt is read once; the choices continue it from the key-value cache.
        """
        training = self.training
        self.eval()
        try:
            batch = _showing(self.collate(inputs), pixels)
            return torch.softmax(self._choice_scores(batch, choices), dim=1).cpu()
        finally:
            self.train(training)

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: Tensor | None = None
    ) -> list[str]:
        """Greedy answers in words."""
        found = self.continuations(_showing(self.collate(inputs), pixels), max_tokens)
        return [self.decode(ids) for ids in found]

    def _ended(self, ids: list[int]) -> list[int]:
        if self.eos_id in ids:
            return ids[: ids.index(self.eos_id) + 1]
        return ids

    def _image_tokens(self, batch: Batch) -> Tensor:
        """Projected image tokens [B, I, D], zeros after a row's last one."""
        arguments = self.prompts.image_arguments(batch)
        found = torch.cat(list(self.base.model.get_image_features(**arguments).pooler_output))
        # An item's images follow one another, and so do the items.
        own = torch.split(found, batch.extra["slots"].sum(1).tolist())
        return nn.utils.rnn.pad_sequence(list(own), batch_first=True)

    def _choice_scores(self, batch: Batch, choices: Sequence[str]) -> Tensor:
        """Mean log-likelihood [B, C] of each choice after each prompt."""
        from transformers import DynamicCache

        latents = self.encode(batch)
        layout = _layout(latents)
        cache = DynamicCache(config=self.base.config.get_text_config())
        prompt = layout.filled(latents.text, latents.image)
        seen, length = layout.visible, prompt.shape[1]
        first = self.language_model(
            inputs_embeds=prompt,
            attention_mask=seen.long(),
            position_ids=layout.positions(self.base.model, seen),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        head = self.base.get_output_embeddings()
        start = log_softmax(head(first).float(), dim=1)
        scores = []
        for choice in choices:
            ids = torch.tensor([self.prompts.answer_ids(choice)], device=prompt.device)
            ids = ids.expand(len(prompt), -1)
            total = start.gather(1, ids[:, :1])[:, 0]
            attended = torch.cat([seen, torch.ones_like(ids[:, :-1], dtype=torch.bool)], 1)
            states = self.language_model(
                inputs_embeds=self.base.get_input_embeddings()(ids[:, :-1]),
                attention_mask=attended.long(),
                position_ids=layout.positions(self.base.model, attended)[..., length:],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            if ids.shape[1] > 1:
                cache.crop(1 - ids.shape[1])
            rest = log_softmax(head(states).float(), dim=2).gather(2, ids[:, 1:, None])
            scores.append((total + rest.sum((1, 2))) / ids.shape[1])
        return torch.stack(scores, dim=1)


def vision_modules(base: Any) -> tuple[nn.Module, ...]:
    """The vision tower and, where it is a module of its own, the projector behind it.

    Raises:
        UserError: the model keeps them where none of the known families does.
    """
    inner: Mapping[str, nn.Module] = dict(base.model.named_children())
    tower = [inner[name] for name in ("vision_tower", "visual", "vision_model") if name in inner]
    joint = [inner[name] for name in ("multi_modal_projector", "connector") if name in inner]
    if not tower:
        raise UserError(
            f"{base.config.model_type}: no vision tower among {', '.join(inner)}; steelyard knows "
            "LLaVA, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL and Idefics3/SmolVLM layouts."
        )
    return (*tower, *joint)


def _showing(batch: Batch, pixels: Tensor | None) -> Batch:
    return batch if pixels is None else replace(batch, pixels=pixels)


def _layout(latents: Latents) -> Layout:
    if not isinstance(latents.context, Layout):
        raise TypeError("these latents did not come from this backbone's encode")
    return latents.context
