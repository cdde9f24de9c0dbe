"""Fusion classifier: any AutoModel image encoder beside any AutoModel text encoder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES, Inputs, Modality
from steelyard.harness.models.backbone import Batch, Latents, PixelRange, Readout
from steelyard.harness.models.classifier_config import ClassifierConfig
from steelyard.harness.models.encoders import (
    TINY,
    Encoder,
    pretrained_encoder,
    tiny_image_encoder,
    tiny_text_encoder,
)


class Contributions(nn.Module):
    """First layer of the fusion, split by side: row-wise linear maps of the two latents."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.image = nn.Linear(width, out, bias=False)
        self.text = nn.Linear(width, out, bias=False)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] each -> [B, H] each."""
        return self.image(image), self.text(text)


class Fusion(nn.Module):
    """What follows the sum of contributions: a bias, and for ``concat`` ReLU and a linear layer."""

    def __init__(self, hidden: int, classes: int, perceptron: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.output = nn.Linear(hidden, classes) if perceptron else None

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """[B, H] each -> class logits [B, C]."""
        total = image + text + self.bias
        return total if self.output is None else self.output(torch.relu(total))


class Classifier(nn.Module):
    """The ``Backbone`` of late-fusion methods; see that protocol for the meaning of each part."""

    kind: Literal["classifier", "vlm"] = "classifier"

    def __init__(
        self,
        name: str,
        config: ClassifierConfig,
        classes: tuple[str, ...],
        multi_label: bool,
        image: Encoder,
        text: Encoder,
    ) -> None:
        super().__init__()
        self.name, self.config, self.recipe = name, config, config.recipe
        self.classes, self.multi_label, self.width = classes, multi_label, config.width
        self.readout: Readout = "fused"
        self.image_encoder, self.text_encoder = image, text
        perceptron = config.fusion == "concat"
        hidden = config.width if perceptron else len(classes)
        self.image_embedding = nn.Linear(image.width, config.width)
        self.text_embedding = nn.Linear(text.width, config.width)
        self.contributions = Contributions(config.width, hidden)
        self.fusion = Fusion(hidden, len(classes), perceptron)
        self.image_head = nn.Linear(config.width, len(classes))
        self.text_head = nn.Linear(config.width, len(classes))
        learnt = config.missing == "learnt"
        self.missing = nn.ParameterDict(
            {
                modality: nn.Parameter(torch.zeros(config.width), requires_grad=learnt)
                for modality in MODALITIES
            }
        )
        self.register_buffer("prior", torch.full((len(classes),), 1.0 / len(classes)))
        self.prior: Tensor

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.prior.device

    @property
    def metered_modules(self) -> tuple[nn.Module, ...]:
        """The modules a meter watches: together they hold every matrix product of the model."""
        encoders = () if self.config.frozen else (self.image_encoder, self.text_encoder)
        embeddings = (self.image_embedding, self.text_embedding)
        heads = (self.image_head, self.text_head)
        return (*encoders, *embeddings, *heads, self.contributions, self.fusion)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but frozen encoders."""
        super().train(mode)
        if self.config.frozen:
            self.image_encoder.eval()
            self.text_encoder.eval()
        return self

    def encode(self, batch: Batch) -> Latents:
        """Latents [B, D] of both sides, missing ones blanked."""
        return Latents(self.encode_modality(batch, "image"), self.encode_modality(batch, "text"))

    def encode_modality(self, batch: Batch, modality: Modality) -> Tensor:
        """Latents [B, D] of one side; rows without it are blanked and cost no encoder pass."""
        inputs: tuple[Tensor, ...]
        if modality == "image":
            present, inputs = batch.has_image, (batch.pixels,)
        else:
            present, inputs = batch.has_text, (batch.tokens, batch.mask)
        if bool(present.all()):
            return self._latents(modality, *inputs)
        latents: Tensor = self.missing[modality].expand(len(present), -1)
        if not bool(present.any()):
            return latents
        found = self._latents(modality, *(tensor[present] for tensor in inputs))
        return latents.to(found.dtype).masked_scatter(present[:, None], found)

    def contribute(self, latents: Latents) -> Latents:
        """Contributions [B, H] of both sides to the fusion."""
        return Latents(*self.contributions(latents.image, latents.text))

    def fuse(self, parts: Latents) -> Tensor:
        """Class logits [B, C]."""
        logits: Tensor = self.fusion(parts.image, parts.text)
        return logits

    def predict(self, batch: Batch) -> Tensor:
        """Class logits [B, C] of a batch."""
        return self.fuse(self.contribute(self.encode(batch)))

    def forward(self, batch: Batch) -> Tensor:
        """Same as ``predict``."""
        return self.predict(batch)

    def unimodal(self, latents: Latents) -> Latents:
        """Logits [B, C] of each side's own head."""
        image = self.unimodal_logits(latents.image, "image")
        return Latents(image, self.unimodal_logits(latents.text, "text"))

    def unimodal_logits(self, latent: Tensor, modality: Modality) -> Tensor:
        """Logits [B, C] of one side's own head."""
        logits: Tensor = (self.image_head if modality == "image" else self.text_head)(latent)
        return logits

    def blank(self, latents: Latents, modality: Modality, rows: Tensor | None = None) -> Latents:
        """The one place that says what a missing side is: its latent becomes zeros or learnt."""
        present = latents.of(modality)
        if rows is None:
            return latents.replace(modality, self.missing[modality].expand_as(present))
        if not bool(rows.any()):
            return latents
        return latents.replace(
            modality, torch.where(rows[:, None], self.missing[modality], present)
        )

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy, or binary cross entropy averaged over classes: [B]."""
        if self.multi_label:
            each = nn.functional.binary_cross_entropy_with_logits(
                logits, batch.targets, reduction="none"
            )
            return each.mean(dim=1)
        return nn.functional.cross_entropy(logits, batch.targets, reduction="none")

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, C], rows sum to one unless multi-label."""
        return torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=1)

    def set_prior(self, frequencies: NDArray[np.float64]) -> None:
        """What the ``prior`` readout answers: [C]."""
        self.prior.copy_(torch.from_numpy(frequencies))

    def modality_modules(self, modality: Modality) -> tuple[nn.Module, ...]:
        """Encoder and embedding of one side."""
        encoder = self.image_encoder if modality == "image" else self.text_encoder
        return (encoder, self.embedding(modality))

    def embedding(self, modality: Modality) -> nn.Linear:
        """Last layer of one side before the latents meet."""
        return self.image_embedding if modality == "image" else self.text_embedding

    def collate(
        self,
        inputs: Sequence[Inputs],
        targets: Sequence[Sequence[int]] | None = None,
        *,
        raw: bool = False,
    ) -> Batch:
        """Preprocess, tokenise and, with frozen encoders, encode; absent sides are marked.

        ``raw`` leaves the pixels to a frozen image encoder for later, when gradients are wanted.
        """
        images = [item.image for item in inputs]
        texts = [item.text or None for item in inputs]
        if self.config.frozen and not raw:
            pixels, has_image = self.image_encoder.features(images)
        else:
            (pixels,), has_image = self.image_encoder.prepare(images)
        if self.config.frozen:
            tokens, has_text = self.text_encoder.features(texts)
            mask = torch.empty(len(inputs), 0)
        else:
            (tokens, mask), has_text = self.text_encoder.prepare(texts)
        return Batch(
            pixels=pixels.to(self.device),
            has_image=has_image.to(self.device),
            tokens=tokens.to(self.device),
            mask=mask.to(self.device),
            has_text=has_text.to(self.device),
            targets=self._targets(targets or [()] * len(inputs)).to(self.device),
        )

    def pixel_range(self, batch: Batch) -> PixelRange:
        """Black and white in the units of ``batch.pixels``: [1, 3, 1, 1] each.

        Raises:
            UserError: the encoders are frozen, so that the batch holds features, not an image.
        """
        if batch.pixels.dim() == 2:  # features [B, width], where pixels have four dimensions
            raise UserError(
                f"{self.name} has frozen encoders, whose batches hold features and no pixels: "
                "leave out frozen=true to change its images."
            )
        low, high = self.image_encoder.extremes()
        return PixelRange(low.to(batch.pixels), high.to(batch.pixels))

    def pixel_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient as it is: each pixel reaches the encoder once."""
        return gradient

    def scored_loss(self, batch: Batch) -> Tensor:
        """``loss`` of the readout's logits; of the ensemble that of its mean likelihood: [B]."""
        if self.readout == "prior":
            logits = torch.logit(self.prior) if self.multi_label else self.prior.log()
            return self.loss(logits.expand(len(batch.has_image), -1), batch)
        if self.readout == "fused":
            return self.loss(self.predict(batch), batch)
        if self.readout != "ensemble":
            latent = self.encode_modality(batch, self.readout)
            return self.loss(self.unimodal_logits(latent, self.readout), batch)
        modalities = self.unimodal(self.encode(batch))
        each = torch.stack(
            [self.loss(modality, batch) for modality in (modalities.image, modalities.text)], 1
        )
        return -torch.logsumexp(self._shares(batch).log() - each, dim=1)

    @torch.no_grad()
    def answer(
        self, inputs: Sequence[Inputs], choices: Sequence[str], pixels: Tensor | None = None
    ) -> Tensor:
        """Class probabilities [B, C] by the current readout; ``choices`` must be the classes."""
        if len(choices) != len(self.classes):
            raise UserError(
                f"{self.name} was given {len(choices)} answers to choose among and has "
                f"{len(self.classes)} classes: score it on the task it learnt."
            )
        training = self.training
        self.eval()
        try:
            batch = self.collate(inputs)
            batch = batch if pixels is None else replace(batch, pixels=pixels)
            return self._read(batch).float().cpu()
        finally:
            self.train(training)

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: Tensor | None = None
    ) -> list[str]:
        """The likeliest class name of each item, whatever its length."""
        best = self.answer(inputs, self.classes, pixels).argmax(1)
        return [self.classes[index] for index in best.tolist()]

    def count_tokens(self, text: str) -> int:
        """One: a class is chosen, not spelt."""
        return 1

    def _read(self, batch: Batch) -> Tensor:
        if self.readout == "prior":
            return self.prior.expand(len(batch.has_image), -1)
        if self.readout == "fused":
            return self.probabilities(self.predict(batch))
        if self.readout != "ensemble":
            latent = self.encode_modality(batch, self.readout)
            return self.probabilities(self.unimodal_logits(latent, self.readout))
        logits = self.unimodal(self.encode(batch))
        image, text = self.probabilities(logits.image), self.probabilities(logits.text)
        shares = self._shares(batch)
        return shares[:, :1] * image + shares[:, 1:] * text

    def _shares(self, batch: Batch) -> Tensor:
        """Weight of image and text in the ensemble [B, 2]: of the sides that are there.

        With neither, both heads fall back on their bias.
        """
        here = torch.stack([batch.has_image, batch.has_text], dim=1)
        counted = (here | ~here.any(dim=1, keepdim=True)).float()
        return counted / counted.sum(dim=1, keepdim=True)

    def _latents(self, modality: Modality, *inputs: Tensor) -> Tensor:
        encoder, embedding = self.modality_modules(modality)
        ready = self.config.frozen and inputs[0].dim() == 2  # pixels that an attack moved are not
        latents: Tensor = embedding(inputs[0] if ready else encoder(*inputs))
        return latents

    def _targets(self, labels: Sequence[Sequence[int]]) -> Tensor:
        if not self.multi_label:
            return torch.tensor([row[0] if row else 0 for row in labels], dtype=torch.int64)
        targets = torch.zeros(len(labels), len(self.classes))
        for row, positive in enumerate(labels):
            targets[row, list(positive)] = 1.0
        return targets


