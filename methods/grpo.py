"""GRPO: sampled answers to questions with a known answer, rewarded for being right.

Shao et al.: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
arXiv 2402.03300; trained by TRL's ``GRPOTrainer``. For G answers y_i to one question with rewards
r_i, advantages and loss are

    A_i = (r_i - mean r) / (std r + 1e-4)
    L   = - mean_i (1/|y_i|) sum_t [ min( p_it A_i, clip(p_it, 1 - clip, 1 + clip) A_i )
                                     - beta k3_it ]
    p   = pi / pi_old,    k3 = pi_ref / pi - log(pi_ref / pi) - 1

with one update a sampled batch, so that pi_old is the policy itself and p = 1. The reference is
the model as it was before the run; its passes are charged to ``reference``, sampling to
``rollout``.

Rewards are rules: 1 for the right answer after normalisation, and (``format_reward``) 1 for an
answer that is one of the choices, or one short phrase, and nothing else. Trained on the closed
questions of the data and on those with an answer of at most three words; captions are left out.

Where it departs from TRL's defaults: beta 0.04 as in the paper (TRL: 0), the paper's loss with the
mean over each answer (``loss_type="grpo"``; TRL: ``dapo``). A group whose answers all earn the same
has no advantage and teaches nothing but the KL term: their share is logged as ``flat_groups``, and
with ``skip_flat`` such a question sits out the next pass over the data.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.online import Sampling, check_options, train_online

if TYPE_CHECKING:
    from steelyard.harness.models.vlm import Vlm

ABOUT = About(
    title="GRPO",
    kind="preference",
    summary="Samples answers to questions with a known answer and reinforces the right ones.",
    paper="Shao et al., DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open "
    "Language Models, arXiv 2402.03300",
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
    beta: float = 0.04
    """Weight of the divergence from the start model; 0 leaves it out."""
    clip: float = 0.2
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """How token losses are averaged: by answer, by the longest answer, or by token."""
    format_reward: bool = True
    skip_flat: bool = False
    """Let questions sit out a pass when all their sampled answers earned the same."""

    def __post_init__(self) -> None:
        check_options(self.group, self.temperature, self.max_tokens, self.beta)


SEARCH: Space = {
    # beta 0.04 is the paper's, 0 that of later work; the temperature's range is ours. The group has
    # to divide the batch and stays.
    "beta": Choice((0.0, 0.01, 0.04, 0.1)),
    "temperature": Uniform(0.7, 1.2),
    "loss_type": Choice(("grpo", "dr_grpo", "dapo")),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Reinforce verified answers until the budget is used."""
    from trl import GRPOConfig, GRPOTrainer

    how = Sampling(
        config.group,
        config.temperature,
        config.max_tokens,
        config.beta,
        config.format_reward,
        config.skip_flat,
    )
    train_online(
        GRPOTrainer,
        GRPOConfig,
        cast("Vlm", backbone),
        data,
        meter,
        seed,
        how,
        epsilon=config.clip,
        loss_type=config.loss_type,
    )
