"""KTO: right answers are desirable, wrong ones undesirable, unpaired; TRL's ``KTOTrainer``.

Ethayarajh, Xu, Muennighoff, Jurafsky, Kiela: "KTO: Model Alignment as Prospect Theoretic
Optimization", ICML 2024, arXiv 2402.01306.

With d(y) = log p(y) - log p_start(y), and z_0 the batch's estimate of KL(p || p_start), the mean d
of each prompt with a mismatched answer, at least 0 and without gradient:

    L = mean of  desirable (1 - sigmoid(beta (d(y) - z_0)))     over right answers y
            and  undesirable (1 - sigmoid(beta (z_0 - d(y))))   over wrong answers y

The right and wrong answers are those of the other preference methods, but unpaired and shuffled:
each answer is a row. The mismatched answer is that of the next pair, as in TRL the same one in
every pass; the paper shifts the answers of each batch. It passes through the policy as well.

beta 0.1 and weights 1 are the paper's. It asks for desirable * n_right to be 1 to 4/3 times
undesirable * n_wrong; the two numbers are equal here. Ours: the wrong answers, which the paper
takes from preference data or feedback (``methods/_preference/negatives.py``).

Learning rate: a tenth of the backbone's, as in ``dpo``. TRL's default is 1e-6 for both, against
2e-5 for fine-tuning.
"""

from dataclasses import dataclass

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.search import LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import PairOptions

ABOUT = About(
    title="KTO",
    kind="preference",
    summary="Raises right answers and lowers wrong ones, each alone instead of in pairs.",
    paper="Ethayarajh et al., KTO: Model Alignment as Prospect Theoretic Optimization, ICML 2024, "
    "arXiv 2402.01306",
    backbones=("vlm",),
    learning_rate=0.1,
    trainer="KTOConfig",
)


@dataclass(frozen=True, slots=True)
class Config(PairOptions):
    desirable: float = 1.0
    """Weight of right answers (lambda_D)."""
    undesirable: float = 1.0
    """Weight of wrong answers (lambda_U)."""
    weights = ("desirable", "undesirable")


SEARCH: Space = {
    # The range of beta is ours; the paper weighs right answers by 1 to 4/3 if numbers are equal.
    "beta": LogUniform(0.05, 0.5),
    "desirable": Uniform(1.0, 1.333),
}


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the start model, then minimise L until the budget is spent."""
    # Imported here, because trl takes seconds.
    from trl import KTOConfig, KTOTrainer

    from steelyard.methods._preference import trl_data
    from steelyard.methods._preference.pairwise import train_on_pairs

    train_on_pairs(
        backbone,
        data,
        meter,
        config,
        seed,
        trainer_class=KTOTrainer,
        config_class=KTOConfig,
        collator=trl_data.unpaired,
        answers_per_row=1,
        reference=("ref_logps", "ref_KL_logps"),
        compares=True,  # each answer's reward with the mean divergence of its pass
        rows_per_pair=2,  # a right and a wrong one; the KL estimate needs two rows as well
        stage="kto",
        desirable_weight=config.desirable,
        undesirable_weight=config.undesirable,
    )
