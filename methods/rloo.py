"""RLOO: sample answers and compare each with the mean reward of the other samples.

Ahmadian et al.: "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human
Feedback in LLMs", ACL 2024, arXiv 2402.14740; trained with TRL's ``RLOOTrainer``. For G answers y_i
to one question with rewards r_i, and probabilities of complete answers:

    R_i = r_i - beta log( pi(y_i) / pi_ref(y_i) )
    A_i = R_i - mean_{j != i} R_j
    L   = - mean_i min( p_i A_i, clip(p_i, 1 - clip, 1 + clip) A_i ),   p_i = pi(y_i) / pi_old(y_i)

Differences from GRPO: the divergence is part of the reward, A_i is not divided by the standard
deviation, and p_i is the ratio of complete answers. Each sampled batch gets one update, so p = 1;
pi_old is computed by a pass of its own, since R_i needs it before the update. Rewards, questions,
reference and phases are those of ``grpo``, and so are ``max_tokens`` 64 and ``resample`` (ours).
beta 0.05 and ``clip`` 0.2 are TRL's defaults; ours: ``group`` 8 (TRL: 2), ``temperature`` 1.

Learning rate: a tenth of the backbone's, as in ``grpo``. TRL's default is 1e-6 for both, against
2e-5 for fine-tuning.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.search import Choice, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference import trl
from steelyard.methods._preference.online import Sampling
from steelyard.methods._preference.row_trainer import RowTrainer, online_trainer

ABOUT = About(
    title="RLOO",
    kind="preference",
    summary="Samples answers and reinforces each by how much it beats the others' mean reward.",
    paper="Ahmadian et al., Back to Basics: Revisiting REINFORCE-Style Optimization for Learning "
    "from Human Feedback in LLMs, ACL 2024, arXiv 2402.14740",
    backbones=("vlm",),
    learning_rate=0.1,
    trainer="RLOOConfig",
)


@dataclass(frozen=True, slots=True)
class Config(Sampling):
    beta: float = 0.05
    """Weight of log(pi / pi_ref) in the reward; 0 leaves it out."""


SEARCH: Space = {
    # Ours, around TRL's 0.05 and 1. ``group`` is not tuned: it has to divide the batch size.
    "beta": Choice((0.01, 0.03, 0.05, 0.1)),
    "temperature": Uniform(0.7, 1.2),
}


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    # Imported here, because trl takes seconds.
    from trl import RLOOConfig, RLOOTrainer

    class Trainer(RowTrainer, RLOOTrainer):  # type: ignore[misc]
        pass

    size = backbone.recipe.batch_size
    args = (Trainer, RLOOConfig, backbone, data, meter, config, seed)
    with online_trainer(*args) as trainer:
        trl.run(trainer, backbone, meter, prompts=size // config.group, answers=size)
