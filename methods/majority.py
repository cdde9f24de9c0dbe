"""No input at all: always answers with the class frequencies of the training split.

What a board's scores are worth is read against this row.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import TwoTower
from steelyard.harness.training.search import Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="Majority",
    kind="control",
    summary="Answers every item with the class frequencies of the training split.",
)


@dataclass(frozen=True, slots=True)
class Config:
    """No options."""


SEARCH: Space = {}  # nothing is trained


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Count the classes; no model is trained and no budget used."""
    backbone.set_prior(data.class_counts() / len(data))
    backbone.readout = "prior"
