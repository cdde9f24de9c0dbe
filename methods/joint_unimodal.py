"""Joint training with one unimodal head per modality: L = L_fused + weight * (L_image + L_text).

Also called multi-loss training or auxiliary unimodal losses. A regulariser that uses unimodal
heads has to beat this control: otherwise its gain may come from the heads alone. The fused
prediction is scored. Default weight 1, as in multi-loss baselines of the literature.

It trains classifiers only. A vision-language model has no heads, and its loss on the question
without the image would train the language prior.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.training.fit import StepResult, fit
from steelyard.harness.training.search import LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="Joint + unimodal heads",
    kind="control",
    summary="Joint training plus the task loss of each modality by itself.",
)


@dataclass(frozen=True, slots=True)
class Config:
    weight: float = 1.0
    """Factor on L_image + L_text."""


SEARCH: Space = {
    # 1 is usual in the literature; the range is ours.
    "weight": LogUniform(0.1, 3.0),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise the sum of the three task losses until the budget is spent."""

    def step(batch: Batch) -> StepResult:
        latents = backbone.encode(batch)
        fused = backbone.loss(backbone.fuse(backbone.contribute(latents)), batch).mean()
        if config.weight == 0:
            return fused, {}
        heads = backbone.unimodal(latents)
        image = backbone.loss(heads.image, batch).mean()
        text = backbone.loss(heads.text, batch).mean()
        logs = {"loss_image": image.detach(), "loss_text": text.detach()}
        return fused + config.weight * (image + text), logs

    fit(backbone, data, meter, step, seed=seed, state=())
