"""DPO: prefer the right answer to a wrong one, with TRL's ``DPOTrainer``.

Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: "Direct Preference Optimization: Your Language
Model is Secretly a Reward Model", NeurIPS 2023, arXiv 2305.18290.

With d(y) = log p(y) - log p_start(y) given the clean image, log-probabilities summed over the
answer's tokens and the end token, y_w the right and y_l the wrong answer:

    L = -log sigmoid(beta (d(y_w) - d(y_l))) + sft NLL(y_w)

Beta 0.1 and ``sft`` 0 are the paper's. It starts from a model fine-tuned on the right answers, and
takes preferences of people for sampled answers.

Learning rate: a tenth of the backbone's. The paper trains all weights at 1e-6, mDPO adapters at
1e-5, where fine-tuning takes 1e-5 to 2e-5 and 1e-4 to 2e-4.

Ours, where the paper says nothing or has other data: y_w is the data's answer, y_l that of
``methods/_preference/negatives.py``. Studies of modality balance vary y_l. The NLL term, a mean
over the batch's tokens: without it the right answer can lose likelihood as well.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.search import LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import PairOptions

ABOUT = About(
    title="DPO",
    kind="preference",
    summary="Prefers the right answer to a wrong one, relative to the model it started from.",
    paper="Rafailov et al., Direct Preference Optimization: Your Language Model is Secretly a "
    "Reward Model, NeurIPS 2023, arXiv 2305.18290",
    backbones=("vlm",),
    learning_rate=0.1,
    trainer="DPOConfig",
)


@dataclass(frozen=True, slots=True)
class Config(PairOptions):
    sft: float = 0.0
    """Weight of the likelihood of right answers; above 0 it is no longer the published method."""
    weights = ("sft",)


SEARCH: Space = {
    # The paper tries beta 0.05, 0.1, 1 and 5. ``negatives`` and ``sft`` are not tuned: with other
    # wrong answers or another term, it is another entry of a board.
    "beta": LogUniform(0.05, 1.0),
}


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the start model, then minimise L until the budget is spent."""
    # Imported here, because trl takes seconds.
    from steelyard.methods._preference.pairwise import train_on_pairs

    losses = {"sigmoid": 1.0, "sft": config.sft}
    compares = config.sft > 0  # a mean over the tokens of a pass, not over its rows
    train_on_pairs(backbone, data, meter, config, seed, losses=losses, compares=compares)
