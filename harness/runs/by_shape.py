"""Plain step of a vision-language model by the shapes of its weights, and a stand-in for methods.

A model of 7B cannot be tried beside the user's other work, and its weights may be elsewhere. Its
decoder and head run on tensors without values, at the lengths of real items, which gives FLOPs and
memory of a plain step. What a method does with such steps is tried on ``tiny-vlm``: its phases are
multiplied by the ratio of the two models' plain steps, and so are its activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from steelyard.harness.budget.flops import total_counter
from steelyard.harness.budget.live_bytes import (
    ACTIVATIONS,
    COPIES,
    GRADIENTS,
    OPTIMISER,
    WEIGHTS,
    LiveBytes,
)
from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.models import vlm_build
from steelyard.harness.models.vlm import vision_modules
from steelyard.harness.models.vlm_config import TINY, VlmConfig
from steelyard.harness.models.vlm_layout import IGNORED
from steelyard.harness.records.budget import parse_budget
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import trial
from steelyard.harness.runs.trial import Course
from steelyard.harness.training.train_data import TrainData, train_data

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

MOMENTS = {"adamw": 2.0, "sgd": 1.0}
"""State of an optimiser, in units of the trained weights; of one with 8 bits half of a unit."""
FOUR_BITS = 4.5 / 16
"""Weight of 4 bits with its scales, as a fraction of one in bf16."""
SHARED = ("tune", "lora_rank", "lora_alpha", "batch_size", "micro_batch_size", "checkpointing",
          "max_answer_tokens")  # fmt: skip
"""Options that decide what a method holds and how it goes through its items."""


@dataclass(frozen=True, slots=True)
class PlainStep:
    """Step of fine-tuning, and sizes of the model."""

    flops: float
    """Of the decoder and head over a batch, forward and back."""
    activations: float
    """Bytes at the dearest moment of a micro-batch."""
    image_flops: float
    """Of one image in the vision tower."""
    weights: float
    """Bytes of all weights."""
    trained: float
    """Bytes of those that learn."""
    moments: float
    """Bytes of the optimiser's state."""
    saved: float
    """Bytes of the weights that a run saves."""

    def ratio(self, toy: "Classifier | Vlm", data: TrainData) -> float:
        """Return this step's cost in steps of a stand-in."""
        return self.flops / trial.plain_step(toy, data)[0]


def plain_step(name: str, config: VlmConfig, task: str, corpus: Corpus) -> PlainStep:
    """Count a plain step without weights, at the lengths of evenly spaced training items.

    FLOPs are those of a micro-batch of mean length, padding included, and memory is that of the
    longest.

    Raises:
        UserError: the checkpoint's configuration or processor is not at hand.
    """
    backbone, shapes = vlm_build.build_shapes(name, config)
    recipe = backbone.recipe
    examples = corpus.splits["train"]
    rows = min(recipe.micro_size(recipe.batch_size), len(examples))
    count = min(trial.BATCHES, len(examples) // rows) * rows
    spaced = [examples[index * len(examples) // count] for index in range(count)]
    data = train_data(backbone, task, replace(corpus, splits={"train": tuple(spaced)}))
    batches = [data.gather(range(start, start + rows)) for start in range(0, count, rows)]
    lengths = [batch.tokens.shape[1] + batch.targets.shape[1] for batch in batches]
    answered = round(fmean(int((batch.targets != IGNORED).sum()) for batch in batches))

    def run(length: int) -> tuple[float, float]:
        """Return FLOPs and bytes of activations of a micro-batch of this length."""
        dtype = backbone.base.get_input_embeddings().weight.dtype
        with shapes, LiveBytes(backbone) as memory, total_counter() as counter:
            embedded = torch.zeros(rows, length, backbone.width, dtype=dtype)
            embedded.requires_grad_(config.tune == "full")
            decoder, head = backbone.language_model, backbone.base.get_output_embeddings()
            states = decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
            logits = head(states.flatten(0, 1)[:answered]).float()
            loss = cross_entropy(logits, torch.zeros(answered, dtype=torch.int64))
            torch.autograd.backward(loss)
        backbone.zero_grad()
        return counter.get_total_flops(), memory.most_of[ACTIVATIONS]

    _, activations = run(max(lengths))
    flops = run(round(fmean(lengths)))[0] * recipe.batch_size / rows
    parameters = list(backbone.parameters())
    trained = sum(weight.nbytes for weight in parameters if weight.requires_grad)
    weights = sum(weight.nbytes for weight in parameters)
    if config.quantize == "4bit":
        decoder = backbone.language_model.layers.parameters()
        small = sum(weight.nbytes for weight in decoder if not weight.requires_grad)
        weights -= round((1 - FOUR_BITS) * small)
    image = _image_flops(backbone, batches[0].pixels, int(batches[0].has_image.sum()))
    if config.vision == "trained":
        flops, image = flops + 3 * image * recipe.batch_size, 0.0
    return PlainStep(
        flops,
        activations,
        image,
        weights,
        trained,
        MOMENTS.get(config.optimizer, 0.5) * trained,
        trained if config.tune == "lora" else weights,
    )


def _image_flops(backbone: "Vlm", pixels: torch.Tensor, images: int) -> float:
    """Return the FLOPs of one image in the tower: two a weight and patch.

    Attention among patches, some percent of it, is left out.
    """
    tower = vision_modules(backbone.base)[0]
    count = sum(weight.numel() for weight in tower.parameters())
    vision = backbone.base.config.vision_config
    size = getattr(vision, "patch_size", 14)
    side = size[0] if isinstance(size, (list, tuple)) else size
    # Qwen-VL has a row per patch, others whole images or tiles.
    patches = len(pixels) if pixels.dim() == 2 else pixels[:, 0].numel() / side**2
    if pixels.dim() == 5:  # tiles of each image
        patches = pixels[:, :, 0].numel() / side**2
    return 2.0 * count * patches / max(1, images)


def course(
    spec: RunSpec,
    plain: PlainStep,
    toy: "Classifier | Vlm",
    data: TrainData,
    examples: Sequence[Example],
) -> Course:
    """Try a run's method on a stand-in, and multiply by the ratio of the plain steps."""
    flops, activations = trial.plain_step(toy, data)
    spec, ratio = replace(spec, backbone=toy.name, backbone_options={}), plain.flops / flops
    if spec.track == "compute":
        budget = parse_budget(spec.budget).flops / ratio
        spec = replace(spec, budget=f"{budget:.6g}")
    tried = trial.course(spec, toy, data, examples, 0.0, plain.image_flops / ratio)
    copies = tried.memory.get(COPIES, 0) / tried.memory[WEIGHTS]
    memory = {
        WEIGHTS: plain.weights,
        # A reference of a run with adapters is the model without them.
        COPIES: copies * plain.weights,
        GRADIENTS: plain.trained,
        OPTIMISER: plain.moments,
        # The stand-in's dearest moment may be its optimiser's step.
        ACTIVATIONS: plain.activations * tried.activations / activations,
    }
    return replace(
        tried, flops={phase: ratio * f for phase, f in tried.flops.items()}, memory=memory
    )


def stand_in(spec: RunSpec, config: VlmConfig) -> RunSpec:
    """Return the spec of the same method on ``tiny-vlm``, with the options that it shares."""
    options = {name: getattr(config, name) for name in SHARED}
    # Hashes of pixels would be most of its memory.
    options["feature_cache_gb"] = 0.0
    return replace(spec, task="instruct", backbone=TINY, backbone_options=options)
