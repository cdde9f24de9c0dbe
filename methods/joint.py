"""Joint training: one task loss on the fused prediction, with the whole budget.

The control that every difference on a board is taken against. Loss: L = CE(fused, y), or binary
cross entropy averaged over classes when multi-label.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="Joint",
    kind="control",
    summary="Plain joint training on the fused prediction.",
)


@dataclass(frozen=True, slots=True)
class Config:
    """No options."""


SEARCH: Space = {}  # nothing but the learning rate, which is searched for all


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise the task loss of the fused prediction until the budget is used."""

    def step(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        return backbone.loss(backbone.predict(batch), batch).mean(), {}

    fit(backbone, data, meter, step, seed=seed)
