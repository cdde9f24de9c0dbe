"""Fusion classifier: any AutoModel image encoder beside any AutoModel text encoder."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES, Inputs, Modality, ModelKind
from steelyard.harness.models.backbone import (
    Batch,
    Latents,
    PixelRange,
    Readout,
    Recipe,
    evaluation_mode,
    require_finite,
)
from steelyard.harness.models.classifier_config import ClassifierConfig
from steelyard.harness.models.encoders import (
    TINY,
    Encoder,
    pretrained_encoder,
    tiny_image_encoder,
    tiny_text_encoder,
)
from steelyard.harness.models.extension import Extension, extend, load_weights
from steelyard.harness.models.precision import autocast_calls
from steelyard.harness.models.storage import describe_last, read_description

DESCRIPTION, WEIGHTS_FILE = "classifier.json", "model.safetensors"


class Contributions(nn.Module):
    """First layer of the fusion, split by modality: linear maps of the latents to [B, H]."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.image = nn.Linear(width, out, bias=False)
        self.text = nn.Linear(width, out, bias=False)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(image), self.text(text)


class Fusion(nn.Module):
    """Rest of the fusion: sum of contributions, bias, for ``concat`` ReLU and linear layer."""

    def __init__(self, hidden: int, classes: int, perceptron: bool) -> None:
        super().__init__()
        # One bias for the sum: contributions without bias belong to one modality each.
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.output = nn.Linear(hidden, classes) if perceptron else None

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        total = image + text + self.bias
        return total if self.output is None else self.output(torch.relu_(total))


