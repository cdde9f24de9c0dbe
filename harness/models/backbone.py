"""Interface that one method file uses on every kind of model: encode, contribute, fuse.

    latents = backbone.encode(batch)                          # image and text, still separate
    logits = backbone.fuse(backbone.contribute(latents))      # equal to backbone.predict(batch)
    loss = backbone.loss(logits, batch).mean()

``registry`` builds, saves and loads the two implementations, ``Classifier`` and ``Vlm``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from steelyard.harness.core import ranks
from steelyard.harness.core.errors import NonFiniteOutput, UserError
from steelyard.harness.core.examples import Inputs, Modality, ModelKind
from steelyard.harness.core.options import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

Readout = Literal["fused", "image", "text", "ensemble", "prior"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Model-ready inputs of B items."""

    pixels: "Tensor"
    """[B, 3, H, W] float, zeros where the image is missing; of a vlm the processor's output, with
    rows for present images only."""
    has_image: "Tensor"
    """[B] bool."""
    tokens: "Tensor"
    """[B, T] int64: right-padded for a classifier, left-padded prompts for a vlm."""
    mask: "Tensor"
    """[B, T] int64; 1 for real tokens."""
    has_text: "Tensor"
    """[B] bool."""
    targets: "Tensor"
    """[B] int64 class index, [B, C] float 0/1 if multi-label; of a vlm [B, A] int64 answer tokens,
    right-padded with -100."""
    extra: "Mapping[str, Tensor]" = field(default_factory=dict)
    """Further tensors of a vlm by name: positions of image and text, grids, masks."""

    def map(self, change: "Callable[[Tensor], Tensor]") -> "Batch":
        """Apply a function to every tensor, for example to select rows or move to a device."""
        names = [part.name for part in fields(self) if part.name != "extra"]
        tensors: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return Batch(**tensors, extra={name: change(t) for name, t in self.extra.items()})


class Context(Protocol):
    """State that fusing needs beside the latents; methods only pass it on."""

    def select(self, rows: "Tensor", image: "Tensor", text: "Tensor") -> "Context":
        """Return the context of a batch that mixes items; arguments are [N] int64 row indices.

        Row i takes its image from ``image[i]``, its text from ``text[i]`` and its answer from
        ``rows[i]``.
        """


@dataclass(frozen=True, slots=True)
class Latents:
    """Image and text tensors, rows aligned: [B, D] latents, [B, H] contributions or [B, C] logits.

    Of a vlm: [B, I, D] image tokens after the projector, with those between them, and [B, T, D]
    embeddings of the prompt's tokens; logits are [A, V], one row per answer token of the batch.
    """

    image: "Tensor"
    text: "Tensor"
    context: Context | None = None
    """None for a classifier."""

    def of(self, modality: Modality) -> "Tensor":
        return self.image if modality == "image" else self.text

    def replace(self, modality: Modality, value: "Tensor") -> "Latents":
        image, text = (value, self.text) if modality == "image" else (self.image, value)
        return Latents(image, text, self.context)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Optimisation settings that belong to the backbone, so that all methods share them."""

    optimizer: Literal["adamw", "sgd", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """Optimiser of every method; those of 8 bits keep moments in a quarter of the memory, and the
    paged one moves them to the host when memory is short (bitsandbytes)."""
    learning_rate: float = 1e-3
    """Highest rate of the schedule; a method may scale it."""
    weight_decay: float = 0.01
    """Decay of every trained weight per step, times the learning rate."""
    beta1: float = 0.9
    """Decay of AdamW's mean of gradients; momentum of SGD."""
    beta2: float = 0.999
    """Decay of AdamW's mean of squared gradients."""
    warmup: float = 0.05
    """Fraction of a training stage over which the learning rate rises linearly."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all trained weights; a longer one is scaled down to it."""
    batch_size: int = 32
    """Training items per optimiser step; of methods that sample answers, sampled answers."""
    micro_batch_size: int = 0
    """Most items of one pass with gradients, 0 for all of a step: less memory, same gradient."""
    eval_batch_size: int = 0
    """Items answered at once when scored. 0 starts at 64 and is halved whenever memory is short."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """``auto`` is bf16 on a GPU and fp32 on a CPU. Under ``bf16`` every pass of the backbone runs
    in bfloat16 autocast, and so do a step's loss and further modules; logits are always in full
    precision."""

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "warmup"):
            require(self, name, 0 <= getattr(self, name) < 1, "a number from 0 to below 1")
        for name in ("learning_rate", "clip_norm"):
            require(self, name, getattr(self, name) > 0, "a positive number")
        for name in ("weight_decay", "micro_batch_size", "eval_batch_size"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "batch_size", self.batch_size >= 1, "at least 1")

    def micro_size(self, size: int, multiple: int = 1, *, compares: bool = False) -> int:
        """Return the items per pass of a step over ``size`` items: a divisor of ``size``.

        Passes of one step have equal sizes, so that the mean of their means is the step's mean.
        Their number is a multiple of that of the ranks, for which they are made smaller, unless the
        loss ``compares`` the items of a pass: then smaller ones would be another loss.

        Raises:
            UserError: no such size.
        """
        most, world = self.micro_batch_size or size, ranks.world()
        sizes = range(multiple, min(most, size) + 1, multiple)
        parts = [part for part in sizes if size % part == 0]
        largest = max(parts, default=size)
        dealt = max((part for part in parts if size // part % world == 0), default=0)
        if world > 1 and not dealt:
            raise UserError(
                f"{world} ranks cannot share the {size} items of a step equally: give a "
                f"--backbone-set batch_size= that is a multiple of {world * multiple}, and data of "
                "as many items."
            )
        if compares and dealt != largest and world > 1:
            raise UserError(
                f"This method's loss compares the items of a pass, which has {largest} of a step's "
                f"{size}, so that {world} ranks cannot share one: give --backbone-set "
                f"micro_batch_size={dealt}, to a run of one process as well."
            )
        return dealt if world > 1 else largest

    @classmethod
    def of(cls, config: "Recipe") -> "Recipe":
        """Return the recipe alone of a backbone's configuration, which has further options."""
        return cls(**{setting.name: getattr(config, setting.name) for setting in fields(cls)})


