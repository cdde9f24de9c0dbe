"""mDPO: DPO that also prefers the true image to a corrupted one, and anchors the right answer.

Wang, Zhou, Huang, Xu, Zhang, Poon, Chen: "mDPO: Conditional Preference Optimization for Multimodal
Large Language Models", EMNLP 2024, arXiv 2406.11839.

With d(y, m) = log p(y | image m) - log p_start(y | image m), right answer y_w, wrong answer y_l,
true image m_w and corrupted image m_l:

    L =        -log sigmoid(beta (d(y_w, m_w) - d(y_l, m_w)))      answers, as in DPO
      + image  -log sigmoid(beta (d(y_w, m_w) - d(y_w, m_l)))      images
      + anchor -log sigmoid(beta d(y_w, m_w) - delta)              the right answer stays likely

Weights 1, beta 0.1 and delta 0 are the paper's. A step passes three rows per example through the
model and its frozen copy; DPO passes two.

``crop``: m_l is a random crop of 1 to 20 % of the image's area, scaled back to its size, as in the
authors' code (the paper says 0 to 20 %). Ours: aspect ratio between 3/4 and 4/3, one crop per
example for the full run. ``noise``, ours: Gaussian noise of a severity from 1 to 5. Examples
without an image take part in the first and the last term only. The paper takes wrong answers from
a preference data set; here they are those of ``methods/_preference/negatives.py``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
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
from steelyard.methods._preference.negatives import Negatives, PairOptions

ABOUT = About(
    title="mDPO",
    kind="preference",
    summary="Prefers the right answer to a wrong one and the true image to a corrupted one.",
    paper="Wang et al., mDPO: Conditional Preference Optimization for Multimodal Large Language "
    "Models, EMNLP 2024, arXiv 2406.11839",
    backbones=("vlm",),
)
CROP_AREA = (0.01, 0.2)
CROP_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True)
class Config(PairOptions):
    """Kind of wrong answers and weights of the loss; ``PairOptions`` has the options of mining."""

    negatives: Negatives = "no_image"
    beta: float = 0.1
    corruption: Literal["crop", "noise"] = "crop"
    """How m_l is made; ``severity`` is also that of ``noise``."""
    image: float = 1.0
    """Weight of the image term."""
    anchor: float = 1.0
    """Weight of the anchor."""
    delta: float = 0.0
    """Margin that the right answer's reward has to exceed."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or min(self.image, self.anchor) < 0:
            raise UserError(
                f"beta={self.beta}, image={self.image}, anchor={self.anchor}: give beta above 0 "
                "and weights of at least 0."
            )
        PairOptions.__post_init__(self)  # super() fails in a dataclass with slots


SEARCH: Space = {
    # The paper fixes all three; the ranges around its values are ours.
    "beta": LogUniform(0.05, 1.0),
    "image": LogUniform(0.3, 3.0),
    "anchor": LogUniform(0.3, 3.0),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the start model, then minimise L until the budget is spent."""
    # Imported here, because trl takes seconds.
    from trl import DPOConfig

    from steelyard.harness.models.vlm import Vlm
    from steelyard.methods._preference import preflight, trl, trl_data
    from steelyard.methods._preference.image_pairs import ImagePairTrainer
    from steelyard.methods._preference.negatives import make_pairs

    model = cast(Vlm, backbone)
    pairs = make_pairs(model, data, meter, config, seed)
    prompts = trl_data.prompts_of(model, data)
    corrupted = trl_data.prompts_of(model, data, corrupted_inputs(data, config, seed))
    preflight.check(model, data, pairs, prompts)
    size = trl_data.batch_size(model, len(pairs))
    with trl.workspace(model) as folder:
        trainer = ImagePairTrainer(
            terms=partial(loss_terms, config=config),
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
    right: Tensor, wrong: Tensor, corrupted: Tensor, has_image: Tensor, config: Config
) -> dict[str, Tensor]:
    """Return the three weighted terms, scalars, from log-ratios [B] of the policy to its start.

    Args:
        right: d(y_w, m_w).
        wrong: d(y_l, m_w).
        corrupted: d(y_w, m_l).
        has_image: [B] bool; False for examples without an image.
    """
    images = -logsigmoid(config.beta * (right - corrupted)) * has_image
    return {
        "loss_answer": -logsigmoid(config.beta * (right - wrong)).mean(),
        "loss_image": config.image * images.sum() / has_image.sum().clamp(min=1),
        "loss_anchor": config.anchor * -logsigmoid(config.beta * right - config.delta).mean(),
    }


def corrupted_inputs(data: TrainData, config: Config, seed: int) -> Callable[[int], Inputs]:
    """Return a function from a position to its inputs with a corrupted image, if there is one."""
    from steelyard.tasks.corruptions import corrupt

    def at(position: int) -> Inputs:
        inputs, name = data.turn(position).inputs, data.examples[position].id
        if inputs.image is None:
            return inputs
        if config.corruption == "crop":
            generator = np.random.default_rng(seed_for(seed, "mdpo", "crop", name))
            return replace(inputs, image=random_crop(inputs.image, generator))
        # Evaluation seeds its noise with the id alone: training must not see the same noise.
        key = f"mdpo {seed} {name}"
        noisy = corrupt("image-noise", config.severity, key, inputs, lambda generator: inputs)
        return replace(inputs, image=noisy.image)

    return at


def random_crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Crop 1 to 20 % of the area at random and scale the crop back to the image's size."""
    area = generator.uniform(*CROP_AREA) * image.width * image.height
    narrow, wide = CROP_ASPECT
    # Uniform in its logarithm, so that wide and tall crops are equally likely.
    aspect = math.exp(generator.uniform(math.log(narrow), math.log(wide)))
    width = min(image.width, max(1, round(math.sqrt(area * aspect))))
    height = min(image.height, max(1, round(math.sqrt(area / aspect))))
    x = int(generator.integers(image.width - width + 1))
    y = int(generator.integers(image.height - height + 1))
    box = (x, y, x + width, y + height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)
