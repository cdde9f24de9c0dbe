"""Options of a vision-language model and its presets; importing this loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from steelyard.harness.core.options import apply

TINY = "tiny-vlm"
"""Small LLaVA that is trained on generated scenes and cached; see ``tiny_vlm``."""


@dataclass(frozen=True, slots=True)
class VlmConfig:
    """Checkpoint and training options; the defaults suit a pretrained model."""

    source: str
    """``tiny-vlm``, or the hub id or path of any AutoModelForImageTextToText checkpoint."""
    adapter: str = ""
    """Folder of a PEFT adapter to start from."""
    tune: Literal["full", "lora"] = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: str = "q_proj,k_proj,v_proj,o_proj"
    """Names of the language model's linear layers, comma-separated."""
    vision: Literal["frozen", "trained"] = "frozen"
    """Whether the vision tower learns; the projector learns whenever ``tune`` is ``full``."""
    max_prompt_tokens: int = 4096
    """Longest prompt, image tokens included; a longer one is an error, nothing is cut."""
    max_answer_tokens: int = 128
    """Longest training answer; a longer one is an error."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    batch_size: int = 32
    """Training items per optimiser step; of methods that sample answers, sampled answers."""
    micro_batch_size: int = 4
    """Most items of one pass with gradients, 0 for all of a step: less memory, same gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"


PRESETS: dict[str, VlmConfig] = {
    TINY: VlmConfig(
        TINY, tune="full", learning_rate=4e-4, micro_batch_size=0, max_prompt_tokens=256
    ),
}


def configure(name: str, options: Mapping[str, Any]) -> VlmConfig:
    """Build the config of a preset, a hub id or a path, with some options changed."""
    names = [field.name for field in fields(VlmConfig) if field.name != "source"]
    return apply(PRESETS.get(name) or VlmConfig(name), options, "backbone option", names)
