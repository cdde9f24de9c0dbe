"""Majority: every item gets the class frequencies of the training split, whatever its inputs.

This is the score of chance on a data set whose classes are not equally frequent.
"""

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import TwoTower
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About, NoOptions

ABOUT = About(
    title="Majority",
    kind="control",
    summary="Answers every item with the class frequencies of the training split.",
)

Config = NoOptions


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Store the class frequencies in the backbone; trains nothing and spends no budget."""
    backbone.set_prior(data.class_counts() / len(data))
    backbone.readout = "prior"
