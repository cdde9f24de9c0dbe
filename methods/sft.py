"""Supervised fine-tuning on the right answers, by TRL's SFTTrainer.

Loss: the mean over the batch's answer tokens, end token included, of -log p(token | image, prompt,
tokens before). The prompt is not learnt. With answers of unequal length this differs from joint
training on the same model, which takes the mean over examples of each one's mean.

``share`` stops at a part of the budget: a preference method spends two to four times as much on a
step, so SFT with the whole budget sees more examples, and SFT with a share sees as many. The
schedule then ends at that share. Where a control needs equal compute, leave it at 1.
"""

from dataclasses import dataclass
from typing import cast

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About

ABOUT = About(
    title="SFT",
    kind="control",
    summary="Supervised fine-tuning on the right answers.",
    backbones=("vlm",),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    share: float = 1.0
    """Share of the budget to use."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"share={self.share}: give a share of the budget in (0, 1].")


SEARCH: Space = {}  # ``share`` makes another control; the learning rate is searched for all


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise the answers' negative log-likelihood until the share of the budget is used."""
    from trl import SFTConfig, SFTTrainer

    from steelyard.harness.models.vlm import Vlm
    from steelyard.methods._preference import preflight, trl, trl_data

    model = cast(Vlm, backbone)
    prompts = trl_data.prompts_of(model, data)
    preflight.check(model, data, prompt=prompts)
    size = trl_data.batch_size(model, len(data))
    with trl.workspace(model) as folder:
        trainer = SFTTrainer(
            model=model.model,
            args=trl.arguments(SFTConfig, model, seed, folder, per_device_train_batch_size=size),
            data_collator=trl_data.supervised(model, data, prompts),
            train_dataset=trl_data.ordered(len(data), size, seed, "sft"),
            processing_class=model.processor,
        )
        trl.run(trainer, model, meter, items=size, until=config.share)
