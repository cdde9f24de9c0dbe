"""DPO: prefer the right answer to a wrong one, with TRL's ``DPOTrainer``.

Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: "Direct Preference Optimization: Your Language
Model is Secretly a Reward Model", NeurIPS 2023, arXiv 2305.18290.

With d(y) = log p(y) - log p_start(y) given the clean image, log-probabilities summed over the
answer's tokens and the end token, y_w the right and y_l the wrong answer:

    L = -log sigmoid(beta (d(y_w) - d(y_l))) + sft NLL(y_w)

Studies of modality balance vary y_l: which wrong answer, and from which corrupted image. See
``methods/_preference/negatives.py``. ``random_answer`` and ``no_image`` are the controls that
mined negatives have to beat.

The paper has beta 0.1 and no NLL term. Ours: beta 0.2 and an NLL term of weight ``sft`` = 1 (mean
over the batch's tokens); without it the right answer loses likelihood as well on small models. The
paper takes preferences of people; here y_w is the data's answer.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.search import Choice, LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import Negatives, PairOptions

ABOUT = About(
    title="DPO",
    kind="preference",
    summary="Prefers the right answer to a wrong one, relative to the model it started from.",
    paper="Rafailov et al., Direct Preference Optimization: Your Language Model is Secretly a "
    "Reward Model, NeurIPS 2023, arXiv 2305.18290",
    backbones=("vlm",),
)


@dataclass(frozen=True, slots=True)
class Config(PairOptions):
    negatives: Negatives = "random_answer"
    beta: float = 0.2
    sft: float = 1.0
    weights = ("sft",)


SEARCH: Space = {
    # The paper tries beta 0.05, 0.1, 1 and 5; the weight of the NLL term is ours.
    "beta": LogUniform(0.05, 1.0),
    "sft": Choice((0.0, 0.3, 1.0)),
    # ``negatives`` is not tuned: other wrong answers are another entry of a board.
}


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the start model, then minimise L until the budget is spent."""
    # Imported here, because trl takes seconds.
    from steelyard.methods._preference.pairwise import train_on_pairs

    losses = {"sigmoid": 1.0, "sft": config.sft} if config.sft else {"sigmoid": 1.0}
    train_on_pairs(backbone, data, meter, config, seed, losses=losses)
