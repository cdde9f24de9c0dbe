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

Apply = Callable[[Any, int, "np.random.Generator", Donor], Any]
"""Corrupts an RGB image or a text with a severity (0 if it has none), a generator and a draw of
another item; returns None to remove it."""
DonorKind = Literal["any", "other_class"]
"""Items to draw from: any with other content, or only those that also have another right answer."""

SEVERITIES = (1, 2, 3, 4, 5)
DEFAULT_SEVERITY = 3
ATTACK_LEVELS = (2, 4, 8, 16, 32)
"""Largest change of a pixel by the attack at each severity, in grey levels of 255."""


@dataclass(frozen=True, slots=True)
class CorruptionKind:
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
        # Imported late: listing corruptions must not import numpy and PIL.
        module = import_module(f"{__name__}.{self.modality}")
        return cast(Apply, vars(module)[self.function]) if self.function else None


CORRUPTIONS: dict[str, CorruptionKind] = {
    "image-blank": CorruptionKind("blank", "image", (), "image removed"),
    "image-noise": CorruptionKind("noise", "image", SEVERITIES, "Gaussian noise on the pixels"),
    "image-blur": CorruptionKind("blur", "image", SEVERITIES, "Gaussian blur"),
    "image-jpeg": CorruptionKind("jpeg", "image", SEVERITIES, "JPEG artefacts"),
    "image-pixelate": CorruptionKind("pixelate", "image", SEVERITIES, "fewer, larger pixels"),
    "image-contrast": CorruptionKind("contrast", "image", SEVERITIES, "less contrast"),
    "image-brightness": CorruptionKind("brightness", "image", SEVERITIES, "overexposed"),
    "image-occlusion": CorruptionKind("occlusion", "image", SEVERITIES, "covered by rectangles"),
    "image-rotation": CorruptionKind("rotation", "image", SEVERITIES, "turned left or right"),
    "image-shuffle": CorruptionKind("shuffle", "image", (), "image of another item"),
    "image-adversarial": CorruptionKind(
        "", "image", SEVERITIES, "attacked by the model that is scored, white-box PGD"
    ),
    "text-blank": CorruptionKind("blank", "text", (), "text removed"),
    "text-noise": CorruptionKind("noise", "text", SEVERITIES, "words replaced by random ones"),
    "text-typo": CorruptionKind("typo", "text", SEVERITIES, "typing errors"),
    "text-wordshuffle": CorruptionKind("wordshuffle", "text", (), "words in random order"),
    "text-shuffle": CorruptionKind("shuffle", "text", (), "text of another item"),
    "text-misleading": CorruptionKind(
        "shuffle", "text", (), "text of an item with another answer", "other_class"
    ),
}


def corrupt(
    name: str,
    severity: int | None,
    key: str,
    inputs: Inputs,
    draw: "Callable[[np.random.Generator], Inputs]",
) -> Inputs:
    """Corrupt one item, each of its images separately; the modality must be present.

    ``key`` is the item's id, which seeds the corruption; ``draw`` draws another item of the
    corruption's ``DonorKind``. UserError for the attack.
    """
    import numpy as np

    from steelyard.harness.data.images import as_rgb

    kind = CORRUPTIONS[name]
    apply = kind.apply
    if apply is None:
        raise UserError(
            f"{name} is computed by the model that is scored, against the right answer: it works "
            "on steelyard's own tasks only."
        )
    seed_parts = ("corruption", name, severity, key)

    def corrupted(index: int) -> Inputs:
        # The first image's seed has no index: items with one image keep their published corruption.
        rng = np.random.default_rng(seed_for(*seed_parts, *([index] if index else [])))
        # All images of an item draw alike, so that they are swapped for those of one other item.
        draw_rng = np.random.default_rng(seed_for(*seed_parts)) if index else rng
        item = inputs.only(index)
        image = item.image

        def donor() -> Inputs:
            return draw(draw_rng).only(index)

        if kind.modality == "image":
            content = as_rgb(image) if image else None
            return Inputs(apply(content, severity or 0, rng, donor), item.text)
        return Inputs(image, apply(item.text or "", severity or 0, rng, donor))

    first, *rest = (corrupted(index) for index in range(max(1, len(inputs.images))))
    return replace(first, more=tuple(part.image for part in rest if part.image is not None))
