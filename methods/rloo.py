"""RLOO: sampled answers, each compared with the mean reward of the others.

Ahmadian et al.: "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human
Feedback in LLMs", ACL 2024, arXiv 2402.14740; trained by TRL's ``RLOOTrainer``. For G answers y_i
to one question with rewards r_i,

    R_i = r_i - beta log( pi(y_i) / pi_ref(y_i) )        (whole answers)
    A_i = R_i - mean_{j != i} R_j
    L   = - mean_i min( p_i A_i, clip(p_i, 1 - clip, 1 + clip) A_i ),   p_i = pi(y_i) / pi_old(y_i)

The divergence sits in the reward, there is no division by the standard deviation and the ratio is
that of whole answers: these are the differences from GRPO. One update a sampled batch, so p = 1;
the pass that TRL makes for pi_old all the same is counted. Rewards, questions, reference and phases
are those of ``grpo``; beta 0.05 is TRL's default, the group of 8 is ours (TRL: 2).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.online import Sampling, check_options, train_online

if TYPE_CHECKING:
    from steelyard.harness.models.vlm import Vlm

ABOUT = About(
    title="RLOO",
    kind="preference",
    summary="Samples answers and reinforces each by how much it beats the others' mean reward.",
    paper="Ahmadian et al., Back to Basics: Revisiting REINFORCE-Style Optimization for Learning "
    "from Human Feedback in LLMs, ACL 2024, arXiv 2402.14740",
    backbones=("vlm",),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Sampling, rewards and the trust in a sampled answer."""

    group: int = 8
    """Answers sampled to each question; divides the batch size."""
    temperature: float = 1.0
    max_tokens: int = 12
    """Longest sampled answer."""
    beta: float = 0.05
    """Weight of the divergence from the start model in the reward; 0 leaves it out."""
    clip: float = 0.2
    format_reward: bool = True
    skip_flat: bool = False
    """Let questions sit out a pass when all their sampled answers earned the same."""

    def __post_init__(self) -> None:
        check_options(self.group, self.temperature, self.max_tokens, self.beta)


SEARCH: Space = {
    # Ours, about TRL's 0.05 and 1. The group has to divide the batch and stays.
    "beta": Choice((0.01, 0.03, 0.05, 0.1)),
    "temperature": Uniform(0.7, 1.2),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Reinforce verified answers until the budget is used."""
    from trl import RLOOConfig, RLOOTrainer

    how = Sampling(
        config.group,
        config.temperature,
        config.max_tokens,
        config.beta,
        config.format_reward,
        config.skip_flat,
    )
    vlm = cast("Vlm", backbone)
    train_online(RLOOTrainer, RLOOConfig, vlm, data, meter, seed, how, epsilon=config.clip)
