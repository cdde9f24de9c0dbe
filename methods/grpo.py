"""GRPO: sample answers to questions with a known answer and reinforce the right ones.

Shao et al.: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
arXiv 2402.03300; trained with TRL's ``GRPOTrainer``. For G answers o_i to one question with rewards
r_i:

    A_i = (r_i - mean r) / (std r + 1e-4)
    L   = - mean_i (1/|o_i|) sum_t [ min( p_it A_i, clip(p_it, 1 - clip, 1 + clip) A_i )
                                     - beta k3_it ]
    p   = pi / pi_old,    k3 = pi_ref / pi - log(pi_ref / pi) - 1

Each sampled batch gets one update, so pi_old is the policy itself and p = 1. pi_ref is the model
before the run. Its passes are charged to the phase ``reference``, sampling to ``rollout``.

Ours: rewards are rules, where the paper trains a reward model. An answer gets 1 if it equals the
right one after normalisation, and (``format_reward``) 1 if it is one of the choices, or one short
phrase, and nothing else. Only closed questions and questions with an answer of at most three words
are trained on; captions are left out.

The paper's, unlike TRL's defaults: beta 0.04 (TRL: 0), the mean over each answer's tokens
(``loss_type="grpo"``; TRL: ``dapo``), and k3 without the factor p (TRL: with, arXiv 2512.02556).
Ours: ``group`` 8 (paper: 64), ``temperature`` 1 and ``max_tokens`` 64; ``clip`` 0.2 is TRL's, the
paper prints none. A step is over ``batch_size`` answers, which are ``batch_size / group``
questions.

If all answers of a group get the same reward, every A_i is 0 and only the KL term remains. Such
questions are replaced by the next ones, in at most ``resample`` rounds a step: dynamic sampling as
in DAPO (Yu et al., arXiv 2503.14476), which samples until the batch is full. Ours has an end, since
a model may answer all questions alike. All rounds are charged to ``rollout``; the data track counts
the questions of the step. ``flat_groups`` is the fraction in the first round,
``frac_reward_zero_std`` that which was trained on. ``resample=0`` is the paper's method.

Learning rate: a tenth of the backbone's. The paper trains all weights at 1e-6, where fine-tuning
takes 1e-5 to 2e-5.
"""

from dataclasses import dataclass
from typing import Literal

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference import trl
from steelyard.methods._preference.online import Sampling
from steelyard.methods._preference.row_trainer import RowTrainer, online_trainer

ABOUT = About(
    title="GRPO",
    kind="preference",
    summary="Samples answers to questions with a known answer and reinforces the right ones.",
    paper="Shao et al., DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open "
    "Language Models, arXiv 2402.03300",
    backbones=("vlm",),
    learning_rate=0.1,
    trainer="GRPOConfig",
)


@dataclass(frozen=True, slots=True)
class Config(Sampling):
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """Average of token losses: per answer, per longest answer, or over all tokens."""


SEARCH: Space = {
    # beta 0.04 is the paper's, 0 that of later work; the temperature's range is ours. ``group`` is
    # not tuned, since it has to divide the batch size.
    "beta": Choice((0.0, 0.01, 0.04, 0.1)),
    "temperature": Uniform(0.7, 1.2),
    "loss_type": Choice(("grpo", "dr_grpo", "dapo")),
}


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    # Imported here, because trl takes seconds.
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(RowTrainer, GRPOTrainer):  # type: ignore[misc]
        pass

    size = backbone.recipe.batch_size
    args = (Trainer, GRPOConfig, backbone, data, meter, config, seed)
    with online_trainer(*args, loss_type=config.loss_type) as trainer:
        trl.run(trainer, backbone, meter, prompts=size // config.group, answers=size)
