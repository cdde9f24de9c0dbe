"""MBPO: preferences against answers mined by attacking the image, together with sampled answers.

Liu, Xiong, Chen, Chen, Wu, Guo, Zhou, Huang: "Modality-Balancing Preference Optimization of Large
Multimodal Models by Adversarial Negative Mining", arXiv 2506.08022. There is no official code, and
the paper leaves many settings open: **every choice marked "ours" below is this file's**, so this is
the published algorithm and not a reproduction of the published numbers.

1. Select by image information gain, IG(y; v, q) = (1/T) sum_t [log p(y_t | v, q, y_<t) -
   log p(y_t | q, y_<t)]: by how much the right answer y_w needs the image v. Items of high gain are
   mined. Ours: mean over tokens; "no image" means that it is removed (``iig_reference``); the best
   half of each subset of the data (``iig_top``); scored by the start model. Only as many items are
   scored as can then be attacked.
2. Attack. v' minimises the likelihood of y_w, untargeted: v' <- clip(v' + step sign grad NLL(y_w)).
   Ours: maximum norm, epsilon 16/255 of the range, step 2/255, random start, on the processor's
   output; 10 steps, or down to 3 if fewer items than 16 batches of pairs could be attacked
   otherwise (``mine_steps`` in the log).
3. Pair. y_l is the model's answer to v', and y_w the data's answer. Both are trained on the clean
   image. Ours: greedy answers (``mine_temperature``) of the start model, and the filters of
   ``_mbpo/mining.py``; the paper has none. A filter that favours a right answer would teach it, so
   pairs are thinned until all right answers of a question type remain equally often. A run on
   fewer than 8 batches of pairs is marked (``starved``), one without a pair fails.
4. Train with GRPO (see ``grpo``) on two streams: pairs as groups of two with rewards 2 and 0, and
   ``group`` answers sampled to closed questions, with a reward for the right answer and one for its
   form. The paper prints only the reward of 2. Divided by the group's standard deviation,
   advantages are +-0.7071 whatever the rewards. Ours: the old policy is the policy in both streams,
   beta 0.04, half of the batches from each stream (``mix``), and all other settings of GRPO. The
   divergence on pairs is half of the squared log-ratio: k3 assumes answers that the policy sampled,
   and pulls a wrong answer that became g nats a token less likely back by e^g - 1. A batch of
   ``batch_size`` answers is ``batch_size / group`` questions or ``batch_size / 2`` pairs.

The likelihood of the right answer may fall as well, by less than that of the wrong one
(displacement); ``nll_anchor`` adds its negative log-likelihood. Switches for factorial studies:
``mining`` (the attack, noise of the same size, a black image, no image), ``iig``, ``stream`` and
``format_reward``. Scoring, attacks and mined answers are charged to the phase ``mine`` and end at
``mine_share`` of the budget; sampling is charged to ``rollout``, the frozen start to ``reference``.

On a classifier (ours) the policy is the distribution over classes: see ``_mbpo/classifier.py``.

Learning rate on a vision-language model: a tenth of the backbone's, as in ``grpo``; the paper
prints none.
"""

from dataclasses import dataclass
from typing import Literal

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.options import require
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Choice, LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._mbpo.classifier import ClassifierPolicy, warm_up
from steelyard.methods._mbpo.mining import (
    FAULTS,
    MinedAnswer,
    Policy,
    Reference,
    filter_pairs,
    mine,
    parse_faults,
)
from steelyard.methods._preference.online import Sampling

ABOUT = About(
    title="MBPO",
    kind="preference",
    summary="Prefers the right answer to the one given to an attacked image, and reinforces right "
    "answers among sampled ones.",
    paper="Liu et al., Modality-Balancing Preference Optimization of Large Multimodal Models by "
    "Adversarial Negative Mining, arXiv 2506.08022",
    backbones=("vlm", "classifier"),
    learning_rate=0.1,
    trainer="GRPOConfig",
)


@dataclass(frozen=True, slots=True)
class Config(Sampling):
    """Options of mining, of the mixture, and of losses beside those of GRPO; all are ours."""

    mining: Literal["adversarial", "noise", "blank", "no_image"] = "adversarial"
    """Replacement of the image that makes the model answer wrongly."""
    iig: bool = True
    """Mine the items whose right answer needs the image most."""
    iig_top: float = 0.5
    """Fraction of items to mine within each subset."""
    iig_reference: Reference = "removed"
    """What stands for the missing image when the gain is measured."""
    stream: Literal["hybrid", "offline", "online"] = "hybrid"
    """Rows that train: mined pairs, sampled answers, or both."""
    mix: float = 0.5
    """Fraction of offline batches in the hybrid."""
    offline_weight: float = 1.0
    """Factor on the advantages of the pairs."""
    nll_anchor: float = 0.0
    """Weight of the negative log-likelihood of the right answers of pairs."""
    epsilon: float = 16 / 255
    """Largest change of a pixel, as a fraction of the range."""
    step: float = 2 / 255
    """Change of a pixel per step of the attack, as a fraction of the range."""
    steps: int = 10
    """At most; a short budget leaves fewer."""
    random_start: bool = True
    """Start the attack from noise."""
    mine_temperature: float = 0.0
    """Of the answer to the attacked image; 0 is greedy."""
    mine_max_tokens: int = 0
    """Maximum length of the answer to the attacked image; 0: of a training answer."""
    mine_limit: int = 1000
    """Maximum number of items to score and mine; on the data track no more than its items."""
    mine_share: float = 0.3
    """Fraction of the budget for scoring and mining; after ``warmup``, of the remaining budget."""
    filters: str = ",".join(FAULTS)
    """Faults for which a mined answer is dropped, comma-separated."""
    warmup: float = 0.5
    """Classifier only: fraction of the budget for joint training before preferences begin."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)  # super() fails in a dataclass with slots
        parse_faults(self.filters)
        for name in ("mix", "mine_share", "warmup", "epsilon", "step"):
            require(self, name, 0 < getattr(self, name) < 1, "a number between 0 and 1")
        top = "a fraction in (0, 1]; iig=false mines all items"
        require(self, "iig_top", 0 < self.iig_top <= 1, top)
        for name in ("steps", "mine_limit"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "mine_max_tokens", self.mine_max_tokens >= 0, "0 or more")


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
    if backbone.kind == "classifier":
        warm_up(backbone, data, meter, config.warmup, seed)
        kind: type[Policy] = ClassifierPolicy
    else:
        # Imported here, because trl takes seconds and a classifier does not need it.
        from steelyard.methods._mbpo.vlm import VlmPolicy as kind
    policy = kind(backbone, data, meter, config, seed)
    pairs: list[MinedAnswer] = []
    if config.stream != "online":
        with meter.phase("mine"):
            answers = mine(policy)
        pairs = filter_pairs(policy, answers)
    policy.train(pairs)
