"""MBPO: preferences against answers mined by attacking the image, together with sampled answers.

Liu, Xiong, Chen, Chen, Wu, Guo, Zhou, Huang: "Modality-Balancing Preference Optimization of Large
Multimodal Models by Adversarial Negative Mining", arXiv 2506.08022. There is no official code, and
the paper leaves many settings open: **every choice marked "ours" below is this file's**, so this is
the published algorithm and not a reproduction of the published numbers.

1. Select by image information gain, IG(y; v, q) = (1/T) sum_t [log p(y_t | v, q, y_<t) -
   log p(y_t | q, y_<t)]: by how much the right answer y_w needs the image v. Items of high gain are
   mined. Ours: mean over tokens; "no image" means that it is removed (``iig_reference``); the best
   half of each subset of the data (``iig_top``); scored by the start model.
2. Attack. v' minimises the likelihood of y_w, untargeted: v' <- clip(v' + step sign grad NLL(y_w)).
   Ours: maximum norm, epsilon 16/255 of the range, step 2/255, 10 steps, random start, on the
   processor's output.
3. Pair. y_l is the model's answer to v', and y_w the data's answer. Both are trained on the clean
   image. Ours: greedy answers (``mine_temperature``) of the start model, and the filters of
   ``_mbpo/mining.py``; the paper has none.
4. Train with GRPO (see ``grpo``) on two streams: pairs as groups of two with rewards 2 and 0, and
   ``group`` answers sampled to closed questions, with a reward for the right answer and one for its
   form. The paper prints only the reward of 2. Divided by the group's standard deviation,
   advantages are +-0.7071 whatever the rewards. Ours: the old policy is the policy in both streams,
   beta 0.04, half of the batches from each stream (``mix``), and all other settings of GRPO.

The likelihood of the right answer may fall as well, by less than that of the wrong one
(displacement); ``nll_anchor`` adds its negative log-likelihood. Switches for factorial studies:
``mining`` (the attack, noise of the same size, a black image, no image), ``iig``, ``stream`` and
``format_reward``. Scoring, attacks and mined answers are charged to the phase ``mine`` and end at
``mine_share`` of the budget; sampling is charged to ``rollout``, the frozen start to ``reference``.

On a classifier (ours) the policy is the distribution over classes: see ``_mbpo/classifier.py``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Choice, LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._mbpo.classifier import ClassifierPolicy, warm_up
from steelyard.methods._mbpo.mining import (
    FAULTS,
    Attack,
    MinedAnswer,
    Mining,
    Policy,
    Reference,
    Selection,
    filter_pairs,
    fraction_after,
    mine,
    parse_faults,
    select,
)
from steelyard.methods._preference.online import Sampling, Streams

if TYPE_CHECKING:
    from steelyard.harness.models.vlm import Vlm

ABOUT = About(
    title="MBPO",
    kind="preference",
    summary="Prefers the right answer to the one given to an attacked image, and reinforces right "
    "answers among sampled ones.",
    paper="Liu et al., Modality-Balancing Preference Optimization of Large Multimodal Models by "
    "Adversarial Negative Mining, arXiv 2506.08022",
    backbones=("vlm", "classifier"),
)


@dataclass(frozen=True, slots=True)
class Config(Sampling):
    """Mining, mixture of the streams, and losses; ``Sampling`` has the options of GRPO."""

    mining: Mining = "adversarial"
    """Replacement of the image that makes the model answer wrongly."""
    iig: bool = True
    """Mine the items whose right answer needs the image most."""
    iig_top: float = 0.5
    """Fraction of items to mine within each subset."""
    iig_reference: Reference = "removed"
    stream: Literal["hybrid", "offline", "online"] = "hybrid"
    mix: float = 0.5
    """Fraction of offline batches in the hybrid."""
    beta: float = 0.04
    """Weight of the divergence from the start model."""
    offline_weight: float = 1.0
    """Factor on the advantages of the pairs."""
    nll_anchor: float = 0.0
    """Weight of the negative log-likelihood of the right answers of pairs."""
    epsilon: float = 16 / 255
    """Largest change of a pixel, as a fraction of the range."""
    step: float = 2 / 255
    steps: int = 10
    random_start: bool = True
    mine_temperature: float = 0.0
    """Of the answer to the attacked image; 0 is greedy."""
    mine_limit: int = 1000
    """Maximum number of items to score and mine."""
    mine_share: float = 0.3
    """Fraction of the budget for scoring and mining; after ``warmup``, of the remaining budget."""
    filters: str = ",".join(FAULTS)
    """Faults for which a mined answer is dropped, comma-separated."""
    warmup: float = 0.5
    """Classifier only: fraction of the budget for joint training before preferences begin."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)  # super() fails in a dataclass with slots
        parse_faults(self.filters)
        fractions = {
            "mix": self.mix,
            "mine_share": self.mine_share,
            "warmup": self.warmup,
            "epsilon": self.epsilon,
            "step": self.step,
        }
        for name, value in fractions.items():
            if not 0 < value < 1:
                raise UserError(f"{name}={value}: give a number between 0 and 1.")
        if not 0 < self.iig_top <= 1:
            raise UserError(
                f"iig_top={self.iig_top}: give a fraction in (0, 1]; iig=false mines all items."
            )
        for name, count in {"steps": self.steps, "mine_limit": self.mine_limit}.items():
            if count < 1:
                raise UserError(f"{name}={count}: give at least 1.")

    @property
    def attack(self) -> Attack:
        """Options of step 2 and of the answer to the attacked image."""
        return Attack(
            self.mining,
            self.epsilon,
            self.step,
            self.steps,
            self.random_start,
            self.mine_temperature,
        )

    @property
    def selection(self) -> Selection:
        """Options of step 1."""
        top = self.iig_top if self.iig else None
        return Selection(self.mine_limit, self.mine_share, top, self.iig_reference)

    @property
    def streams(self) -> Streams:
        """Options of step 4, beside those of GRPO."""
        return Streams(self.stream, self.mix, self.offline_weight, self.nll_anchor)


SEARCH: Space = {
    # The paper prints neither the size and length of the attack nor any weight.
    "epsilon": LogUniform(8 / 255, 32 / 255),
    "step": LogUniform(1 / 255, 16 / 255),
    "steps": Choice((3, 10)),
    "mix": Uniform(0.25, 0.75),
    "beta": Choice((0.0, 0.01, 0.04, 0.1)),
    "warmup": Uniform(0.3, 0.8, on=("classifier",)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Mine pairs with the start model, then train on both streams until the budget is spent."""
    policy = start_policy(backbone, data, meter, config, seed)
    pairs: list[MinedAnswer] = []
    if config.stream != "online":
        # Before selection, which is part of the same fraction.
        end = fraction_after(meter, config.mine_share)
        with meter.phase("mine"):
            positions = select(backbone, data, meter, config.selection, seed)
            answers = mine(policy, positions, end)
        pairs = filter_pairs(policy, answers, config.filters)
    policy.train(pairs)


def start_policy(
    backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int
) -> Policy:
    """Return the model as a policy to mine and train; a classifier after its joint training."""
    if backbone.kind == "classifier":
        warm_up(backbone, data, meter, config.warmup, seed)
        return ClassifierPolicy(backbone, data, meter, config.attack, config, config.streams, seed)
    # Imported here, because trl takes seconds and a classifier does not need it.
    from steelyard.methods._mbpo.vlm import VlmPolicy

    vlm = cast("Vlm", backbone)
    return VlmPolicy(vlm, data, meter, config.attack, config, config.streams, seed)
