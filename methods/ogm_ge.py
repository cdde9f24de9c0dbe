"""OGM-GE: on-the-fly gradient modulation with generalisation enhancement.

Peng, Wei, Deng, Wang, Hu: "Balanced Multimodal Learning via On-the-fly Gradient Modulation",
CVPR 2022, arXiv 2203.15332. Each step, with r_m the logits that side m alone contributes:

    s_m = Σ_i softmax(r_m)[y_i],      ρ_m = s_m / s_other
    k_m = 1 - tanh(alpha ρ_m) if ρ_m > 1, else 1
    grad of encoder m  <-  k_m grad + h,      h ~ N(0, std(grad)²) for each tensor

so the side that answers better learns slower; h is the enhancement (``noise``).

Choices, where the paper assumes a linear fusion of convolutional encoders:
- r_m is fuse(c_m, 0) - fuse(0, 0) / 2. For an additive head this is W_m z_m + b / 2 exactly as
  published; with later layers it is our reading: the head with the other contribution zeroed,
  less half of what it says to nothing, so that neither side is credited with the bias.
- The probability of the truth is exp(-task loss): softmax(r_m)[y], or the geometric mean over
  labels when multi-label.
- All tensors of encoder and embedding layer are modulated; the public code touches 4-D
  convolution weights only, which transformers do not have in their blocks. std is the
  population's, so that a tensor of one element gets no noise.
- Modulation runs for the whole training; the public code stops after 50 of 100 epochs.
- The noise is of the unscaled gradient and reaches both sides, as in the public code.
- alpha has no default in the public code; ports use 0.6 to 1.0 by data set; 0.8 here.

The paper trains with SGD. Adam divides by a running norm of the gradient, so it undoes any
steady k_m: only changes of k_m, and the noise, are then felt. ``optimizer=sgd`` of the backbone
is the published setting.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.examples import MODALITIES, Modality
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch, Latents
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="OGM-GE",
    kind="optimisation",
    summary="Scales down the gradients of the side that currently answers better and adds "
    "gradient noise.",
    paper="Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, "
    "CVPR 2022, arXiv 2203.15332",
)


@dataclass(frozen=True, slots=True)
class Config:
    """Strength of the modulation, and whether noise is added."""

    alpha: float = 0.8
    noise: bool = True


SEARCH: Space = {
    # Ports use 0.6 to 1.0; the lower end comes near plain training.
    "alpha": Uniform(0.1, 1.0),
    "noise": Choice((True, False)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Joint training with modulated encoder gradients until the budget is used."""
    device = next(backbone.parameters()).device
    generator = torch.Generator(device).manual_seed(seed_for(seed, "ogm_ge", "noise"))
    current: dict[Modality, float] = {}

    def step(batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        parts = backbone.contribute(backbone.encode(batch))
        loss = backbone.loss(backbone.fuse(parts), batch).mean()
        image, text = scores(backbone, parts, batch)
        current.update(coefficients(image, text, config.alpha))
        return loss, {
            "ratio": image / text,
            "coefficient_image": current["image"],
            "coefficient_text": current["text"],
        }

    def after_backward() -> None:
        for modality in MODALITIES:
            for module in backbone.modality_modules(modality):
                for parameter in module.parameters():
                    modulate(parameter, current[modality], generator if config.noise else None)

    fit(backbone, data, meter, step, seed=seed, after_backward=after_backward)


@torch.no_grad()
def scores(backbone: Backbone, parts: Latents, batch: Batch) -> tuple[float, float]:
    """s_image and s_text: mean probability of the truth by each side's contribution alone."""
    nothing = Latents(torch.zeros_like(parts.image), torch.zeros_like(parts.text))
    half = backbone.fuse(nothing) / 2

    def score(alone: Latents) -> float:
        mean = (-backbone.loss(backbone.fuse(alone) - half, batch)).exp().mean()
        return float(mean.clamp(min=torch.finfo(mean.dtype).tiny))  # a ratio of scores follows

    return (
        score(nothing.replace("image", parts.image)),
        score(nothing.replace("text", parts.text)),
    )


def coefficients(image: float, text: float, alpha: float) -> dict[Modality, float]:
    """k of each side from positive scores: below one for the better side, one for the other."""
    if image > text:
        return {"image": 1.0 - math.tanh(alpha * image / text), "text": 1.0}
    return {"image": 1.0, "text": 1.0 - math.tanh(alpha * text / image)}


@torch.no_grad()
def modulate(
    parameter: torch.nn.Parameter, coefficient: float, generator: torch.Generator | None
) -> None:
    """Scale a parameter's gradient in place; with a generator, add noise of its own spread."""
    gradient = parameter.grad
    if gradient is None:
        return
    if generator is None:
        gradient.mul_(coefficient)
        return
    spread = gradient.std(correction=0)
    noise = torch.empty_like(gradient).normal_(generator=generator)
    gradient.mul_(coefficient).add_(noise * spread)
