"""Encoders trained alone first, then jointly: the "Uni-Pre Finetuned" control.

MCR's published runs start from unimodally pre-trained encoders, so this row, and not joint
training from scratch, is what they are to be compared with. The literature gives the teachers
away for free; here their cost is on the ledger (phase ``teacher``) and comes out of the same
budget. Published settings fine-tune at a tenth of the from-scratch rate; the default keeps the
full rate because half the budget is left, and says so here: ``learning_rate_scale``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Batch, TwoTower
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared.pretrain import pretrain_modalities

ABOUT = About(
    title="Unimodal pre-training",
    kind="control",
    summary="Trains each encoder alone on a share of the budget, then both jointly.",
)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    share: float = 0.5
    """Share of the budget spent on the two unimodal stages."""
    learning_rate_scale: float = 1.0
    """Learning rate of the joint stage relative to the backbone's."""


SEARCH: Space = {
    # A control without a paper: the ranges are ours.
    "share": Uniform(0.2, 0.8),
    "learning_rate_scale": LogUniform(0.1, 1.0),
}


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Pre-train both sides, then minimise the fused task loss with what is left."""

    def step(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        return backbone.loss(backbone.predict(batch), batch).mean(), {}

    pretrain_modalities(backbone, data, meter, config.share, seed)
    scale = config.learning_rate_scale
    fit(backbone, data, meter, step, seed=seed, learning_rate_scale=scale)
