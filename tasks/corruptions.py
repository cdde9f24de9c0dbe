"""Damage to one side of an item: ``image-*`` edits the image, ``text-*`` the evidence.

A corruption sees ``Inputs`` and nothing else, so no instruction is ever touched. Its random
generator is seeded by corruption, severity and item id: the damage is the same for every model,
order, batch size and process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from steelyard.harness.backbone import Inputs
from steelyard.harness.seeds import seed_for

Donor = Callable[[], Inputs]
"""Draws the inputs of another item; each call draws anew."""
Apply = Callable[[Inputs, int, np.random.Generator, Donor], Inputs]

SEVERITIES = (1, 2, 3, 4, 5)
DEFAULT_SEVERITY = 3
NOISE_SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation for pixels in [0, 1]: the Gaussian noise of ImageNet-C."""
NOISE_GRID = 224
"""Longest side, in pixels, of the noise field: ImageNet-C adds noise at this size, and per-pixel
noise on a larger photo would be averaged away when an encoder shrinks it."""
WORD_SHARE = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Probability that a word is replaced."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind of damage."""

    apply: Apply
    side: Literal["image", "text"]
    severities: tuple[int, ...]
    """Empty where severity has no meaning."""
    summary: str


def image_blank(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """No image at all; each backbone says what a missing image means to it."""
    return Inputs(None, inputs.evidence)


def image_noise(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Gaussian noise on every pixel and channel, clipped to the valid range."""
    assert inputs.image is not None
    pixels = np.asarray(inputs.image.convert("RGB"))
    height, width, _ = pixels.shape
    shrink = max(height, width, NOISE_GRID) / NOISE_GRID
    rows = (np.arange(height) / shrink).astype(int)
    columns = (np.arange(width) / shrink).astype(int)
    field = rng.standard_normal((rows[-1] + 1, columns[-1] + 1, 3), dtype=np.float32)
    # 16-bit integers halve the time on photos; the rounding is that of any image file.
    noise = np.rint(255 * NOISE_SIGMA[severity - 1] * field).astype(np.int16)
    noisy = (noise[rows[:, None], columns] + pixels).clip(0, 255).astype(np.uint8)
    return Inputs(Image.fromarray(noisy), inputs.evidence)


def image_shuffle(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """The image of another item."""
    return Inputs(donor().image, inputs.evidence)


def text_blank(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """No evidence; the prompt is built as for an item that never had any."""
    return Inputs(inputs.image, None)


def text_noise(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Each word gives way, by chance, to a random word from the evidence of another item."""
    words = (inputs.evidence or "").split()
    replaced = rng.random(len(words)) < WORD_SHARE[severity - 1]
    for place in np.flatnonzero(replaced):
        offered = (donor().evidence or "").split()
        words[place] = offered[rng.integers(len(offered))]
    return Inputs(inputs.image, " ".join(words))


def text_shuffle(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """The evidence of another item."""
    return Inputs(inputs.image, donor().evidence)


def text_wordshuffle(
    inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor
) -> Inputs:
    """The same words in random order."""
    words = (inputs.evidence or "").split()
    return Inputs(inputs.image, " ".join(words[i] for i in rng.permutation(len(words))))


CORRUPTIONS: dict[str, Corruption] = {
    "image-blank": Corruption(image_blank, "image", (), "image removed"),
    "image-noise": Corruption(image_noise, "image", SEVERITIES, "Gaussian noise on the pixels"),
    "image-shuffle": Corruption(image_shuffle, "image", (), "image of another item"),
    "text-blank": Corruption(text_blank, "text", (), "evidence removed"),
    "text-noise": Corruption(text_noise, "text", SEVERITIES, "words replaced by random ones"),
    "text-shuffle": Corruption(text_shuffle, "text", (), "evidence of another item"),
    "text-wordshuffle": Corruption(text_wordshuffle, "text", (), "words in random order"),
}


def corrupt(
    name: str,
    severity: int | None,
    key: str,
    inputs: Inputs,
    others: Callable[[np.random.Generator], Inputs],
) -> Inputs:
    """Damage one item.

    Args:
        severity: one of the corruption's severities, None where it has none.
        key: the item's id, which seeds the damage.
        inputs: the item, with the side to be damaged present.
        others: draws another item with the generator it is given.
    """
    rng = np.random.default_rng(seed_for("corruption", name, severity, key))
    return CORRUPTIONS[name].apply(inputs, severity or 0, rng, lambda: others(rng))