def build(
    name: str,
    config: ClassifierConfig,
    classes: tuple[str, ...],
    multi_label: bool,
    texts: Sequence[str],
    seed: int,
) -> Classifier:
    """An untrained classifier; ``texts`` (training split) give the tiny tokenizer its words."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.image == TINY:
            image = tiny_image_encoder(config.image_size, config.image_width, config.image_layers)
        else:
            image = pretrained_encoder(config.image, "image", 0, config.frozen)
        if config.text == TINY:
            size = config.text_width, config.text_layers
            text = tiny_text_encoder(texts, config.max_tokens, *size)
        else:
            text = pretrained_encoder(config.text, "text", config.max_tokens, config.frozen)
        model = Classifier(name, config, classes, multi_label, image, text)
    if config.frozen:
        for encoder in (image, text):
            encoder.requires_grad_(False)
    return model.train()


def save(model: Classifier, folder: Path) -> None:
    """Write weights as safetensors and everything needed to rebuild the classifier around them.

    ``classifier.json`` comes last: without it the folder does not load.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from steelyard.harness.core.files import explain_write_errors, write_json

    with explain_write_errors(folder, SafetensorError):
        folder.mkdir(parents=True, exist_ok=True)
        model.image_encoder.save(folder / "image_encoder")
        model.text_encoder.save(folder / "text_encoder")
        state = {key: value.contiguous().cpu() for key, value in trained_state(model).items()}
        save_file(state, folder / "model.safetensors")
    meta: dict[str, Any] = {"name": model.name, "config": asdict(model.config)}
    meta |= {"classes": model.classes, "multi_label": model.multi_label, "readout": model.readout}
    write_json(folder / "classifier.json", meta)


