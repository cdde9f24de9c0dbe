"""Damage to one side of an item: ``image-*`` edits the image, ``text-*`` the evidence.

A corruption sees ``Inputs`` and nothing else, so no instruction is ever touched. Its random
generator is seeded by corruption, severity and item id: the damage is the same for every model,
order, batch size and process.

Strengths are those of ImageNet-C where it has the corruption (Hendrycks and Dietterich, ICLR 2019;
``make_imagenet_c.py``). It works on images of 224 pixels: on larger photos noise, blur, JPEG
artefacts and pixels are made as coarse as they would be there, because an encoder shrinks the
photo and would average fine damage away. Occlusion, rotation and the text's strengths are ours.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from steelyard.harness.backbone import Inputs
from steelyard.harness.errors import UserError
from steelyard.harness.seeds import seed_for

Donor = Callable[[], Inputs]
"""Draws the inputs of another item; each call draws anew."""
Apply = Callable[[Inputs, int, np.random.Generator, Donor], Inputs]
Giver = Literal["other", "rival"]
"""Whom a donor may be: any item with another content, or only one with another right answer too."""

SEVERITIES = (1, 2, 3, 4, 5)
DEFAULT_SEVERITY = 3
GRID = 224
"""Longest side, in pixels, at which ImageNet-C's strengths are meant."""
NOISE_SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation for pixels in [0, 1], as in ImageNet-C."""
BLUR_SIGMA = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Standard deviation in pixels of a 224-pixel image, as in ImageNet-C."""
LEAST_BLUR = 0.4
"""Added in quadrature, in real pixels, or small images would stay sharp. So 32- and 64-pixel
images get about the blur that CIFAR-10-C (0.4 to 1) and Tiny-ImageNet-C (0.5 to 1.5) give them."""
NARROW_BLUR = 1.4
"""Least standard deviation, in pixels of a shrunk image, at which a blur is done on it."""
JPEG_QUALITY = (25, 18, 15, 10, 7)
"""As in ImageNet-C."""
PIXELS_LEFT = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Share of a side's pixels, as in ImageNet-C."""
CONTRAST_LEFT = (0.4, 0.3, 0.2, 0.1, 0.05)
"""Share of each pixel's distance from the channel's mean, as in ImageNet-C."""
BRIGHTNESS_ADDED = (0.1, 0.2, 0.3, 0.4, 0.5)
"""To the value of HSV in [0, 1], as in ImageNet-C."""
OCCLUDED_SHARE = (0.1, 0.2, 0.3, 0.45, 0.6)
"""Of the area; ours."""
PATCH_SHARE = 0.04
"""Of the area, one occluding rectangle."""
ROTATION_DEGREES = (5, 10, 20, 30, 45)
"""Ours: to 45 degrees, where an upright photo is furthest from any it could pass for."""
WORD_SHARE = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Probability that a word is replaced, and share of words that get a typing error; ours."""
ATTACK_LEVELS = (2, 4, 8, 16, 32)
"""Largest change of a pixel by the attack, in grey levels of 255."""
KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind of damage."""

    apply: Apply | None
    """None where the model that is scored makes the damage itself (``harness.attack``)."""
    side: Literal["image", "text"]
    severities: tuple[int, ...]
    """Empty where severity has no meaning."""
    summary: str
    giver: Giver = "other"


# --- the image ---------------------------------------------------------------------------------


