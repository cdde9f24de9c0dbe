"""Training steps of several methods: on the fused prediction, and of one modality alone."""

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.examples import Modality
from steelyard.harness.models.backbone import Backbone, Batch, TwoTower
from steelyard.harness.training.fit import StepResult, TrainStep, fit
from steelyard.harness.training.train_data import TrainData


def fused_step(backbone: Backbone) -> TrainStep:
    """Return the step that minimises the task loss of the fused prediction."""
    return lambda batch: (backbone.loss(backbone.predict(batch), batch).mean(), {})


def train_modality(
    backbone: TwoTower,
    data: TrainData,
    meter: Meter,
    modality: Modality,
    *,
    seed: int,
    until: float,
) -> None:
    """Train a modality's encoder, embedding and head until this fraction of the budget is spent."""

    def step(batch: Batch) -> StepResult:
        logits = backbone.unimodal_logits(backbone.encode_modality(batch, modality), modality)
        return backbone.loss(logits, batch).mean(), {}

    # The name of a stage seeds the order of its batches: another name gives other results.
    fit(backbone, data, meter, step, seed=seed, stage=f"{modality} alone", until=until, state=())


def pretrain_modalities(
    backbone: TwoTower, data: TrainData, meter: Meter, share: float, seed: int
) -> None:
    """Spend a fraction of the budget on the image alone, then on the text alone: half each.

    It is charged to the phase ``teacher``.
    """
    with meter.phase("teacher"):
        # ``until`` counts from the start of the run, so the text gets the second half.
        train_modality(backbone, data, meter, "image", seed=seed, until=share / 2)
        train_modality(backbone, data, meter, "text", seed=seed, until=share)
