"""Modality dropout: in training, one modality of an item is blanked at random.

Neverova, Wolf, Taylor, Nebout: "ModDrop: adaptive multi-modal gesture recognition", TPAMI 2016.

The image of an item is blanked with probability ``rate``, its text with probability ``rate``. A
blanked modality gets the latent that the backbone uses for a missing modality at test time, so the
fused prediction is trained on both missing cases. This makes it a strong control for tests with
missing modalities.

Ours: never both at once, and rate 1/3, at which complete, image-only and text-only items are
equally frequent; the paper draws modalities independently and blanks inputs. ``unimodal`` adds the
losses of unimodal heads. Encoders also run on blanked modalities, so a step costs as much as in
joint training.

On a vision-language model (ours): blanked tokens are not attended to, as if the prompt had been
rendered without them. A third of the items are then questions without their image, which train the
language prior: a control, and no remedy for it. ``unimodal`` would do so with every item, in two
more passes of the language model.
"""

from dataclasses import dataclass

import torch

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.options import require
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.training.fit import StepResult, fit
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="Modality dropout",
    kind="control",
    summary="Joint training in which one modality of an item is blanked at random.",
    paper="Neverova et al., ModDrop: adaptive multi-modal gesture recognition, TPAMI 2016",
    backbones=("classifier", "vlm"),
    adapted="The paper has classifiers only: items without their image train the language prior.",
)


@dataclass(frozen=True, slots=True)
class Config:
    rate: float = 1 / 3
    """Probability of blanking each modality; at most 0.5."""
    unimodal: float = 0.0
    """Weight of each modality's own loss."""


SEARCH: Space = {
    # The range is ours: at 0.5 no item keeps both modalities.
    "rate": Uniform(0.1, 0.5),
    "unimodal": Choice((0.0, 1.0), on=("classifier",)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise the fused task loss under random blanking until the budget is spent."""
    require(config, "rate", 0 <= config.rate <= 0.5, "a number between 0 and 0.5")
    generator = torch.Generator().manual_seed(seed_for(seed, "modality dropout"))

    def step(batch: Batch) -> StepResult:
        latents = backbone.encode(batch)
        shape = len(batch.targets)
        draw = ranks.in_turn(lambda: torch.rand(shape, generator=generator)).to(
            batch.targets.device
        )
        # One draw decides for both, so no item loses both modalities.
        dropped = backbone.blank(latents, "image", draw < config.rate)
        dropped = backbone.blank(dropped, "text", draw > 1 - config.rate)
        loss = backbone.loss(backbone.fuse(backbone.contribute(dropped)), batch).mean()
        if config.unimodal:
            heads = backbone.unimodal(latents)
            alone = backbone.loss(heads.image, batch) + backbone.loss(heads.text, batch)
            loss = loss + config.unimodal * alone.mean()
        return loss, {}

    fit(backbone, data, meter, step, seed=seed, state=[generator])