def image_blank(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """No image at all; each backbone says what a missing image means to it."""
    return Inputs(None, inputs.evidence)


def image_noise(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Gaussian noise on every pixel and channel, clipped to the valid range."""
    pixels = np.asarray(_rgb(inputs))
    height, width, _ = pixels.shape
    shrink = max(height, width, GRID) / GRID
    rows = (np.arange(height) / shrink).astype(int)
    columns = (np.arange(width) / shrink).astype(int)
    field = rng.standard_normal((rows[-1] + 1, columns[-1] + 1, 3), dtype=np.float32)
    # 16-bit integers halve the time on photos; the rounding is that of any image file.
    noise = np.rint(255 * NOISE_SIGMA[severity - 1] * field).astype(np.int16)
    return Inputs(_added(pixels, noise, rows, columns), inputs.evidence)


def image_blur(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Gaussian blur."""
    image = _rgb(inputs)
    sigma = math.hypot(BLUR_SIGMA[severity - 1] * max(image.size) / GRID, LEAST_BLUR)
    # A wide blur is done on a smaller image, four times as fast: what is lost there is no detail
    # that the blur would leave. Shrinking blurs by (factor**2 - 1) / 12 already.
    factor = max(1, int(sigma / NARROW_BLUR))
    narrow = math.sqrt(sigma**2 - (factor**2 - 1) / 12) / factor
    small = image.reduce(factor).filter(ImageFilter.GaussianBlur(narrow))
    size = (small.width * factor, small.height * factor)
    blurred = small.resize(size, Image.Resampling.BICUBIC).crop((0, 0, *image.size))
    return Inputs(blurred, inputs.evidence)


def image_jpeg(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """What JPEG of low quality changes in the image at 224 pixels, added at full size."""
    image = _rgb(inputs)
    small = _shrunk(image)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY[severity - 1])
    packed = Image.open(file).convert("RGB")
    if small is image:
        return Inputs(packed, inputs.evidence)
    error = np.asarray(packed, np.int16) - np.asarray(small, np.int16)
    rows = np.arange(image.height) * small.height // image.height
    columns = np.arange(image.width) * small.width // image.width
    return Inputs(_added(np.asarray(image), error, rows, columns), inputs.evidence)


def image_pixelate(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Fewer pixels, each the mean of what it covers, shown at the old size."""
    image = _rgb(inputs)
    left = PIXELS_LEFT[severity - 1] * min(1.0, GRID / max(image.size))
    coarse = image.resize(_scaled(image, left), Image.Resampling.BOX)
    return Inputs(coarse.resize(image.size, Image.Resampling.NEAREST), inputs.evidence)


def image_contrast(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Each channel drawn towards its mean."""
    image = _rgb(inputs)
    levels, left = np.arange(256), CONTRAST_LEFT[severity - 1]
    counts = np.reshape(image.histogram(), (3, 256))
    means = counts @ levels / counts.sum(axis=1)
    table = np.rint((levels - means[:, None]) * left + means[:, None]).clip(0, 255)
    return Inputs(image.point(table.astype(int).ravel().tolist()), inputs.evidence)


def image_brightness(
    inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor
) -> Inputs:
    """A higher value of HSV at equal hue and saturation."""
    image = _rgb(inputs)
    red, green, blue = image.split()
    value = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue), np.uint16)
    # Equal hue and saturation means that all channels grow by one factor; black becomes grey.
    levels = np.arange(256)
    brighter = (levels + 255 * BRIGHTNESS_ADDED[severity - 1]).clip(0, 255)
    factors = brighter[:, None] / np.maximum(levels, 1)[:, None]
    table = np.rint(levels * factors).clip(0, 255).astype(np.uint8)
    table[0, 0] = round(brighter[0])
    # One flat look-up takes a third of the time of one by two indices.
    brightened = table.ravel().take((value << 8)[..., None] | np.asarray(image))
    return Inputs(Image.fromarray(brightened), inputs.evidence)


def image_occlusion(
    inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor
) -> Inputs:
    """Grey rectangles at random places until the share of the area is covered."""
    image = _rgb(inputs).copy()
    wanted = OCCLUDED_SHARE[severity - 1] * image.width * image.height
    covered: NDArray[np.bool_] = np.zeros((image.height, image.width), dtype=bool)
    while covered.sum() < wanted:
        stretch = 2 ** rng.uniform(-0.5, 0.5)
        width = max(1, round(image.width * PATCH_SHARE**0.5 * stretch))
        height = max(1, round(image.height * PATCH_SHARE**0.5 / stretch))
        left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
        covered[top : top + height, left : left + width] = True
    image.paste((128, 128, 128), (0, 0), Image.fromarray(covered))
    return Inputs(image, inputs.evidence)


def image_rotation(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """Turned to the left or right about the middle; corners get the image's mean colour."""
    image = _rgb(inputs)
    angle = ROTATION_DEGREES[severity - 1] * (1 if rng.random() < 0.5 else -1)
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).tobytes()
    turned = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=(red, green, blue))
    return Inputs(turned, inputs.evidence)


