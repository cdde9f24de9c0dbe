"""Image only: score of one modality by itself, which a fusion of both has to exceed.

The image encoder, its embedding and a linear head are trained on the task loss with the full
budget; the text encoder never runs. The image head is scored.
"""

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import TwoTower
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About, NoOptions
from steelyard.methods._shared.steps import train_modality

ABOUT = About(
    title="Image only",
    kind="control",
    summary="Trains and scores the image encoder alone.",
)

Config = NoOptions


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    backbone.readout = "image"
    train_modality(backbone, data, meter, "image", seed=seed, until=1.0)