def load(folder: Path) -> Classifier:
    """Rebuild a saved classifier; a missing or foreign folder is a UserError."""
    from safetensors.torch import load_file

    description = folder / "classifier.json"
    if not description.is_file():
        raise UserError(f"No classifier at {folder}: {description.name} is missing.")
    meta = json.loads(description.read_text(encoding="utf-8"))
    config = ClassifierConfig(**meta["config"])
    image = Encoder.restore(folder / "image_encoder", "image", 0, config.frozen)
    text = Encoder.restore(folder / "text_encoder", "text", config.max_tokens, config.frozen)
    model = Classifier(
        meta["name"], config, tuple(meta["classes"]), meta["multi_label"], image, text
    )
    model.readout = meta["readout"]
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=not config.frozen)
    return model.eval()


def trained_state(model: Classifier) -> dict[str, Tensor]:
    """The weights that cannot be had again: all but those of frozen pretrained encoders."""
    encoders = {"image_encoder.": model.image_encoder, "text_encoder.": model.text_encoder}
    left_out = tuple(
        prefix
        for prefix, encoder in encoders.items()
        if model.config.frozen and encoder.source != TINY
    )
    state: dict[str, Tensor] = model.state_dict()
    return {key: value for key, value in state.items() if not key.startswith(left_out)}