@dataclass(frozen=True, slots=True)
class PixelRange:
    """Bounds of valid ``Batch.pixels``, broadcastable to them, in the model's own units."""

    low: "Tensor"
    high: "Tensor"
    """``high - low`` is the full range of an image, 255 grey levels."""


class Backbone(Protocol):
    """Everything a method may use. ``fuse(contribute(encode(batch)))`` is the usual prediction.

    Logits have one row per decision: [B, C] over classes, or of a vlm [A, V] over the vocabulary at
    the A answer tokens of the batch in row order, teacher-forced.
    """

    name: str
    kind: ModelKind
    classes: tuple[str, ...]
    """Empty for a vlm, which answers any question."""
    multi_label: bool
    """Always false for a vlm: its training target is one answer text."""
    recipe: Recipe
    width: int
    """Size D of both modalities' latents."""

    def encode(self, batch: Batch) -> Latents:
        """Return latents of both modalities before fusion, missing ones already blanked."""

    def contribute(self, latents: Latents) -> Latents:
        """Return each modality's linear contribution to the fusion; the latents of a vlm."""

    def fuse(self, parts: Latents) -> "Tensor":
        """Return logits from contributions."""

    def predict(self, batch: Batch) -> "Tensor": ...

    def unimodal(self, latents: Latents) -> Latents:
        """Return logits of each modality alone: by its own linear head, or of a vlm by blanking."""

    def blank(self, latents: Latents, modality: Modality, rows: "Tensor | None" = None) -> Latents:
        """Make one modality missing, in all rows or where ``rows`` is true."""

    def loss(self, logits: "Tensor", batch: Batch) -> "Tensor":
        """Return the task loss of each item: [B].

        Cross entropy; binary, averaged over classes, if multi-label; of a vlm averaged over tokens.
        """

    def scored_loss(self, batch: Batch) -> "Tensor":
        """Return the negative log-likelihood of each correct answer as it is scored: [B].

        Of a classifier that of the readout, which may not depend on the pixels.
        """

    def parameters(self) -> "Iterator[nn.Parameter]": ...

    def train(self, mode: bool = True) -> object:
        """Switch dropout and the like on or off; frozen encoders stay in evaluation mode."""

    def modality_modules(self, modality: Modality) -> "tuple[nn.Module, ...]":
        """Return the modules of one modality only; of a vlm's text, the shared language model."""

    def embedding(self, modality: Modality) -> "nn.Module":
        """Return the last layer before fusion; of a vlm the last block for both modalities."""

    def split(self, batch: Batch, size: int) -> list[Batch]:
        """Split a batch into batches of at most ``size`` items, in order and padded as it is."""

    def pixel_range(self, batch: Batch) -> PixelRange:
        """Return the bounds within which ``batch.pixels`` are an image."""

    def pixel_gradient(self, gradient: "Tensor") -> "Tensor":
        """Return the gradient on ``batch.pixels`` with copies of one pixel averaged."""

    def answer(
        self, inputs: Sequence[Inputs], choices: Sequence[str], pixels: "Tensor | None" = None
    ) -> "Tensor":
        """Return probabilities [B, C] of these answers, in evaluation mode and without gradient.

        A classifier answers by its current readout; its classes are the choices. ``pixels``
        replace the processor's output for the images.
        """

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: "Tensor | None" = None
    ) -> list[str]:
        """Return greedy answers as text, in evaluation mode and without gradient."""

    def count_tokens(self, text: str) -> int:
        """Return the length of an answer; a classifier's class name counts as one."""


class TwoTower(Backbone, Protocol):
    """Further operations of the classifier, whose modalities can be run separately."""

    readout: Readout
    """Prediction that is scored after training; set by methods that train one modality."""

    def encode_modality(self, batch: Batch, modality: Modality) -> "Tensor":
        """Return latents [B, D] of one modality; the other encoder is not run."""

    def unimodal_logits(self, latent: "Tensor", modality: Modality) -> "Tensor":
        """Return logits [B, C] of one modality's own head from its latent [B, D]."""

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Return softmax, or element-wise sigmoid if multi-label: [B, C]."""

    def set_prior(self, frequencies: "NDArray[np.float64]") -> None:
        """Set the answer of the ``prior`` readout: the fraction of items of each class [C]."""


def require_finite(values: "Tensor") -> "Tensor":
    """Return values [B, ...] unchanged; NonFiniteOutput names the rows with a NaN or infinity."""
    finite = values.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise NonFiniteOutput((~finite).nonzero()[:, 0].tolist())
    return values


@contextmanager
def evaluation_mode(module: "nn.Module") -> Iterator[None]:
    """Switch a module to evaluation mode inside, and back to its mode afterwards."""
    # ``eval()`` and ``train()`` alone would not return to the mode before.
    training = module.training
    module.train(False)
    try:
        yield
    finally:
        module.train(training)