class Classifier(nn.Module):
    """``TwoTower`` backbone of late-fusion methods; the protocol documents its methods."""

    kind: ModelKind = "classifier"

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
        self.name, self.config, self.recipe = name, config, Recipe.of(config)
        self.classes, self.multi_label, self.width = classes, multi_label, config.width
        self.readout: Readout = "fused"
        self.extension: Extension | None = None
        self.image_encoder, self.text_encoder = image, text
        perceptron = config.fusion == "concat"
        hidden = config.width if perceptron else len(classes)
        self.image_embedding = nn.Linear(image.width, config.width)
        self.text_embedding = nn.Linear(text.width, config.width)
        self.contributions = Contributions(config.width, hidden)
        self.fusion = Fusion(hidden, len(classes), perceptron)
        self.image_head = nn.Linear(config.width, len(classes))
        self.text_head = nn.Linear(config.width, len(classes))
        self.missing = nn.ParameterDict()
        for modality in MODALITIES:
            # A parameter in both cases, so that saved weights have the same names.
            learnt = config.missing == "learnt"
            self.missing[modality] = nn.Parameter(torch.zeros(config.width), requires_grad=learnt)
        self.register_buffer("prior", torch.full((len(classes),), 1.0 / len(classes)))
        self.prior: Tensor
        if self.recipe.precision == "bf16":
            autocast_calls(self.metered_modules)

    @property
    def device(self) -> torch.device:
        return self.prior.device

    @property
    def metered_modules(self) -> tuple[nn.Module, ...]:
        """Modules a meter watches: together they contain every matrix product of the model."""
        encoders = () if self.config.frozen else (self.image_encoder, self.text_encoder)
        embeddings = (self.image_embedding, self.text_embedding)
        heads = (self.image_head, self.text_head)
        return (*encoders, *embeddings, *heads, self.contributions, self.fusion)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.frozen:
            self.image_encoder.eval()
            self.text_encoder.eval()
        return self

    def encode(self, batch: Batch) -> Latents:
        return Latents(self.encode_modality(batch, "image"), self.encode_modality(batch, "text"))

    def encode_modality(self, batch: Batch, modality: Modality) -> Tensor:
        present = batch.has_image if modality == "image" else batch.has_text
        inputs = (batch.pixels,) if modality == "image" else (batch.tokens, batch.mask)
        if bool(present.all()):
            return self._latents(modality, *inputs)
        # Absent items do not pass through the encoder and cost nothing.
        latents: Tensor = self.missing[modality].expand(len(present), -1)
        if not bool(present.any()):
            return latents
        encoded = self._latents(modality, *(tensor[present] for tensor in inputs))
        return latents.to(encoded.dtype).masked_scatter(present[:, None], encoded)

    def _latents(self, modality: Modality, *inputs: Tensor) -> Tensor:
        encoder, embedding = self.modality_modules(modality)
        # Batches of frozen encoders hold features, except for pixels that an attack moved.
        encoded = self.config.frozen and inputs[0].dim() == 2
        latents: Tensor = embedding(inputs[0] if encoded else encoder(*inputs))
        return latents

    def contribute(self, latents: Latents) -> Latents:
        return Latents(*self.contributions(latents.image, latents.text))

    def fuse(self, parts: Latents) -> Tensor:
        logits: Tensor = self.fusion(parts.image, parts.text)
        return logits.float()

    def predict(self, batch: Batch) -> Tensor:
        return self.fuse(self.contribute(self.encode(batch)))

    def unimodal(self, latents: Latents) -> Latents:
        image = self.unimodal_logits(latents.image, "image")
        return Latents(image, self.unimodal_logits(latents.text, "text"))

    def unimodal_logits(self, latent: Tensor, modality: Modality) -> Tensor:
        logits: Tensor = (self.image_head if modality == "image" else self.text_head)(latent)
        return logits.float()

    def blank(self, latents: Latents, modality: Modality, rows: Tensor | None = None) -> Latents:
        latent = latents.of(modality)
        if rows is None:
            return latents.replace(modality, self.missing[modality].expand_as(latent))
        if not bool(rows.any()):
            return latents
        return latents.replace(modality, torch.where(rows[:, None], self.missing[modality], latent))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.multi_label:
            entropy = functional.binary_cross_entropy_with_logits
            return entropy(logits, batch.targets, reduction="none").mean(dim=1)
        return functional.cross_entropy(logits, batch.targets, reduction="none")

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=1)

    def set_prior(self, frequencies: NDArray[np.float64]) -> None:
        self.prior.copy_(torch.from_numpy(frequencies))

    def modality_modules(self, modality: Modality) -> tuple[nn.Module, ...]:
        encoder = self.image_encoder if modality == "image" else self.text_encoder
        return (encoder, self.embedding(modality))

    def embedding(self, modality: Modality) -> nn.Linear:
        return self.image_embedding if modality == "image" else self.text_embedding

    def collate(
        self,
        inputs: Sequence[Inputs],
        targets: Sequence[Sequence[int]] | None = None,
        *,
        raw: bool = False,
    ) -> Batch:
        """Preprocess, tokenise and, with frozen encoders, encode; absent modalities are marked.

        ``raw`` keeps pixels instead of a frozen encoder's features, for gradients on them.
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
        rows = targets or [()] * len(inputs)
        if self.multi_label:
            labels = torch.zeros(len(rows), len(self.classes))
            for row, positive in zip(labels, rows, strict=True):
                row[list(positive)] = 1.0
        else:
            # Without targets, as while answering, no label is read.
            labels = torch.tensor([row[0] if row else 0 for row in rows], dtype=torch.int64)
        batch = Batch(pixels, has_image, tokens, mask, has_text, labels)
        return batch.map(lambda tensor: tensor.to(self.device))

    def split(self, batch: Batch, size: int) -> list[Batch]:
        starts = range(0, len(batch.has_image), size)
        return [batch.map(itemgetter(slice(start, start + size))) for start in starts]

    def pixel_range(self, batch: Batch) -> PixelRange:
        if batch.pixels.dim() == 2:  # features [B, width], where pixels have four dimensions
            raise UserError(
                f"{self.name} has frozen encoders, whose batches hold features and no pixels: "
                "leave out frozen=true to change its images."
            )
        low, high = self.image_encoder.extremes()
        return PixelRange(low.to(batch.pixels), high.to(batch.pixels))

    def pixel_gradient(self, gradient: Tensor) -> Tensor:
        return gradient

    def scored_loss(self, batch: Batch) -> Tensor:
        """Return the loss [B] of the readout's logits, or of the ensemble's mean likelihood."""
        if self.readout == "prior":
            # Logits whose probabilities are the prior.
            logits = torch.logit(self.prior) if self.multi_label else self.prior.log()
            return self.loss(logits.expand(len(batch.has_image), -1), batch)
        losses = [self.loss(logits, batch) for logits in self._readout_logits(batch)]
        if len(losses) == 1:
            return losses[0]
        weights = self._ensemble_weights(batch)
        return -torch.logsumexp(weights.log() - torch.stack(losses, 1), dim=1)

    @torch.no_grad()
    def answer(
        self, inputs: Sequence[Inputs], choices: Sequence[str], pixels: Tensor | None = None
    ) -> Tensor:
        if len(choices) != len(self.classes):
            raise UserError(
                f"{self.name} was given {len(choices)} answers to choose among and has "
                f"{len(self.classes)} classes: score it on the task it was trained on."
            )
        with evaluation_mode(self):
            batch = self.collate(inputs)
            batch = batch if pixels is None else replace(batch, pixels=pixels)
            if self.readout == "prior":
                return self.prior.expand(len(inputs), -1).float().cpu()
            parts = [
                self.probabilities(require_finite(logits)) for logits in self._readout_logits(batch)
            ]
            if len(parts) == 2:
                weights = self._ensemble_weights(batch)
                parts = [weights[:, :1] * parts[0] + weights[:, 1:] * parts[1]]
            return parts[0].float().cpu()

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: Tensor | None = None
    ) -> list[str]:
        """Return the most probable class name of each item, whatever its length."""
        best = self.answer(inputs, self.classes, pixels).argmax(1)
        return [self.classes[index] for index in best.tolist()]

    def count_tokens(self, text: str) -> int:
        return 1

    def _readout_logits(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return logits [B, C] of the readout; of the ensemble those of image and text."""
        if self.readout == "fused":
            return (self.predict(batch),)
        if self.readout == "image" or self.readout == "text":
            latent = self.encode_modality(batch, self.readout)
            return (self.unimodal_logits(latent, self.readout),)
        logits = self.unimodal(self.encode(batch))
        return logits.image, logits.text

    def _ensemble_weights(self, batch: Batch) -> Tensor:
        """Return weights [B, 2] of image and text: equal over the modalities that are present."""
        present = torch.stack([batch.has_image, batch.has_text], dim=1)
        # With neither, both heads answer by their bias.
        counted = (present | ~present.any(dim=1, keepdim=True)).float()
        return counted / counted.sum(dim=1, keepdim=True)


