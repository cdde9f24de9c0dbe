"""Joint training with a unimodal head a side: L = L_fused + weight * (L_image + L_text).

Known as multi-loss or auxiliary unimodal losses. It is the control that regularisers built on
unimodal heads have to beat: without it their gain cannot be told from that of the heads. A
vision-language model has no heads: L_image and L_text are its own losses with the other side
blanked, two more passes of the language model a step.
Default weight 1, as multi-loss baselines in the literature use. Scored by the fused prediction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="Joint + unimodal heads",
    kind="control",
    summary="Joint training plus the task loss of each side by itself.",
    backbones=("classifier", "vlm"),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    weight: float = 1.0
    """Weight of each unimodal loss."""


SEARCH: Space = {
    # 1 is usual; the range is ours.
    "weight": LogUniform(0.1, 3.0),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise the sum of the three task losses until the budget is used."""

    def step(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        latents = backbone.encode(batch)
        heads = backbone.unimodal(latents)
        fused = backbone.loss(backbone.fuse(backbone.contribute(latents)), batch).mean()
        image = backbone.loss(heads.image, batch).mean()
        text = backbone.loss(heads.text, batch).mean()
        logs = {"loss_image": image.detach(), "loss_text": text.detach()}
        return fused + config.weight * (image + text), logs

    fit(backbone, data, meter, step, seed=seed)
