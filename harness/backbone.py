"""The interface that one method file uses on every kind of model: encode, contribute, fuse."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor, nn

Side = Literal["image", "text"]
SIDES: tuple[Side, Side] = ("image", "text")
Readout = Literal["fused", "image", "text", "ensemble", "prior"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """One item as a person sees it; a corruption edits this and nothing else."""

    image: "Image | None"
    evidence: str | None
    """Title, caption or plot. The instruction is not here, so no corruption can touch it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Model-ready inputs of B items."""

    pixels: "Tensor"
    """[B, 3, H, W] float; zeros where the image is missing."""
    has_image: "Tensor"
    """[B] bool."""
    tokens: "Tensor"
    """[B, T] int64, right-padded."""
    mask: "Tensor"
    """[B, T] int64; 1 for real tokens."""
    has_text: "Tensor"
    """[B] bool."""
    targets: "Tensor"
    """[B] int64 class index, or [B, C] float 0/1 when multi-label."""


@dataclass(frozen=True, slots=True)
class Latents:
    """One tensor a side, rows aligned: [B, D] latents, [B, H] contributions or [B, C] logits."""

    image: "Tensor"
    text: "Tensor"

    def of(self, side: Side) -> "Tensor":
        """The tensor of one side."""
        return self.image if side == "image" else self.text

    def replace(self, side: Side, value: "Tensor") -> "Latents":
        """The same pair with one side exchanged."""
        return Latents(value, self.text) if side == "image" else Latents(self.image, value)


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


class Backbone(Protocol):
    """What a method may use. ``fuse(contribute(encode(batch)))`` is the ordinary prediction."""

    name: str
    kind: Literal["classifier", "vlm"]
    classes: tuple[str, ...]
    multi_label: bool
    recipe: Recipe
    readout: Readout
    """Which prediction is scored after training; a method that trains one side sets it."""
    width: int
    """Size D of both sides' latents."""

    def encode(self, batch: Batch) -> Latents:
        """Latents of both sides before they meet, missing sides already blanked: [B, D] each."""

    def encode_side(self, batch: Batch, side: Side) -> "Tensor":
        """Latents [B, D] of one side alone; the other side's encoder is not run."""

    def contribute(self, latents: Latents) -> Latents:
        """Each side's own linear contribution to the fusion: [B, H] each, row by row."""

    def fuse(self, parts: Latents) -> "Tensor":
        """Class logits [B, C] from contributions."""

    def predict(self, batch: Batch) -> "Tensor":
        """``fuse(contribute(encode(batch)))``: [B, C]."""

    def unimodal(self, latents: Latents) -> Latents:
        """Logits [B, C] of each side's own linear head."""

    def unimodal_side(self, latent: "Tensor", side: Side) -> "Tensor":
        """Logits [B, C] of one side's own head from its latent [B, D]."""

    def blank(self, latents: Latents, side: Side, rows: "Tensor | None" = None) -> Latents:
        """Replace one side by what "missing" means here, in all rows or where ``rows`` is true."""

    def loss(self, logits: "Tensor", batch: Batch) -> "Tensor":
        """Task loss of each item: [B]. Cross entropy, or mean binary cross entropy."""

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Softmax, or element-wise sigmoid when multi-label: [B, C]."""

    def parameters(self) -> "Iterator[nn.Parameter]":
        """All parameters."""

    def set_prior(self, frequencies: "NDArray[np.float64]") -> None:
        """Share of training items that carry each class [C], what the ``prior`` readout answers."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout and the like on or off; frozen encoders stay in evaluation mode."""

    def side_modules(self, side: Side) -> "tuple[nn.Module, ...]":
        """Encoder and embedding layer of one side, without heads."""

    def embedding(self, side: Side) -> "nn.Linear":
        """The embedding layer of one side: the last layer before latents meet."""

    def collate(
        self, inputs: Sequence[Inputs], targets: Sequence[Sequence[int]] | None = None
    ) -> Batch:
        """Preprocess and tokenise; items without an image or text are marked, not invented."""

    def answer(self, inputs: Sequence[Inputs]) -> "Tensor":
        """Class probabilities [B, C] by the current readout, in evaluation mode, no gradient."""
