"""DPO: the right answer is preferred to a wrong one, by TRL's DPOTrainer.

Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: "Direct Preference Optimization: Your Language
Model is Secretly a Reward Model", NeurIPS 2023, arXiv 2305.18290.

With d_w, d_l = log p(answer) - log p_start(answer) of the right and the wrong answer, both given
the clean image, log-probabilities summed over the answer's tokens and the end token:

    L = -log sigmoid(beta (d_w - d_l)) + sft NLL(right answer)

Everything a modality-balance study varies is in the negatives (``methods/_preferences.py``): which
wrong answers, and from which damaged image. ``random_answer`` and ``no_image`` are the controls a
mined negative must beat.

Where the paper is silent: beta 0.2 and an NLL term of weight 1 (mean over the batch's tokens) are
ours. Without the NLL term the right answer itself loses likelihood on small models. The paper's
own settings are beta 0.1 and no NLL term.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Choice, LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import Negatives, Source

ABOUT = About(
    title="DPO",
    kind="preference",
    summary="Prefers the right answer to a wrong one, relative to the model it started from.",
    paper="Rafailov et al., Direct Preference Optimization: Your Language Model is Secretly a "
    "Reward Model, NeurIPS 2023, arXiv 2305.18290",
    backbones=("vlm",),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    negatives: Negatives = "random_answer"
    beta: float = 0.2
    sft: float = 1.0
    """Weight of the right answer's negative log-likelihood."""
    severity: int = 3
    """Of the noise, for ``noise_image``; 1 to 5."""
    max_pairs: int = 1024
    """Training examples to make pairs of."""

    refill: bool = False
    """Where the mined answer is right: take a random wrong one instead of dropping the example."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.sft < 0:
            raise UserError(
                f"beta={self.beta} and sft={self.sft}: give beta above 0 and sft of at least 0."
            )
        self.source()

    def source(self) -> Source:
        """Where the wrong answers come from."""
        return Source(self.negatives, self.severity, self.max_pairs, self.refill)


SEARCH: Space = {
    # The paper's frontier has beta 0.05, 0.1, 1 and 5; the weight of the NLL term is ours.
    "beta": LogUniform(0.05, 1.0),
    "sft": Choice((0.0, 0.3, 1.0)),
    # Which wrong answers are taken makes another entry.
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the model as it is, then minimise the loss until the budget is used."""
    from steelyard.methods._preference.pairwise import train_on_pairs

    train_on_pairs(
        backbone,
        data,
        meter,
        seed,
        config.source(),
        beta=config.beta,
        loss_type=["sigmoid", "sft"] if config.sft else ["sigmoid"],
        loss_weights=[1.0, config.sft] if config.sft else [1.0],
    )
