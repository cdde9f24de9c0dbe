"""The interface that one method file uses on every kind of model: encode, contribute, fuse."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from steelyard.harness.core.examples import Inputs, Kind, Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

Readout = Literal["fused", "image", "text", "ensemble", "prior"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Model-ready inputs of B items."""

    pixels: "Tensor"
    """[B, 3, H, W] float, zeros where the image is missing; a vlm's rows are whatever its
    processor makes of the images that are there."""
    has_image: "Tensor"
    """[B] bool."""
    tokens: "Tensor"
    """[B, T] int64: right-padded for a classifier, left-padded prompts for a vlm."""
    mask: "Tensor"
    """[B, T] int64; 1 for real tokens."""
    has_text: "Tensor"
    """[B] bool."""
    targets: "Tensor"
    """[B] int64 class index, [B, C] float 0/1 when multi-label; for a vlm [B, A] int64 answer
    tokens, right-padded with -100."""
    extra: "Mapping[str, Tensor]" = field(default_factory=dict)
    """A vlm's other tensors by name: where the image and the text side lie, grids, masks."""


class Context(Protocol):
    """What fusing needs beside the two sides' tensors; methods only pass it on."""

    def select(self, rows: "Tensor", image: "Tensor", text: "Tensor") -> "Context":
        """The context of a batch whose row i takes its image side from row ``image[i]``, its text
        side from row ``text[i]`` and its answer from row ``rows[i]``; all [N] int64."""


@dataclass(frozen=True, slots=True)
class Latents:
    """One tensor a side, rows aligned: [B, D] latents, [B, H] contributions or [B, C] logits.

    Of a vlm: [B, I, D] image tokens after the projector and [B, T, D] embeddings of the prompt's
    tokens; logits are [A, V], one row an answer token of the batch.
    """

    image: "Tensor"
    text: "Tensor"
    context: Context | None = None
    """None for a classifier."""

    def of(self, modality: Modality) -> "Tensor":
        """The tensor of one side."""
        return self.image if modality == "image" else self.text

    def replace(self, modality: Modality, value: "Tensor") -> "Latents":
        """The same pair with one side exchanged."""
        image, text = (value, self.text) if modality == "image" else (self.image, value)
        return Latents(image, text, self.context)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Optimisation settings that belong to the backbone, so that every method shares them."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 32
    warmup: float = 0.05
    """Share of a training stage over which the learning rate rises linearly."""
    clip_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` trains under autocast with full-precision weights."""


@dataclass(frozen=True, slots=True)
class PixelRange:
    """Bounds of valid ``Batch.pixels``, broadcastable to them, in the model's own units."""

    low: "Tensor"
    high: "Tensor"
    """``high - low`` is the full range of an image, 255 grey levels."""


class Backbone(Protocol):
    """What a method may use. ``fuse(contribute(encode(batch)))`` is the ordinary prediction.

    Logits have one row a decision: [B, C] over classes, or for a vlm [A, V] over the vocabulary at
    the A answer tokens of the batch in row order, teacher-forced.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    """Empty for a vlm, which answers any question."""
    multi_label: bool
    """Always false for a vlm: its training target is one answer text."""
    recipe: Recipe
    width: int
    """Size D of both sides' latents."""

    def encode(self, batch: Batch) -> Latents:
        """Latents of both sides before they meet, missing sides already blanked."""

    def contribute(self, latents: Latents) -> Latents:
        """Each side's own linear contribution to the fusion, row by row; the identity of a vlm."""

    def fuse(self, parts: Latents) -> "Tensor":
        """Logits from contributions."""

    def predict(self, batch: Batch) -> "Tensor":
        """``fuse(contribute(encode(batch)))``."""

    def unimodal(self, latents: Latents) -> Latents:
        """Logits of each side alone: by its own linear head, or of a vlm with the other blanked."""

    def blank(self, latents: Latents, modality: Modality, rows: "Tensor | None" = None) -> Latents:
        """Replace one side by what "missing" means here, in all rows or where ``rows`` is true."""

    def loss(self, logits: "Tensor", batch: Batch) -> "Tensor":
        """Task loss of each item: [B]. Cross entropy, mean binary cross entropy, or the mean
        negative log-likelihood of a vlm's answer tokens."""

    def scored_loss(self, batch: Batch) -> "Tensor":
        """Negative log-likelihood of each right answer as it is scored: [B]. That of the readout,
        or of a vlm's answer tokens; independent of pixels that are not looked at."""

    def parameters(self) -> "Iterator[nn.Parameter]":
        """All parameters."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout and the like on or off; frozen encoders stay in evaluation mode."""

    def modality_modules(self, modality: Modality) -> "tuple[nn.Module, ...]":
        """The modules that only serve one side; of a vlm's text, the shared language model."""

    def embedding(self, modality: Modality) -> "nn.Module":
        """Where a gradient of one side is probed cheaply: the last layer before latents meet; of
        a vlm the last block of the language model, for either side."""

    def pixel_range(self, batch: Batch) -> PixelRange:
        """Bounds within which ``batch.pixels`` are an image."""

    def pixel_gradient(self, gradient: "Tensor") -> "Tensor":
        """A gradient on ``batch.pixels`` made one that an image can follow, where the processor
        copies pixels (two equal frames of a still image); otherwise as it is."""

    def answer(
        self, inputs: Sequence[Inputs], choices: Sequence[str], pixels: "Tensor | None" = None
    ) -> "Tensor":
        """Probabilities [B, C] of these answers, in evaluation mode and without gradient.

        A classifier answers by its current readout; its classes are the choices. ``pixels`` are
        seen in place of what the processor makes of the images.
        """

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: "Tensor | None" = None
    ) -> list[str]:
        """Greedy answers in words, in evaluation mode and without gradient; ``pixels`` as above."""

    def count_tokens(self, text: str) -> int:
        """Length of an answer; a classifier's class name counts as one."""


class TwoTower(Backbone, Protocol):
    """What only the classifier offers: sides that can be run and read apart."""

    readout: Readout
    """Which prediction is scored after training; a method that trains one side sets it."""

    def encode_modality(self, batch: Batch, modality: Modality) -> "Tensor":
        """Latents [B, D] of one side alone; the other side's encoder is not run."""

    def unimodal_logits(self, latent: "Tensor", modality: Modality) -> "Tensor":
        """Logits [B, C] of one side's own head from its latent [B, D]."""

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Softmax, or element-wise sigmoid when multi-label: [B, C]."""

    def set_prior(self, frequencies: "NDArray[np.float64]") -> None:
        """Share of training items that carry each class [C], what the ``prior`` readout answers."""
