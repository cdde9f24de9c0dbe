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

Learning rate on a vision-language model: a tenth of the backbone's, as in ``grpo``; the paper
prints none.
"""

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import Choice, LogUniform, Space, Uniform
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._mbpo import mining
from steelyard.methods._mbpo.classifier import ClassifierPolicy, warm_up
from steelyard.methods._mbpo.options import MbpoOptions

ABOUT = About(
    title="MBPO",
    kind="preference",
    summary="Prefers the right answer to the one given to an attacked image, and reinforces right "
    "answers among sampled ones.",
    paper="Liu et al., Modality-Balancing Preference Optimization of Large Multimodal Models by "
    "Adversarial Negative Mining, arXiv 2506.08022",
    backbones=("vlm", "classifier"),
    learning_rate=0.1,
)


Config = MbpoOptions

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
        kind: type[mining.Policy] = ClassifierPolicy
    else:
        # Imported here, because trl takes seconds and a classifier does not need it.
        from steelyard.methods._mbpo.vlm import VlmPolicy as kind
    policy = kind(backbone, data, meter, config, seed)
    pairs: list[mining.MinedAnswer] = []
    if config.stream != "online":
        # Before selection, which is part of the same fraction.
        end = mining.fraction_after(meter, config.mine_share)
        with meter.phase("mine"):
            answers = mining.mine(policy, mining.select(policy), end)
        pairs = mining.filter_pairs(policy, answers)
    policy.train(pairs)
