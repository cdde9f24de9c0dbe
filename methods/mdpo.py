"""mDPO: DPO that also prefers the true image to a corrupted one, and anchors the right answer.

Wang, Zhou, Huang, Xu, Zhang, Poon, Chen: "mDPO: Conditional Preference Optimization for Multimodal
Large Language Models", EMNLP 2024, arXiv 2406.11839.

With d(y, m) = log p(y | image m) - log p_start(y | image m), right answer y_w, wrong answer y_l,
true image m_w and corrupted image m_l:

    L =        -log sigmoid(beta (d(y_w, m_w) - d(y_l, m_w)))      answers, as in DPO
      + image  -log sigmoid(beta (d(y_w, m_w) - d(y_w, m_l)))      images
      + anchor -log sigmoid(beta d(y_w, m_w) - delta)              the right answer stays likely

Weights 1, beta 0.1 and delta 0 are the paper's. A step passes three rows per example through the
model; DPO passes two.

``crop``: m_l is a random crop of 1 to 20 % of the image's area, scaled back to its size, as in the
authors' code (the paper says 0 to 20 %). Ours: aspect ratio between 3/4 and 4/3, one crop per
example for the full run. ``noise``, ours: Gaussian noise of a severity from 1 to 5. Examples
without an image take part in the first and the last term only. The paper takes wrong answers from
a preference data set; here they are those of ``methods/_preference/negatives.py``.

Learning rate: a tenth of the backbone's. The authors train adapters at 1e-5, where fine-tuning
takes 1e-4 to 2e-4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import logsigmoid

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.search import LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._preference.negatives import PairOptions, with_noise

ABOUT = About(
    title="mDPO",
    kind="preference",
    summary="Prefers the right answer to a wrong one and the true image to a corrupted one.",
    paper="Wang et al., mDPO: Conditional Preference Optimization for Multimodal Large Language "
    "Models, EMNLP 2024, arXiv 2406.11839",
    backbones=("vlm",),
    learning_rate=0.1,
)


@dataclass(frozen=True, slots=True)
class Config(PairOptions):
    corruption: Literal["crop", "noise"] = "crop"
    """How m_l is made; ``severity`` is also that of ``noise``."""
    image: float = 1.0
    """Weight of the preference for the item's own image; 0 leaves it out."""
    anchor: float = 1.0
    """Weight of the term that keeps right answers likely."""
    delta: float = 0.0
    """Margin that the right answer's reward has to exceed."""
    weights = ("image", "anchor")


SEARCH: Space = {
    # The paper fixes all three; the ranges around its values are ours.
    "beta": LogUniform(0.05, 1.0),
    "image": LogUniform(0.3, 3.0),
    "anchor": LogUniform(0.3, 3.0),
}


def train(backbone: Vlm, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Make pairs with the start model, then minimise L until the budget is spent."""
    # Imported here, because trl takes seconds.
    from steelyard.methods._preference import trl_data
    from steelyard.methods._preference.pairwise import (
        CORRUPTED,
        PAIR,
        ImagePairTrainer,
        train_on_pairs,
    )

    # Without their term, corrupted images are not passed through the model.
    inputs = corrupted_inputs(data, config, seed) if config.image else None
    corrupted = trl_data.prompts_of(backbone, data, inputs) if inputs else None
    train_on_pairs(
        backbone,
        data,
        meter,
        config,
        seed,
        trainer_class=partial(ImagePairTrainer, terms=partial(loss_terms, config=config)),
        reference=(*PAIR, CORRUPTED) if config.image else PAIR,
        compares=config.image > 0,  # a mean over the rows of a pass that have an image
        collator=partial(trl_data.preference, corrupted_at=corrupted),
    )


def loss_terms(
    right: Tensor, wrong: Tensor, corrupted: Tensor, has_image: Tensor, config: Config
) -> dict[str, Tensor]:
    """Return the three weighted terms, scalars.

    ``right`` is d(y_w, m_w), ``wrong`` d(y_l, m_w) and ``corrupted`` d(y_w, m_l), each [B].
    """
    # Without an image, d(y_w, m_l) is d(y_w, m_w), and the term a constant log 2.
    images = -logsigmoid(config.beta * (right - corrupted)) * has_image
    return {
        "loss_answer": -logsigmoid(config.beta * (right - wrong)).mean(),
        "loss_image": config.image * images.sum() / has_image.sum().clamp(min=1),
        "loss_anchor": config.anchor * -logsigmoid(config.beta * right - config.delta).mean(),
    }


def corrupted_inputs(data: TrainData, config: Config, seed: int) -> Callable[[int], Inputs]:
    """Return a function from a position to its inputs with a corrupted image, if there is one."""

    def at(position: int) -> Inputs:
        inputs, name = data.turn(position).inputs, data.examples[position].id
        if inputs.image is None:
            return inputs
        if config.corruption == "crop":
            generator = np.random.default_rng(seed_for(seed, "mdpo", "crop", name))
            return replace(inputs, image=random_crop(inputs.image, generator))
        return with_noise(inputs, config.severity, f"mdpo {seed} {name}")

    return at


def random_crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Crop 1 to 20 % of the area at random and scale the crop back to the image's size."""
    area = generator.uniform(0.01, 0.2) * image.width * image.height
    # Uniform in its logarithm, so that wide and tall crops are equally likely.
    aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(image.width, max(1, round(math.sqrt(area * aspect))))
    height = min(image.height, max(1, round(math.sqrt(area / aspect))))
    x = int(generator.integers(image.width - width + 1))
    y = int(generator.integers(image.height - height + 1))
    box = (x, y, x + width, y + height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)
