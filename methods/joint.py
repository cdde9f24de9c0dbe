"""Joint training: one task loss on the fused prediction, with the full budget.

Boards report each method's difference to this control. L = CE(fused, y), or the binary cross
entropy averaged over classes if an item has several labels.
"""

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.fit import fit
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About, NoOptions
from steelyard.methods._shared.steps import fused_step

ABOUT = About(
    title="Joint",
    kind="control",
    summary="Plain joint training on the fused prediction.",
)

Config = NoOptions


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise the task loss of the fused prediction until the budget is spent."""
    fit(backbone, data, meter, fused_step(backbone), seed=seed, state=())
