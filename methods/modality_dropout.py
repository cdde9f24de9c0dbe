"""Modality dropout: in training, one side of an item is blanked at random.

For each item: with probability ``rate`` the image is blanked, with probability ``rate`` the text,
never both. Blanking means what a missing side means to the backbone at test time (its latent
replaced), so the fused prediction has seen both missing cases. Default rate 1/3 a side, the
rate at which full, image-only and text-only items are equally frequent. The strong control of
missing-modality tests, often absent from papers. ``unimodal`` adds heads as in the unimodal-heads
control; on a vision-language model, which has none, it adds the losses of the two passes with one
side blanked in every item. The encoders still run on blanked sides: the cost equals joint
training's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="Modality dropout",
    kind="control",
    summary="Joint training in which one side of an item is blanked at random.",
    paper="Neverova et al., ModDrop: adaptive multi-modal gesture recognition, TPAMI 2016",
    backbones=("classifier", "vlm"),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    rate: float = 1 / 3
    """Probability with which each side is blanked; at most 0.5."""
    unimodal: float = 0.0
    """Weight of unimodal-head losses added to the fused loss."""


SEARCH: Space = {
    # The range is ours: at 0.5 no item has both sides.
    "rate": Uniform(0.1, 0.5),
    "unimodal": Choice((0.0, 1.0)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise the fused task loss under random blanking until the budget is used."""
    if not 0 <= config.rate <= 0.5:
        raise UserError(f"rate={config.rate}: give a number between 0 and 0.5.")
    generator = torch.Generator().manual_seed(seed_for(seed, "modality dropout"))

    def step(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        latents = backbone.encode(batch)
        draw = torch.rand(len(batch.targets), generator=generator).to(batch.targets.device)
        dropped = backbone.blank(latents, "image", draw < config.rate)
        dropped = backbone.blank(dropped, "text", draw > 1 - config.rate)
        loss = backbone.loss(backbone.fuse(backbone.contribute(dropped)), batch).mean()
        if config.unimodal:
            heads = backbone.unimodal(latents)
            alone = backbone.loss(heads.image, batch) + backbone.loss(heads.text, batch)
            loss = loss + config.unimodal * alone.mean()
        return loss, {}

    fit(backbone, data, meter, step, seed=seed)
