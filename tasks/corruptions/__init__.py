"""Damage to one side of an item: ``image-*`` edits the image, ``text-*`` the evidence.

A corruption sees ``Inputs`` and nothing else, so no instruction is ever touched. Its random
generator is seeded by corruption, severity and item id: the damage is the same for every model,
order, batch size and process.

Strengths are those of ImageNet-C where it has the corruption (Hendrycks and Dietterich, ICLR 2019;
``make_imagenet_c.py``). It works on images of 224 pixels: on larger photos noise, blur, JPEG
artefacts and pixels are made as coarse as they would be there, because an encoder shrinks the
photo and would average fine damage away. Occlusion, rotation and the text's strengths are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Donor, Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks.corruptions.image import (
    image_blank,
    image_blur,
    image_brightness,
    image_contrast,
    image_jpeg,
    image_noise,
    image_occlusion,
    image_pixelate,
    image_rotation,
    image_shuffle,
)
from steelyard.tasks.corruptions.text import (
    text_blank,
    text_misleading,
    text_noise,
    text_shuffle,
    text_typo,
    text_wordshuffle,
)

Apply = Callable[[Inputs, int, np.random.Generator, Donor], Inputs]
Giver = Literal["other", "rival"]
"""Whom a donor may be: any item with another content, or only one with another right answer too."""

SEVERITIES = (1, 2, 3, 4, 5)
DEFAULT_SEVERITY = 3
ATTACK_LEVELS = (2, 4, 8, 16, 32)
"""Largest change of a pixel by the attack, in grey levels of 255."""


@dataclass(frozen=True, slots=True)
class CorruptionKind:
    """One kind of damage."""

    apply: Apply | None
    """None where the model that is scored makes the damage itself (``evaluation.adversarial``)."""
    modality: Literal["image", "text"]
    severities: tuple[int, ...]
    """Empty where severity has no meaning."""
    summary: str
    giver: Giver = "other"


# --- the image ---------------------------------------------------------------------------------


# --- the text ----------------------------------------------------------------------------------


CORRUPTIONS: dict[str, CorruptionKind] = {
    "image-blank": CorruptionKind(image_blank, "image", (), "image removed"),
    "image-noise": CorruptionKind(image_noise, "image", SEVERITIES, "Gaussian noise on the pixels"),
    "image-blur": CorruptionKind(image_blur, "image", SEVERITIES, "Gaussian blur"),
    "image-jpeg": CorruptionKind(image_jpeg, "image", SEVERITIES, "JPEG artefacts"),
    "image-pixelate": CorruptionKind(image_pixelate, "image", SEVERITIES, "fewer, larger pixels"),
    "image-contrast": CorruptionKind(image_contrast, "image", SEVERITIES, "less contrast"),
    "image-brightness": CorruptionKind(image_brightness, "image", SEVERITIES, "overexposed"),
    "image-occlusion": CorruptionKind(
        image_occlusion, "image", SEVERITIES, "covered by rectangles"
    ),
    "image-rotation": CorruptionKind(image_rotation, "image", SEVERITIES, "turned left or right"),
    "image-shuffle": CorruptionKind(image_shuffle, "image", (), "image of another item"),
    "image-adversarial": CorruptionKind(
        None, "image", SEVERITIES, "attacked by the model that is scored, white-box PGD"
    ),
    "text-blank": CorruptionKind(text_blank, "text", (), "evidence removed"),
    "text-noise": CorruptionKind(text_noise, "text", SEVERITIES, "words replaced by random ones"),
    "text-typo": CorruptionKind(text_typo, "text", SEVERITIES, "typing errors"),
    "text-wordshuffle": CorruptionKind(text_wordshuffle, "text", (), "words in random order"),
    "text-shuffle": CorruptionKind(text_shuffle, "text", (), "evidence of another item"),
    "text-misleading": CorruptionKind(
        text_misleading, "text", (), "evidence of an item with another answer", giver="rival"
    ),
}

STANDARD = (
    "image-blank", "image-noise", "image-shuffle",
    "text-blank", "text-noise", "text-shuffle", "text-wordshuffle",
)  # fmt: skip
"""What a single run is scored under unless told otherwise."""


def corrupt(
    name: str,
    severity: int | None,
    key: str,
    inputs: Inputs,
    others: Callable[[np.random.Generator], Inputs],
) -> Inputs:
    """Damage one item, each of its images by itself.

    Args:
        severity: one of the corruption's severities, None where it has none.
        key: the item's id, which seeds the damage.
        inputs: the item, with the side to be damaged present.
        others: draws another item, of the kind the corruption takes, with the generator given.

    Raises:
        UserError: the model that is scored has to make this damage.
    """
    apply = CORRUPTIONS[name].apply
    if apply is None:
        raise UserError(
            f"{name} is made by the model that is scored, against the right answer: it works on "
            "steelyard's own tasks only."
        )
    parts = ("corruption", name, severity, key)

    def corrupted(place: int) -> Inputs:
        rng = np.random.default_rng(seed_for(*parts, *([place] if place else [])))
        # Every image of an item draws alike, so that what is swapped in is one other item.
        drawing = np.random.default_rng(seed_for(*parts)) if place else rng
        return apply(inputs.only(place), severity or 0, rng, lambda: others(drawing).only(place))

    first, *rest = (corrupted(place) for place in range(max(1, len(inputs.images))))
    return replace(first, more=tuple(each.image for each in rest if each.image is not None))
