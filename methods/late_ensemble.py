"""Late ensemble: one model per modality, trained on half of the budget each; their mean is scored.

No modality can suppress the other in training, since the two models share nothing. At test time a
missing modality is left out of the average.
"""

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import TwoTower
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About, NoOptions
from steelyard.methods._shared.steps import train_modality

ABOUT = About(
    title="Late ensemble",
    kind="control",
    summary="Averages the probabilities of two models trained apart on half the budget each.",
)

Config = NoOptions


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train the image model with the first half of the budget and the text model with the rest."""
    backbone.readout = "ensemble"
    train_modality(backbone, data, meter, "image", seed=seed, until=0.5)
    train_modality(backbone, data, meter, "text", seed=seed, until=1.0)
