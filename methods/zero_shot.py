"""Zero-shot: the untrained model, from which every method of a board starts."""

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About, NoOptions

ABOUT = About(
    title="Zero-shot",
    kind="control",
    summary="The model as it is, without any training.",
    backbones=("vlm",),
    learns=False,
)

Config = NoOptions


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Leave the weights unchanged."""