def build(
    name: str,
    config: ClassifierConfig,
    classes: tuple[str, ...],
    multi_label: bool,
    texts: Sequence[str],
    seed: int,
) -> Classifier:
    """Build an untrained classifier; the words of ``texts`` are the tiny tokenizer's vocabulary."""
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
    """Write the trained weights and everything needed to rebuild the classifier around them."""
    from safetensors.torch import save_file

    names = ("name", "classes", "multi_label", "readout")
    description = {name: getattr(model, name) for name in names} | {"config": asdict(model.config)}
    description |= {"extension": asdict(model.extension)} if model.extension else {}
    with describe_last(folder / DESCRIPTION, description):
        for name in ("image_encoder", "text_encoder"):
            getattr(model, name).save(folder / name)
        weights = {name: model.state_dict()[name].contiguous().cpu() for name in _saved(model)}
        save_file(weights, folder / WEIGHTS_FILE)


def saved_classes(folder: Path) -> tuple[str, ...]:
    """Return the classes of a saved classifier; UserError if there is none."""
    return tuple(read_description(folder / DESCRIPTION, "classifier")["classes"])


def load(folder: Path) -> Classifier:
    """Load a saved classifier in evaluation mode; UserError if there is none."""
    from safetensors.torch import load_file

    meta = read_description(folder / DESCRIPTION, "classifier")
    config = ClassifierConfig(**meta["config"])
    image = Encoder.restore(folder / "image_encoder", "image", 0, config.frozen)
    text = Encoder.restore(folder / "text_encoder", "text", config.max_tokens, config.frozen)
    classes = tuple(meta["classes"])
    model = Classifier(meta["name"], config, classes, meta["multi_label"], image, text)
    model.readout = meta["readout"]
    if "extension" in meta:
        extend(model, Extension(**meta["extension"]))
    file = folder / WEIGHTS_FILE
    load_weights(model, load_file(file), _saved(model), file)
    return model.eval()


def _saved(model: Classifier) -> set[str]:
    """Return the names of the weights in a file: frozen pretrained encoders have their source."""
    encoders = {"image_encoder": model.image_encoder, "text_encoder": model.text_encoder}
    absent = {n for n, e in encoders.items() if model.config.frozen and e.source != TINY}
    return {name for name in model.state_dict() if name.partition(".")[0] not in absent}
