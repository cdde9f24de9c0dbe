"""The image alone: how much of the task one side can do, and the floor a fusion must clear.

The image encoder, its embedding and a linear head are trained by the task loss with the whole
budget; the text encoder is never run. Scored by the image head.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import TwoTower
from steelyard.harness.training.search import Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared.pretrain import train_modality

ABOUT = About(
    title="Image only",
    kind="control",
    summary="Trains and scores the image encoder alone.",
)


@dataclass(frozen=True, slots=True)
class Config:
    """No options."""


SEARCH: Space = {}  # nothing but the learning rate, which is searched for all


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train the image side with the whole budget."""
    backbone.readout = "image"
    train_modality(backbone, data, meter, "image", seed=seed, until=1.0)
