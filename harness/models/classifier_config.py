"""What decides an untrained classifier, and its presets; light to import."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args, get_type_hints

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.models.backbone import Recipe

HEADS = 4
"""Attention heads of the tiny encoders."""


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """Everything that decides the untrained classifier, besides the classes and the seed."""

    image: str = "tiny"
    """``tiny``, or the hub id or path of any AutoModel image encoder."""
    text: str = "tiny"
    """``tiny``, or the hub id or path of any AutoModel text encoder."""
    fusion: Literal["additive", "concat"] = "concat"
    """Sum of linear contributions, or a two-layer perceptron on the concatenated latents."""
    missing: Literal["zeros", "learnt"] = "zeros"
    """What replaces the latent of a missing side."""
    frozen: bool = False
    """Keep both encoders as they are: their outputs are computed once an item."""
    width: int = 64
    """Size of both latents and of the perceptron's hidden layer."""
    image_width: int = 64
    """Hidden size of the tiny image encoder, a multiple of its ``HEADS``."""
    image_layers: int = 2
    text_width: int = 64
    """Hidden size of the tiny text encoder, a multiple of its ``HEADS``."""
    text_layers: int = 1
    image_size: int = 48
    """Side of the square image of the tiny encoder; pretrained ones bring their own."""
    max_tokens: int = 48
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    batch_size: int = 32
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def recipe(self) -> Recipe:
        """The optimisation settings every method shares."""
        return Recipe(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            precision=self.precision,
        )


PRESETS: dict[str, ClassifierConfig] = {
    "tiny": ClassifierConfig(),
    "tiny-additive": ClassifierConfig(fusion="additive"),
}


def configure(name: str, options: Mapping[str, str | int | float | bool]) -> ClassifierConfig:
    """Config from a preset's name or ``IMAGE+TEXT`` encoders, with single options changed."""
    if name in PRESETS:
        values = asdict(PRESETS[name])
    elif "+" in name:
        image, text = name.split("+", 1)
        values = asdict(ClassifierConfig(image=image, text=text))
    else:
        hint = "Or give two encoders as IMAGE+TEXT, each a hub id or a path."
        raise UserError(f"{unknown('backbone', name, PRESETS)} {hint}")
    types = get_type_hints(ClassifierConfig)
    for key, value in options.items():
        if key not in types:
            raise unknown("backbone option", key, types)
        allowed = get_args(types[key])
        if allowed and value not in allowed:
            raise UserError(f"{key}={value!r}: allowed are {', '.join(allowed)}.")
        if not allowed and not isinstance(value, (types[key], int)):
            raise UserError(f"{key}={value!r}: expected {types[key].__name__}.")
        values[key] = value
    for key in ("image_width", "text_width"):
        if values[key] < HEADS or values[key] % HEADS:
            raise UserError(f"{key}={values[key]}: a multiple of {HEADS} is needed.")
    return ClassifierConfig(**values)
