"""SFT: supervised fine-tuning on the right answers, with TRL's ``SFTTrainer``.

    L = mean over the batch's answer tokens t, end token included, of
        -log p(y_t | image, prompt, y_<t)

Prompt tokens are not trained on. Joint training on the same model takes the mean per example
first, so the two differ if answers differ in length.

``share`` ends training, and its learning-rate schedule, at a fraction of the budget. A step of a
preference method costs two to four times as much as one of SFT: with the full budget SFT sees more
examples, with a fraction of it the same number. Leave ``share`` at 1 for equal compute; it defines
the control and is not tuned.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.options import require
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference import trl, trl_data

ABOUT = About(
    title="SFT",
    kind="control",
    summary="Supervised fine-tuning on the right answers.",
    backbones=("vlm",),
    trainer="SFTConfig",
)


@dataclass(frozen=True, slots=True)
class Config:
    share: float = 1.0
    """Fraction of the budget to spend."""

    def __post_init__(self) -> None:
        require(self, "share", 0 < self.share <= 1, "a fraction of the budget in (0, 1]")


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise L until the fraction ``share`` of the budget is spent."""
    # Imported here, because trl takes seconds.
    from trl import SFTConfig, SFTTrainer

    trl.train_on_rows(
        SFTTrainer,
        SFTConfig,
        backbone,
        data,
        meter,
        seed,
        trl_data.supervised,
        stage="sft",
        until=config.share,
    )
