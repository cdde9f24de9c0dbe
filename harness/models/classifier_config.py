"""Options of a classifier and its presets; importing this loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.options import Options, apply
from steelyard.harness.models.backbone import Recipe

HEADS = 4
"""Attention heads of the tiny encoders."""


@dataclass(frozen=True, slots=True)
class ClassifierConfig(Recipe):
    """Options that decide an untrained classifier, together with the classes and the seed."""

    image: str = "tiny"
    """``tiny``, or the hub id or path of any AutoModel image encoder."""
    text: str = "tiny"
    """``tiny``, or the hub id or path of any AutoModel text encoder."""
    fusion: Literal["additive", "concat"] = "concat"
    """Sum of linear contributions, or a two-layer perceptron on the concatenated latents."""
    missing: Literal["zeros", "learnt"] = "zeros"
    """Replacement for the latent of a missing modality."""
    frozen: bool = False
    """Keep both encoders as they are: their outputs are computed once per item."""
    width: int = 64
    """Size of both latents and of the perceptron's hidden layer."""
    image_width: int = 64
    """Hidden size of the tiny image encoder, a multiple of its ``HEADS``."""
    image_layers: int = 2
    """Layers of the tiny image encoder."""
    text_width: int = 64
    """Hidden size of the tiny text encoder, a multiple of its ``HEADS``."""
    text_layers: int = 1
    """Layers of the tiny text encoder."""
    image_size: int = 48
    """Width and height of the tiny encoder's images; pretrained encoders have their own size."""
    max_tokens: int = 48
    """Longest text in tokens; what is longer is cut."""
    learning_rate: float = 2e-3
    """Highest rate of the schedule."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Under ``bf16`` every pass runs in bfloat16 autocast; logits stay in full precision."""


PRESETS: dict[str, ClassifierConfig] = {
    "tiny": ClassifierConfig(),
    "tiny-additive": ClassifierConfig(fusion="additive"),
}


def encoders(name: str) -> tuple[str, str] | None:
    """Return the encoders of ``IMAGE+TEXT``; None for the name of one model, or its folder."""
    signs = [place for place, sign in enumerate(name) if sign == "+"]
    if not signs or name in PRESETS or Path(name).is_dir():
        return None
    pairs = [(name[:place], name[place + 1 :]) for place in signs]
    # A folder may have the sign in its name.
    return max(pairs, key=lambda pair: sum(Path(part).is_dir() for part in pair))


def configure(name: str, options: Options) -> ClassifierConfig:
    """Build the config of a preset or of ``IMAGE+TEXT`` encoders, with some options changed."""
    image, text = encoders(name) or ("", "")
    config = PRESETS.get(name) or ClassifierConfig(image=image, text=text)
    config = apply(config, options, "backbone option")
    for key in ("image_width", "text_width"):
        width = getattr(config, key)
        if width < HEADS or width % HEADS:
            raise UserError(f"{key}={width}: a multiple of {HEADS} is needed.")
    return config
