"""mDPO: DPO that also prefers the true image to a damaged one, with an anchor on the right answer.

Wang, Zhou, Huang, Xu, Zhang, Poon, Chen: "mDPO: Conditional Preference Optimization for Multimodal
Large Language Models", EMNLP 2024, arXiv 2406.11839.

With d(y, v) = log p(y | image v) - log p_start(y | image v), right answer w, wrong answer l, true
image v and damaged image u:

    L =        -log sigmoid(beta (d(w, v) - d(l, v)))          answers, as in DPO
      + image  -log sigmoid(beta (d(w, v) - d(w, u)))          images
      + anchor -log sigmoid(beta d(w, v) - delta)              the right answer stays likely

All weights 1, beta 0.1 and delta 0 are the paper's. ``crop``: u is a random crop of 1 to 20 % of
v's area scaled back to v's size, as in the authors' code (the paper says 0 to 20 %), its aspect
ratio drawn between 3/4 and 4/3; one crop per example, drawn once. ``noise``: Gaussian noise of a
severity from 1 to 5. An example without an image takes part in the first and the last term only.

The wrong answers are those of ``methods/_preferences.py``, where the paper takes them from a
preference data set. A step runs three rows an example through the model and its frozen copy, DPO
two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import logsigmoid

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.training.search import LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import Negatives, Source

ABOUT = About(
    title="mDPO",
    kind="preference",
    summary="Prefers the right answer to a wrong one and the true image to a damaged one.",
    paper="Wang et al., mDPO: Conditional Preference Optimization for Multimodal Large Language "
    "Models, EMNLP 2024, arXiv 2406.11839",
    backbones=("vlm",),
)
CROP_AREA = (0.01, 0.2)
CROP_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True)
class Config:
    """Options."""

    negatives: Negatives = "no_image"
    beta: float = 0.1
    corruption: Literal["crop", "noise"] = "crop"
    """What is done to the image that is not preferred."""
    image: float = 1.0
    """Weight of the term on images."""
    anchor: float = 1.0
    """Weight of the anchor."""
    delta: float = 0.0
    """What the right answer's reward is held above."""
    severity: int = 3
    """Of the noise, in ``damage`` and ``negatives``; 1 to 5."""
    max_pairs: int = 1024
    """Training examples to make pairs of."""

    refill: bool = False
    """Where the mined answer is right: take a random wrong one instead of dropping the example."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or min(self.image, self.anchor) < 0:
            raise UserError(
                f"beta={self.beta}, image={self.image}, anchor={self.anchor}: give beta above 0 "
                "and weights of at least 0."
            )
        self.source()

    def source(self) -> Source:
        """Where the wrong answers come from."""
        return Source(self.negatives, self.severity, self.max_pairs, self.refill)


SEARCH: Space = {
    # The paper fixes all three; ranges about its values are ours.
    "beta": LogUniform(0.05, 1.0),
    "image": LogUniform(0.3, 3.0),
    "anchor": LogUniform(0.3, 3.0),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the model as it is, then minimise the loss until the budget is used."""
    from trl import DPOConfig

    from steelyard.harness.models.vlm import Vlm
    from steelyard.methods._preference import preflight, trl, trl_data
    from steelyard.methods._preference.image_pairs import ImagePairTrainer
    from steelyard.methods._preference.negatives import make_pairs

    model = cast(Vlm, backbone)
    pairs = make_pairs(model, data, meter, config.source(), seed)
    prompts = trl_data.prompts_of(model, data)
    corrupted = trl_data.prompts_of(model, data, corrupted_inputs(data, config, seed))
    preflight.check(model, data, pairs, prompts)
    size = trl_data.batch_size(model, len(pairs))
    with trl.workspace(model) as folder:
        trainer = ImagePairTrainer(
            terms=lambda right, wrong, blurred, seen: loss_terms(
                right, wrong, blurred, seen, config
            ),
            model=model.model,
            ref_model=trl.reference_copy(model),
            args=trl.arguments(
                DPOConfig, model, seed, folder, per_device_train_batch_size=size, beta=config.beta
            ),
            data_collator=trl_data.image_preference(model, pairs, prompts, corrupted),
            train_dataset=trl_data.ordered(len(pairs), size, seed, "pairs"),
            processing_class=model.processor,
        )
        trl.run(trainer, model, meter, items=size)


def loss_terms(
    right: Tensor, wrong: Tensor, corrupted: Tensor, seen: Tensor, config: Config
) -> dict[str, Tensor]:
    """The three weighted terms, scalars, from log-ratios [B] of the policy to its start.

    Args:
        right: of the right answer with the true image.
        wrong: of the wrong answer with the true image.
        damaged: of the right answer with the damaged image.
        seen: [B] bool, whether the example has an image.
    """
    images = -logsigmoid(config.beta * (right - corrupted)) * seen
    return {
        "loss_answer": -logsigmoid(config.beta * (right - wrong)).mean(),
        "loss_image": config.image * images.sum() / seen.sum().clamp(min=1),
        "loss_anchor": config.anchor * -logsigmoid(config.beta * right - config.delta).mean(),
    }


def corrupted_inputs(data: TrainData, config: Config, seed: int) -> Callable[[int], Inputs]:
    """Inputs at a position with a damaged image; as they are where there is none."""
    from steelyard.tasks.corruptions import corrupt

    def at(position: int) -> Inputs:
        inputs, name = data.turn(position).inputs, data.examples[position].id
        if inputs.image is None:
            return inputs
        if config.corruption == "crop":
            generator = np.random.default_rng(seed_for(seed, "mdpo", "crop", name))
            return replace(inputs, image=random_crop(inputs.image, generator))
        key = f"mdpo {seed} {name}"
        noisy = corrupt("image-noise", config.severity, key, inputs, lambda generator: inputs)
        return replace(inputs, image=noisy.image)

    return at


def random_crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A crop of 1 to 20 % of the area, scaled back to the image's size."""
    area = generator.uniform(*CROP_AREA) * image.width * image.height
    narrow, wide = CROP_ASPECT
    aspect = math.exp(generator.uniform(math.log(narrow), math.log(wide)))
    width = min(image.width, max(1, round(math.sqrt(area * aspect))))
    height = min(image.height, max(1, round(math.sqrt(area / aspect))))
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    box = (left, top, left + width, top + height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)
