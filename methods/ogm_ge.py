"""OGM-GE: on-the-fly gradient modulation with generalisation enhancement.

Peng, Wei, Deng, Wang, Hu: "Balanced Multimodal Learning via On-the-fly Gradient Modulation",
CVPR 2022, arXiv 2203.15332. In each step, with r_m the logits that modality m alone contributes:

    s_m = Σ_i softmax(r_m)[y_i],      ρ_m = s_m / s_other
    k_m = 1 - tanh(alpha ρ_m) if ρ_m > 1, else 1
    grad of encoder m  <-  k_m grad + h,      h ~ N(0, std(grad)²) for each tensor

so the modality that predicts the truth better learns more slowly; h is the generalisation
enhancement (``noise``).

The paper assumes a linear fusion of convolutional encoders. Where it is silent, ours:
- r_m = fuse(c_m, 0) - fuse(0, 0) / 2 with contributions c_m. For an additive head this is
  W_m z_m + b / 2, exactly as published. With further layers it is our reading: the head's output
  for c_m alone, minus half of its output for no contribution at all, so that each modality is
  credited with half of the bias.
- softmax(r_m)[y] is computed as exp(-task loss), which is the geometric mean over labels if an
  item has several.
- All tensors of an encoder and its embedding layer are modulated. The public code modulates 4-D
  convolution weights only, which the blocks of transformers do not have. std is the population's,
  so a tensor of one element gets no noise.
- Modulation lasts for the full training; the public code stops after 50 of 100 epochs.
- The noise has the spread of the unscaled gradient and reaches both modalities, as in the public
  code.
- alpha is 0.8. The public code has no default; ports use 0.6 to 1.0, depending on the data set.

The paper trains with SGD. Adam divides by a running norm of the gradient, which cancels a constant
k_m: only changes of k_m and the noise have an effect. The backbone option ``optimizer=sgd`` is the
published setting.
"""

import math
from dataclasses import dataclass

import torch

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.examples import MODALITIES, Modality
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch, Latents
from steelyard.harness.training.fit import StepResult, fit
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="OGM-GE",
    kind="optimisation",
    summary="Scales down the gradients of the modality that currently answers better and adds "
    "gradient noise.",
    paper="Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, "
    "CVPR 2022, arXiv 2203.15332",
)


@dataclass(frozen=True, slots=True)
class Config:
    alpha: float = 0.8
    """Strength of the modulation; 0 is joint training."""
    noise: bool = True
    """Add noise as large as the gradient's spread (GE)."""


SEARCH: Space = {
    # Ports use 0.6 to 1.0; values near 0.1 are almost joint training.
    "alpha": Uniform(0.1, 1.0),
    "noise": Choice((True, False)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train jointly with modulated encoder gradients until the budget is spent."""
    device = next(backbone.parameters()).device
    # On the device, because noise as large as all gradients is slow to copy: unlike elsewhere, a
    # seed gives other numbers on another kind of device.
    generator = torch.Generator(device).manual_seed(seed_for(seed, "ogm_ge", "noise"))
    current: dict[Modality, float] = {}

    def step(batch: Batch) -> StepResult:
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

    fit(backbone, data, meter, step, seed=seed, after_backward=after_backward, state=[generator])


@torch.no_grad()
def scores(backbone: Backbone, parts: Latents, batch: Batch) -> tuple[float, float]:
    """Return s_image and s_text, as the mean over the batch instead of the sum."""
    nothing = Latents(torch.zeros_like(parts.image), torch.zeros_like(parts.text))
    half_bias = backbone.fuse(nothing) / 2  # of an additive head: half of its bias

    def score(modality: Modality) -> float:
        logits = backbone.fuse(nothing.replace(modality, parts.of(modality))) - half_bias
        mean = (-backbone.loss(logits, batch)).exp().mean()
        return float(mean.clamp(min=torch.finfo(mean.dtype).tiny))  # it becomes a denominator

    return score("image"), score("text")


def coefficients(image: float, text: float, alpha: float) -> dict[Modality, float]:
    """Return k_m from positive scores s_m: below 1 for the better modality, else 1."""
    if image > text:
        return {"image": 1.0 - math.tanh(alpha * image / text), "text": 1.0}
    # Equal scores count as the text ahead.
    return {"image": 1.0, "text": 1.0 - math.tanh(alpha * text / image)}


@torch.no_grad()
def modulate(
    parameter: torch.nn.Parameter, coefficient: float, generator: torch.Generator | None
) -> None:
    """Scale a parameter's gradient in place; with a generator, add noise of the gradient's std."""
    gradient = parameter.grad
    if gradient is None:
        return
    if generator is None:
        gradient.mul_(coefficient)
        return
    spread = gradient.std(correction=0)
    noise = torch.empty_like(gradient).normal_(generator=generator)
    gradient.mul_(coefficient).add_(noise * spread)
