"""Two models that never meet: each side trained alone on half the budget, probabilities averaged.

An honest rival of every fusion method: no imbalance can arise between models trained apart. At
test time a side that is missing does not vote.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import TwoTower
from steelyard.harness.training.search import Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared.pretrain import train_modality

ABOUT = About(
    title="Late ensemble",
    kind="control",
    summary="Averages the probabilities of two models trained apart on half the budget each.",
)


@dataclass(frozen=True, slots=True)
class Config:
    """No options."""


SEARCH: Space = {}  # nothing but the learning rate, which is searched for all


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train the image side with the first half of the budget and the text side with the rest."""
    backbone.readout = "ensemble"
    train_modality(backbone, data, meter, "image", seed=seed, until=0.5)
    train_modality(backbone, data, meter, "text", seed=seed, until=1.0)
