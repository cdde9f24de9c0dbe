"""Architecture and training schedule of the generated world's base model."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from steelyard.harness.models.tiny_vlm.tokenizer import IMAGE, vocabulary
from steelyard.tasks.world.prior import BASE_PRIOR, MAX_OBJECTS, LanguagePrior
from steelyard.tasks.world.scenes import GRID


@dataclass(frozen=True, slots=True)
class Training:
    """Training options of the base model; the defaults were chosen on validation scenes."""

    size: int = 48
    """Width and height of a picture in pixels."""
    patches: int = 2
    """Patches per row and column, each of them a token."""
    grid: int = GRID
    """Cells per row and column of a scene."""
    objects: int = MAX_OBJECTS
    """Most objects of a scene."""
    p_color: float = BASE_PRIOR.p_color
    """Strength of the language prior: probability that an object has its usual colour."""
    p_cooc: float = BASE_PRIOR.p_cooc
    """Probability that a food is in its usual place."""
    width: int = 64
    """Hidden size of the vision tower and of the language model."""
    language_width: int | None = None
    """Hidden size of the language model if it differs."""
    layers: int = 2
    """Layers of each."""
    vision_steps: int = 700
    vision_batch: int = 64
    vision_images: int = 8000
    text_steps: int = 60
    steps: int = 650
    images: int = 4000
    """Pictures of the alignment stage."""
    turns: int = 5
    """Questions about each picture."""
    batch: int = 160
    """Questions per step."""
    blind: float = 0.1
    """Fraction of text-only questions in the alignment stage; cached folders contain this name."""
    learning_rate: float = 3e-3

    @property
    def prior(self) -> LanguagePrior:
        return dataclasses.replace(
            BASE_PRIOR,
            p_color=self.p_color,
            p_cooc=self.p_cooc,
            grid=self.grid,
            objects=self.objects,
        )


def build(training: Training) -> Any:
    """Build the untrained model, a ``LlavaForConditionalGeneration``."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    ids = {token: number for number, token in enumerate(vocabulary())}
    width, patch = training.width, training.size // training.patches
    language_width = training.language_width or width
    shape = {"num_hidden_layers": training.layers, "num_attention_heads": 4}
    ends = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
    vision = CLIPVisionConfig(
        **shape,
        hidden_size=width,
        intermediate_size=2 * width,
        image_size=training.size,
        patch_size=patch,
        projection_dim=width,
    )
    text = LlamaConfig(
        **shape,
        **ends,
        hidden_size=language_width,
        intermediate_size=2 * language_width,
        vocab_size=len(ids),
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    model = Llava(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=ids[IMAGE],
            # The layer that the vision stage trains.
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            image_seq_length=training.patches**2,
            tie_word_embeddings=False,
            **ends,
        )
    )
    for name, token in ends.items():
        setattr(model.generation_config, name, token)
    return model