def image_shuffle(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """The image of another item."""
    return Inputs(donor().image, inputs.evidence)


def _rgb(inputs: Inputs) -> Image.Image:
    assert inputs.image is not None
    return inputs.image.convert("RGB") if inputs.image.mode != "RGB" else inputs.image


def _added(
    pixels: NDArray[np.uint8],
    change: NDArray[np.int16],
    rows: NDArray[np.int_],
    columns: NDArray[np.int_],
) -> Image.Image:
    """Pixels [H, W, 3] and a coarser change, whose row and column each of theirs is given."""
    # Taken along one axis after the other, which is ten times faster than both at once.
    total = change.take(columns, axis=1).take(rows, axis=0)
    total += pixels
    return Image.fromarray(np.clip(total, 0, 255, out=total).astype(np.uint8))


def _scaled(image: Image.Image, factor: float) -> tuple[int, int]:
    return max(1, int(image.width * factor)), max(1, int(image.height * factor))


def _shrunk(image: Image.Image) -> Image.Image:
    """The image with its longest side at ``GRID`` pixels; a smaller one as it is."""
    if max(image.size) <= GRID:
        return image
    return image.resize(_scaled(image, GRID / max(image.size)), Image.Resampling.BOX)


# --- the text ----------------------------------------------------------------------------------


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


def text_typo(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """A typing error in a share of the words, rounded up so that no text is spared."""
    words = (inputs.evidence or "").split()
    wrong = math.ceil(WORD_SHARE[severity - 1] * len(words))
    for place in rng.permutation(len(words))[:wrong]:
        words[place] = _mistyped(words[place], rng)
    return Inputs(inputs.image, " ".join(words))


def text_wordshuffle(
    inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor
) -> Inputs:
    """The same words in random order."""
    words = (inputs.evidence or "").split()
    return Inputs(inputs.image, " ".join(words[i] for i in rng.permutation(len(words))))


def text_shuffle(inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor) -> Inputs:
    """The evidence of another item."""
    return Inputs(inputs.image, donor().evidence)


def text_misleading(
    inputs: Inputs, severity: int, rng: np.random.Generator, donor: Donor
) -> Inputs:
    """The evidence of an item with another right answer, which it speaks for."""
    return Inputs(inputs.image, donor().evidence)


def _mistyped(word: str, rng: np.random.Generator) -> str:
    """The word with one error that can be made in it: swap, drop, insert or a neighbouring key."""
    swaps = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    keys = [i for i, letter in enumerate(word) if letter.lower() in NEIGHBOURS]
    kinds = {"swap": swaps, "drop": list(range(len(word))) if len(word) > 1 else [], "key": keys}
    kinds["insert"] = list(range(len(word) + 1))
    possible = sorted(kind for kind, places in kinds.items() if places)
    kind = possible[rng.integers(len(possible))]
    at = kinds[kind][rng.integers(len(kinds[kind]))]
    before, after = word[:at], word[at:]
    if kind == "swap":
        return before + after[1] + after[0] + after[2:]
    if kind == "drop":
        return before + after[1:]
    near = NEIGHBOURS.get((after or before[-1:])[0].lower(), "".join(KEY_ROWS))
    letter = near[rng.integers(len(near))]
    letter = letter.upper() if (after or before[-1:])[0].isupper() else letter
    return before + letter + (after if kind == "insert" else after[1:])


def _neighbours() -> dict[str, str]:
    """The keys around each letter; every row lies half a key to the right of the one above."""
    places = {
        key: (column + row / 2, row)
        for row, keys in enumerate(KEY_ROWS)
        for column, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (a, b) in places.items()
            if other != key and abs(a - x) <= 1 and abs(b - y) <= 1
        )
        for key, (x, y) in places.items()
    }


NEIGHBOURS = _neighbours()


CORRUPTIONS: dict[str, Corruption] = {
    "image-blank": Corruption(image_blank, "image", (), "image removed"),
    "image-noise": Corruption(image_noise, "image", SEVERITIES, "Gaussian noise on the pixels"),
    "image-blur": Corruption(image_blur, "image", SEVERITIES, "Gaussian blur"),
    "image-jpeg": Corruption(image_jpeg, "image", SEVERITIES, "JPEG artefacts"),
    "image-pixelate": Corruption(image_pixelate, "image", SEVERITIES, "fewer, larger pixels"),
    "image-contrast": Corruption(image_contrast, "image", SEVERITIES, "less contrast"),
    "image-brightness": Corruption(image_brightness, "image", SEVERITIES, "overexposed"),
    "image-occlusion": Corruption(image_occlusion, "image", SEVERITIES, "covered by rectangles"),
    "image-rotation": Corruption(image_rotation, "image", SEVERITIES, "turned left or right"),
    "image-shuffle": Corruption(image_shuffle, "image", (), "image of another item"),
    "image-adversarial": Corruption(
        None, "image", SEVERITIES, "attacked by the model that is scored, white-box PGD"
    ),
    "text-blank": Corruption(text_blank, "text", (), "evidence removed"),
    "text-noise": Corruption(text_noise, "text", SEVERITIES, "words replaced by random ones"),
    "text-typo": Corruption(text_typo, "text", SEVERITIES, "typing errors"),
    "text-wordshuffle": Corruption(text_wordshuffle, "text", (), "words in random order"),
    "text-shuffle": Corruption(text_shuffle, "text", (), "evidence of another item"),
    "text-misleading": Corruption(
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

    def damaged(place: int) -> Inputs:
        rng = np.random.default_rng(seed_for(*parts, *([place] if place else [])))
        # Every image of an item draws alike, so that what is swapped in is one other item.
        drawing = np.random.default_rng(seed_for(*parts)) if place else rng
        return apply(inputs.only(place), severity or 0, rng, lambda: others(drawing).only(place))

    first, *rest = (damaged(place) for place in range(max(1, len(inputs.images))))
    return replace(first, more=tuple(each.image for each in rest if each.image is not None))
