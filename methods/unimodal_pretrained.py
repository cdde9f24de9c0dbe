"""Unimodal pre-training: each encoder is trained alone, then both jointly ("Uni-Pre Finetuned").

Published runs of some methods start from encoders that were trained alone. Compare such runs with
this control and not with joint training from scratch. Papers do not count the cost of the
pre-training; here it is charged to the phase ``teacher`` of the same budget.

Ours: half of the budget for the two unimodal stages. Published settings fine-tune at a tenth of
the learning rate; the default keeps the full rate, because only half of the budget remains
(``learning_rate_scale``).
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import TwoTower
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared.steps import fused_step, pretrain_modalities

ABOUT = About(
    title="Unimodal pre-training",
    kind="control",
    summary="Trains each encoder alone on a fraction of the budget, then both jointly.",
)


@dataclass(frozen=True, slots=True)
class Config:
    share: float = 0.5
    """Fraction of the budget spent on the two unimodal stages together."""
    learning_rate_scale: float = 1.0
    """Learning rate of the joint stage relative to the backbone's."""


SEARCH: Space = {
    # Ours: this control has no paper.
    "share": Uniform(0.2, 0.8),
    "learning_rate_scale": LogUniform(0.1, 1.0),
}


def train(backbone: TwoTower, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train each modality alone, then minimise the fused task loss with the rest of the budget."""
    pretrain_modalities(backbone, data, meter, config.share, seed)
    step, scale = fused_step(backbone), config.learning_rate_scale
    fit(backbone, data, meter, step, seed=seed, learning_rate_scale=scale, state=())
