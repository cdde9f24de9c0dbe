"""MPO: mixed preference optimisation of InternVL, with three losses of TRL's ``DPOTrainer``.

Wang, Chen, Wang et al.: "Enhancing the Reasoning Ability of Multimodal Large Language Models via
Mixed Preference Optimization", 2024, arXiv 2411.10442.

With d(y) = log p(y) - log p_start(y), y_w the right and y_l the wrong answer:

    L = preference L_DPO + quality L_BCO + generation NLL(y_w)
    L_DPO = -log sigmoid(beta (d(y_w) - d(y_l)))
    L_BCO = -log sigmoid(beta d(y_w)) - log sigmoid(-beta d(y_l))

Weights 0.8, 0.2 and 1, and beta 0.1, are the paper's.

Learning rate: a tenth of the backbone's, as in ``dpo``. The authors train all weights at 5e-6.

Differences from the paper: with TRL's losses ``bco_pair`` and ``sft``, BCO's reward shift delta (a
moving average of rewards) is 0, and the NLL is averaged over the batch's tokens instead of within
each answer first. The paper makes wrong answers by truncating long reasoning and completing it
without the image; answers here are short, so wrong ones are those of
``methods/_preference/negatives.py``, by default random ones as in the other methods
(``negatives=no_image`` is nearest to the paper).
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.search import LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import PairOptions

ABOUT = About(
    title="MPO",
    kind="preference",
    summary="Mixes a preference, a quality and a likelihood loss on pairs of answers.",
    paper="Wang et al., Enhancing the Reasoning Ability of Multimodal Large Language Models via "
    "Mixed Preference Optimization, 2024, arXiv 2411.10442",
    backbones=("vlm",),
    learning_rate=0.1,
    trainer="DPOConfig",
)


@dataclass(frozen=True, slots=True)
class Config(PairOptions):
    preference: float = 0.8
    """Weight of L_DPO."""
    quality: float = 0.2
    """Weight of L_BCO."""
    generation: float = 1.0
    """Weight of the likelihood of right answers."""
    weights = ("preference", "quality", "generation")

    def __post_init__(self) -> None:
        PairOptions.__post_init__(self)  # super() fails in a dataclass with slots
        if not any(getattr(self, name) for name in self.weights):
            zeros = ", ".join(f"{name}=0" for name in self.weights)
            raise UserError(f"{zeros}: give at least one weight above 0.")


SEARCH: Space = {
    # beta as for DPO. The paper fixes the weights; the ranges of two of them are ours.
    "beta": LogUniform(0.05, 1.0),
    "quality": Uniform(0.0, 0.5),
    "generation": Uniform(0.3, 1.0),
}


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the start model, then minimise L until the budget is spent."""
    # Imported here, because trl takes seconds.
    from steelyard.methods._preference.pairwise import train_on_pairs

    losses = {"sigmoid": config.preference, "bco_pair": config.quality, "sft": config.generation}
    compares = config.generation > 0  # a mean over the tokens of a pass, not over its rows
    train_on_pairs(backbone, data, meter, config, seed, losses=losses, compares=compares)
