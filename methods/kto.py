"""KTO: right answers are desirable and wrong ones undesirable, unpaired, by TRL's KTOTrainer.

Ethayarajh, Xu, Muennighoff, Jurafsky, Kiela: "KTO: Model Alignment as Prospect Theoretic
Optimization", ICML 2024, arXiv 2402.01306.

With d = log p(answer) - log p_start(answer) and z the batch's estimate of KL(p, p_start), from
each prompt with the next row's answer, at least 0 and without gradient:

    L = mean of  desirable (1 - sigmoid(beta (d - z)))     over right answers
            and  undesirable (1 - sigmoid(beta (z - d)))   over wrong ones

The same right and wrong answers as the other preference methods use, but shuffled: both answers of
a question are rows of their own. beta 0.1 and weights 1 are the paper's (it asks for desirable
times their number to be 1 to 4/3 of undesirable times theirs, and numbers are equal here).
A step costs more than DPO's on as many rows: KL rows go through both models too.
"""

from dataclasses import dataclass
from typing import cast

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import Negatives, Source

ABOUT = About(
    title="KTO",
    kind="preference",
    summary="Raises right answers and lowers wrong ones, each alone instead of in pairs.",
    paper="Ethayarajh et al., KTO: Model Alignment as Prospect Theoretic Optimization, ICML 2024, "
    "arXiv 2402.01306",
    backbones=("vlm",),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    negatives: Negatives = "no_image"
    beta: float = 0.1
    desirable: float = 1.0
    """Weight of right answers."""
    undesirable: float = 1.0
    """Weight of wrong answers."""
    severity: int = 3
    """Of the noise, for ``noise_image``; 1 to 5."""
    max_pairs: int = 1024
    """Training examples to take both answers of."""

    refill: bool = False
    """Where the mined answer is right: take a random wrong one instead of dropping the example."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or min(self.desirable, self.undesirable) < 0:
            raise UserError(
                f"beta={self.beta}, desirable={self.desirable}, undesirable={self.undesirable}: "
                "give beta above 0 and weights of at least 0."
            )
        self.source()

    def source(self) -> Source:
        """Where the wrong answers come from."""
        return Source(self.negatives, self.severity, self.max_pairs, self.refill)


SEARCH: Space = {
    # The range of beta is ours; 1 to 4/3 is how the paper weighs right answers, if as many.
    "beta": LogUniform(0.05, 0.5),
    "desirable": Uniform(1.0, 1.333),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Take wrong answers from the model as it is, then train until the budget is used."""
    from trl import KTOConfig, KTOTrainer

    from steelyard.harness.models.vlm import Vlm
    from steelyard.methods._preference import preflight, trl, trl_data
    from steelyard.methods._preference.negatives import make_pairs

    model = cast(Vlm, backbone)
    pairs = make_pairs(model, data, meter, config.source(), seed)
    prompts = trl_data.prompts_of(model, data)
    preflight.check(model, data, pairs, prompts)
    size = trl_data.batch_size(model, 2 * len(pairs), least=2)
    with trl.workspace(model) as folder:
        own = {
            "per_device_train_batch_size": size,
            "beta": config.beta,
            "desirable_weight": config.desirable,
            "undesirable_weight": config.undesirable,
        }
        trainer = KTOTrainer(
            model=model.model,
            ref_model=trl.reference_copy(model),
            args=trl.arguments(KTOConfig, model, seed, folder, **own),
            data_collator=trl_data.unpaired(model, pairs, prompts),
            train_dataset=trl_data.ordered(2 * len(pairs), size, seed, "kto"),
            processing_class=model.processor,
        )
        trl.run(trainer, model, meter, items=size)
