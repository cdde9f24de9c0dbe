"""MBPO: preferences against answers mined by attacking the image, together with sampled answers.

Liu, Xiong, Chen, Chen, Wu, Guo, Zhou, Huang: "Modality-Balancing Preference Optimization of Large
Multimodal Models by Adversarial Negative Mining", arXiv 2506.08022. No official code exists, and
the paper leaves many settings open: **every default marked (ours) below is this file's choice**, so
this is the published algorithm and not a reproduction of the published numbers.

1. Image information gain. IG(y; v, q) = (1/T) sum_t [log p(y_t | v, q, y_<t) - log p(y_t | q,
   y_<t)] scores how much the right answer y_w needs the image v. Items of high gain are kept.
   Ours: mean over tokens; "no image" means removed (``iig_reference``); the best half within each
   subset of the data (``iig_top``); scored by the model before training.
2. Attack. v' minimises the likelihood of y_w, untargeted: v' <- clip(v' + step sign grad NLL(y_w)).
   Ours: maximum norm, epsilon 16/255 of the range, step 2/255, 10 steps, random start, on the
   processor's output.
3. Pair. y_l is what the model answers to v'; y_w is the data's answer. Both are trained on the
   clean image. Ours: greedy (``mine_temperature``), by the model before training, and the filters
   listed at ``_mining.find_faults``, of which the paper has none.
4. Objective. GRPO (see ``grpo``) on two streams: pairs as groups of two with rewards 2 and 0, and
   ``group`` answers sampled to closed questions, with a reward for being right and one for the
   form. Only the 2 is published. Divided by the group's standard deviation, advantages are +-0.7071
   whatever the rewards. Ours: old policy = policy for both streams, beta 0.04, half of the
   batches from each stream (``mix``), all of GRPO's settings.

The likelihood of the right answer may fall as well, by less than that of the wrong one
(displacement); ``nll_anchor`` adds its negative log-likelihood. Switches for a factorial study:
``mining`` (the attack, noise of the same size, a black image, no image), ``iig``, ``stream``,
``format_reward``. Scoring, attacks and mined answers are charged to the phase ``mine`` and stop
at ``mine_share`` of the budget; sampling is charged to ``rollout``, the frozen start to
``reference``.

On a classifier the policy is the distribution over classes: see ``_policy``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Choice, LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._mbpo.mining import (
    FAULTS,
    Attack,
    Mining,
    Reference,
    Selection,
    parse_faults,
)
from steelyard.methods._preference.online import Sampling, check_options

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
class Config:
    """What is mined, what is trained on, and how much the model may move."""

    mining: Mining = "adversarial"
    """What the image is replaced by to get a wrong answer."""
    iig: bool = True
    """Keep the items whose right answer needs the image most."""
    iig_top: float = 0.5
    """Share of items kept within each subset."""
    iig_reference: Reference = "removed"
    stream: Literal["hybrid", "offline", "online"] = "hybrid"
    mix: float = 0.5
    """Share of offline batches in the hybrid."""
    format_reward: bool = True
    beta: float = 0.04
    """Weight of the divergence from the start model."""
    clip: float = 0.2
    offline_weight: float = 1.0
    """Factor on the advantages of the pairs."""
    nll_anchor: float = 0.0
    """Weight of the negative log-likelihood of the right answers of pairs."""
    epsilon: float = 16 / 255
    """Largest change of a pixel, as a share of the range."""
    step: float = 2 / 255
    steps: int = 10
    random_start: bool = True
    mine_temperature: float = 0.0
    """0 answers the attacked image greedily."""
    mine_limit: int = 1000
    """Items scored and mined at most."""
    mine_share: float = 0.3
    """Share of the budget that scoring and mining may take; after ``warmup``, of what is left."""
    filters: str = ",".join(FAULTS)
    """Faults for which a mined answer is dropped, comma-separated."""
    group: int = 8
    temperature: float = 1.0
    max_tokens: int = 12
    """Longest sampled or mined answer."""
    skip_flat: bool = False
    """Let questions sit out a pass when all their sampled answers earned the same."""
    warmup: float = 0.5
    """Classifier only: share of the budget for ordinary training before preferences begin."""

    def __post_init__(self) -> None:
        check_options(self.group, self.temperature, self.max_tokens, self.beta)
        parse_faults(self.filters)
        shares = {
            "mix": self.mix,
            "mine_share": self.mine_share,
            "warmup": self.warmup,
            "epsilon": self.epsilon,
            "step": self.step,
        }
        for name, value in shares.items():
            if not 0 < value < 1:
                raise UserError(f"{name}={value}: give a number between 0 and 1.")
        if not 0 < self.iig_top <= 1:
            raise UserError(f"iig_top={self.iig_top}: give a share in (0, 1]; iig=false keeps all.")
        for name, count in {"steps": self.steps, "mine_limit": self.mine_limit}.items():
            if count < 1:
                raise UserError(f"{name}={count}: give at least 1.")

    @property
    def attack(self) -> Attack:
        """How an image is changed to get a wrong answer."""
        return Attack(self.mining, self.epsilon, self.step, self.steps, self.random_start)

    @property
    def selection(self) -> Selection:
        """Which items are mined, and how much of the budget that may take."""
        top = self.iig_top if self.iig else None
        return Selection(self.mine_limit, self.mine_share, top, self.iig_reference)

    @property
    def sampling(self) -> Sampling:
        """How the online stream samples and judges."""
        return Sampling(
            self.group,
            self.temperature,
            self.max_tokens,
            self.beta,
            self.format_reward,
            self.skip_flat,
        )


SEARCH: Space = {
    # The paper says neither how far, nor how long it attacks, nor how it weighs anything.
    "epsilon": LogUniform(8 / 255, 32 / 255),
    "step": LogUniform(1 / 255, 16 / 255),
    "steps": Choice((3, 10)),
    "mix": Uniform(0.25, 0.75),
    "beta": Choice((0.0, 0.01, 0.04, 0.1)),
    "warmup": Uniform(0.3, 0.8, on=("classifier",)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Mine pairs with the model as it is, then train on both streams until the budget is used."""
    if backbone.kind == "classifier":
        from steelyard.methods._mbpo import classifier

        classifier.train(backbone, data, meter, config, seed)
        return
    from steelyard.methods._mbpo import vlm

    vlm.train(cast("Vlm", backbone), data, meter, config, seed)
