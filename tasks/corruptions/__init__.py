"""Corruptions of one modality of an item: ``image-*`` edits the image, ``text-*`` the text.

    corrupt("image-noise", 3, "item id", Inputs(image, text), lambda rng: other_inputs)
    CORRUPTIONS["text-typo"].severities    # (1, 2, 3, 4, 5)

A corruption sees ``Inputs`` and nothing else, so no instruction is ever changed. Its random
generator is seeded by corruption, severity and item id: the result is the same for every model,
order, batch size and process.

Strengths are those of ImageNet-C where it has the corruption (Hendrycks and Dietterich, ICLR 2019;
``make_imagenet_c.py``). It works on images of 224 pixels: on larger photos noise, blur, JPEG
artefacts and pixels are made as coarse as they would be there, because an encoder shrinks the
photo and would average finer ones out. Occlusion, rotation and the text's strengths are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Donor, Inputs
from steelyard.harness.core.seeds import seed_for

if TYPE_CHECKING:
    import numpy as np

Apply = Callable[[Inputs, int, "np.random.Generator", Donor], Inputs]
"""Corrupts inputs with a severity (0 if it has none), a generator and a draw of another item."""
DonorKind = Literal["any", "other_class"]
"""Items to draw from: any with other content, or only those that also have another right answer."""

SEVERITIES = (1, 2, 3, 4, 5)
DEFAULT_SEVERITY = 3
ATTACK_LEVELS = (2, 4, 8, 16, 32)
"""Largest change of a pixel by the attack at each severity, in grey levels of 255."""


@dataclass(frozen=True, slots=True)
class CorruptionKind:
    """Corruption as the registry describes it."""

    function: str
    """Name in the module of its modality, imported when needed; empty for the attack, which the
    scored model computes (``evaluation.adversarial``)."""
    modality: Literal["image", "text"]
    severities: tuple[int, ...]
    """Empty if severity has no meaning."""
    summary: str
    donor: DonorKind = "any"

    @property
    def apply(self) -> Apply | None:
        """Function of the corruption; None for the attack."""
        if not self.function:
            return None
        module: Any = import_module(f"{__name__}.{self.modality}")
        return cast(Apply, getattr(module, self.function))


CORRUPTIONS: dict[str, CorruptionKind] = {
    "image-blank": CorruptionKind("image_blank", "image", (), "image removed"),
    "image-noise": CorruptionKind(
        "image_noise", "image", SEVERITIES, "Gaussian noise on the pixels"
    ),
    "image-blur": CorruptionKind("image_blur", "image", SEVERITIES, "Gaussian blur"),
    "image-jpeg": CorruptionKind("image_jpeg", "image", SEVERITIES, "JPEG artefacts"),
    "image-pixelate": CorruptionKind("image_pixelate", "image", SEVERITIES, "fewer, larger pixels"),
    "image-contrast": CorruptionKind("image_contrast", "image", SEVERITIES, "less contrast"),
    "image-brightness": CorruptionKind("image_brightness", "image", SEVERITIES, "overexposed"),
    "image-occlusion": CorruptionKind(
        "image_occlusion", "image", SEVERITIES, "covered by rectangles"
    ),
    "image-rotation": CorruptionKind("image_rotation", "image", SEVERITIES, "turned left or right"),
    "image-shuffle": CorruptionKind("image_shuffle", "image", (), "image of another item"),
    "image-adversarial": CorruptionKind(
        "", "image", SEVERITIES, "attacked by the model that is scored, white-box PGD"
    ),
    "text-blank": CorruptionKind("text_blank", "text", (), "text removed"),
    "text-noise": CorruptionKind("text_noise", "text", SEVERITIES, "words replaced by random ones"),
    "text-typo": CorruptionKind("text_typo", "text", SEVERITIES, "typing errors"),
    "text-wordshuffle": CorruptionKind("text_wordshuffle", "text", (), "words in random order"),
    "text-shuffle": CorruptionKind("text_shuffle", "text", (), "text of another item"),
    "text-misleading": CorruptionKind(
        "text_shuffle", "text", (), "text of an item with another answer", donor="other_class"
    ),
}

STANDARD = (
    "image-blank", "image-noise", "image-shuffle",
    "text-blank", "text-noise", "text-shuffle", "text-wordshuffle",
)  # fmt: skip
"""Corruptions of a single run without ``--corruptions``."""


def corrupt(
    name: str,
    severity: int | None,
    key: str,
    inputs: Inputs,
    draw: "Callable[[np.random.Generator], Inputs]",
) -> Inputs:
    """Corrupt one item, each of its images separately.

    Args:
        severity: one of the corruption's severities, None if it has none.
        key: the item's id, which seeds the corruption.
        inputs: the item, with the modality to corrupt present.
        draw: draws another item of the corruption's ``DonorKind``.

    Raises:
        UserError: the corruption is an attack, which only the scored model can compute.
    """
    import numpy as np

    apply = CORRUPTIONS[name].apply
    if apply is None:
        raise UserError(
            f"{name} is computed by the model that is scored, against the right answer: it works "
            "on steelyard's own tasks only."
        )
    seed_parts = ("corruption", name, severity, key)

    def corrupted(index: int) -> Inputs:
        rng = np.random.default_rng(seed_for(*seed_parts, *([index] if index else [])))
        # All images of an item draw alike, so that they are swapped for those of one other item.
        draw_rng = np.random.default_rng(seed_for(*seed_parts)) if index else rng
        return apply(inputs.only(index), severity or 0, rng, lambda: draw(draw_rng).only(index))

    first, *rest = (corrupted(index) for index in range(max(1, len(inputs.images))))
    return replace(first, more=tuple(part.image for part in rest if part.image is not None))
