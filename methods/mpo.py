"""MPO: mixed preference optimisation of InternVL, by TRL's DPOTrainer with three losses.

Wang, Chen, Wang et al.: "Enhancing the Reasoning Ability of Multimodal Large Language Models via
Mixed Preference Optimization", 2024, arXiv 2411.10442.

    L = preference L_DPO + quality L_BCO + generation NLL(right answer)
    L_DPO = -log sigmoid(beta (d_w - d_l))
    L_BCO = -log sigmoid(beta d_w) - log sigmoid(-beta d_l)

with d = log p - log p_start of the right (w) and the wrong (l) answer. Weights 0.8, 0.2 and 1, and
beta 0.1, are the paper's.

Differences from the paper, all of TRL's ``bco_pair`` and ``sft`` losses: BCO's reward shift delta
(a moving average of rewards) is 0, and the NLL is averaged over the batch's tokens instead of
within each answer first. The paper makes wrong answers by truncating and completing long
reasoning; answers here are short, so the negatives are those of ``methods/_preferences.py``.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import Negatives, Source

ABOUT = About(
    title="MPO",
    kind="preference",
    summary="Mixes a preference, a quality and a likelihood loss on pairs of answers.",
    paper="Wang et al., Enhancing the Reasoning Ability of Multimodal Large Language Models via "
    "Mixed Preference Optimization, 2024, arXiv 2411.10442",
    backbones=("vlm",),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    negatives: Negatives = "no_image"
    beta: float = 0.1
    preference: float = 0.8
    """Weight of the DPO loss."""
    quality: float = 0.2
    """Weight of the BCO loss."""
    generation: float = 1.0
    """Weight of the right answer's negative log-likelihood."""
    severity: int = 3
    """Of the noise, for ``noise_image``; 1 to 5."""
    max_pairs: int = 1024
    """Training examples to make pairs of."""

    refill: bool = False
    """Where the mined answer is right: take a random wrong one instead of dropping the example."""

    def __post_init__(self) -> None:
        weights = (self.preference, self.quality, self.generation)
        if self.beta <= 0 or min(weights) < 0 or max(weights) == 0:
            raise UserError(
                f"beta={self.beta}, weights {', '.join(map(str, weights))}: give beta above 0 and "
                "weights of at least 0, one of them above."
            )
        self.source()

    def source(self) -> Source:
        """Where the wrong answers come from."""
        return Source(self.negatives, self.severity, self.max_pairs, self.refill)


SEARCH: Space = {
    # beta as in DPO. The paper fixes the weights; those of quality and generation are varied here.
    "beta": LogUniform(0.05, 1.0),
    "quality": Uniform(0.0, 0.5),
    "generation": Uniform(0.3, 1.0),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the model as it is, then minimise the mixture until the budget is used."""
    from steelyard.methods._preference.pairwise import train_on_pairs

    train_on_pairs(
        backbone,
        data,
        meter,
        seed,
        config.source(),
        beta=config.beta,
        loss_type=["sigmoid", "bco_pair", "sft"],
        loss_weights=[config.preference, config.quality, config.generation],
    )
