"""KTO: right answers are desirable, wrong ones undesirable, unpaired; TRL's ``KTOTrainer``.

Ethayarajh, Xu, Muennighoff, Jurafsky, Kiela: "KTO: Model Alignment as Prospect Theoretic
Optimization", ICML 2024, arXiv 2402.01306.

With d(y) = log p(y) - log p_start(y), and z_0 the batch's estimate of KL(p || p_start) from each
prompt with the answer of the next row, at least 0 and without gradient:

    L = mean of  desirable (1 - sigmoid(beta (d(y) - z_0)))     over right answers y
            and  undesirable (1 - sigmoid(beta (z_0 - d(y))))   over wrong answers y

The right and wrong answers are those of the other preference methods, but unpaired and shuffled:
each answer is a row. Rows of the KL estimate also pass through both models, so a step costs more
than one of DPO on the same number of rows.

beta 0.1 and weights 1 are the paper's. It asks for desirable * n_right to be 1 to 4/3 times
undesirable * n_wrong; the two numbers are equal here. Ours: the source of the wrong answers.
"""

from dataclasses import dataclass
from typing import cast

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import Negatives, PairOptions

ABOUT = About(
    title="KTO",
    kind="preference",
    summary="Raises right answers and lowers wrong ones, each alone instead of in pairs.",
    paper="Ethayarajh et al., KTO: Model Alignment as Prospect Theoretic Optimization, ICML 2024, "
    "arXiv 2402.01306",
    backbones=("vlm",),
)


@dataclass(frozen=True, slots=True)
class Config(PairOptions):
    """Kind of wrong answers and weights of the loss; ``PairOptions`` has the options of mining."""

    negatives: Negatives = "no_image"
    beta: float = 0.1
    desirable: float = 1.0
    """Weight of right answers (lambda_D)."""
    undesirable: float = 1.0
    """Weight of wrong answers (lambda_U)."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or min(self.desirable, self.undesirable) < 0:
            raise UserError(
                f"beta={self.beta}, desirable={self.desirable}, undesirable={self.undesirable}: "
                "give beta above 0 and weights of at least 0."
            )
        PairOptions.__post_init__(self)  # super() fails in a dataclass with slots


SEARCH: Space = {
    # The range of beta is ours; the paper weighs right answers by 1 to 4/3 if numbers are equal.
    "beta": LogUniform(0.05, 0.5),
    "desirable": Uniform(1.0, 1.333),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the start model, then minimise L until the budget is spent."""
    # Imported here, because trl takes seconds.
    from trl import KTOConfig, KTOTrainer

    from steelyard.harness.models.vlm import Vlm
    from steelyard.methods._preference import preflight, trl, trl_data
    from steelyard.methods._preference.negatives import make_pairs

    model = cast(Vlm, backbone)
    pairs = make_pairs(model, data, meter, config, seed)
    prompts = trl_data.prompts_of(model, data)
    preflight.check(model, data, pairs, prompts)
    # Each pair is two rows, and the KL estimate takes the answer of another row.
    size = trl_data.batch_size(model, 2 * len(pairs), least=2)
    with trl.workspace(model) as folder:
        settings = {
            "per_device_train_batch_size": size,
            "beta": config.beta,
            "desirable_weight": config.desirable,
            "undesirable_weight": config.undesirable,
        }
        trainer = KTOTrainer(
            model=model.model,
            ref_model=trl.reference_copy(model),
            args=trl.arguments(KTOConfig, model, seed, folder, **settings),
            data_collator=trl_data.unpaired(model, pairs, prompts),
            train_dataset=trl_data.ordered(2 * len(pairs), size, seed, "kto"),
            processing_class=model.processor,
        )
        trl.run(trainer, model, meter, items=size)
