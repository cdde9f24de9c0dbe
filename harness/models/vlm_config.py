"""Options of a vision-language model and its presets; importing this loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.options import apply, require
from steelyard.harness.models.backbone import Recipe

TINY = "tiny-vlm"
"""Small LLaVA that is trained on generated scenes and cached; see ``tiny_vlm``."""
SMALL = "dinov2-smollm2"
"""Small model of pretrained parts; see ``assembled``."""


ADAPTER_CONFIG = "adapter_config.json"
"""File that every PEFT adapter has."""
ADAPTER_BASE = "base_model_name_or_path"
"""Key of that file for the checkpoint below the adapter."""


@dataclass(frozen=True, slots=True)
class VlmConfig(Recipe):
    """Checkpoint and training options; the defaults suit a pretrained model."""

    source: str = ""
    """``tiny-vlm``, or the hub id or path of any AutoModelForImageTextToText checkpoint."""
    adapter: str = ""
    """Folder of a PEFT adapter to start from."""
    tune: Literal["full", "lora"] = "lora"
    """What learns: all weights but the vision tower's, or a LoRA adapter."""
    weights: Literal["auto", "bf16"] = "auto"
    """``auto`` keeps trained weights in fp32, and frozen ones as ``precision`` says. ``bf16`` keeps
    all weights of ``tune=full`` in it, with gradients and moments: 8 bytes a weight in place of
    16, but a step below 1/256 of a weight is lost, which small learning rates fall under."""
    quantize: Literal["none", "4bit"] = "none"
    """``4bit`` stores the frozen language model under LoRA in 4 bits (NF4, bitsandbytes)."""
    attn_implementation: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention; ``auto`` is the choice of transformers. ``sdpa`` runs torch's flash kernels; those
    of the package flash-attn are not offered, because the FLOP counter cannot see them."""
    lora_rank: int = 16
    """Rank of every adapted layer."""
    lora_alpha: int = 32
    """Scale of an adapter's output, times the rank."""
    lora_dropout: float = 0.0
    """Dropout before every adapted layer, in training."""
    lora_targets: str = "q_proj,k_proj,v_proj,o_proj"
    """Names of the language model's linear layers, comma-separated, or ``all-linear``."""
    lora_modules_to_save: str = ""
    """Names of further modules that train in full beside the adapter, comma-separated, such as the
    projector's."""
    vision: Literal["frozen", "trained"] = "frozen"
    """Whether the vision tower learns; the projector learns whenever ``tune`` is ``full``."""
    feature_cache_gb: float = 4.0
    """Host memory for features of a frozen tower, which then are computed once an image; 0 for
    none."""
    workers: int = 2
    """Threads that decode and process images ahead of training, of data larger than 1 GiB."""
    pixel_cache_gb: float = 0.0
    """Disk in the cache folder for images as the model sees them, of data larger than 1 GiB, so
    that they are decoded and processed once a run."""
    min_pixels: int = 0
    """Least pixels of an image as the model sees it; 0 keeps the checkpoint's bound."""
    max_pixels: int = 0
    """Most pixels of an image as the model sees it; 0 keeps the checkpoint's bound, but lowers one
    in pixels (Qwen-VL) to 1,003,520, which are 1,280 tokens."""
    max_prompt_tokens: int = 8192
    """Longest prompt, image tokens included; a longer one is an error, nothing is cut."""
    max_answer_tokens: int = 128
    """Longest training answer; a longer one is an error."""
    checkpointing: bool = True
    """Recompute activations in the backward pass: a third of the memory for one forward pass of the
    decoder more; see ``docs/memory.md``."""
    learning_rate: float = 1e-4
    """Highest rate of the schedule, a tenth of it with ``tune=full``; a method may scale it."""
    micro_batch_size: int = 4
    """Most items of one pass with gradients, 0 for all of a step: less memory, same gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 on a GPU and fp32 on a CPU. Under bf16 every pass runs in bfloat16 autocast,
    and frozen weights of a LoRA run are stored in it; trained weights keep full precision."""

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        for name in ("workers", "pixel_cache_gb"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "lora_dropout", 0 <= self.lora_dropout < 1, "a number from 0 to below 1")
        if self.weights == "bf16" and (self.tune == "lora" or self.precision == "fp32"):
            raise UserError("weights=bf16 goes with tune=full and precision=bf16.")
        if self.quantize == "4bit" and self.tune == "full":
            raise UserError("quantize=4bit goes with tune=lora: weights of 4 bits cannot learn.")


PRESETS: dict[str, VlmConfig] = {
    TINY: VlmConfig(
        source=TINY,
        tune="full",
        learning_rate=4e-4,
        micro_batch_size=0,
        checkpointing=False,
        max_prompt_tokens=256,
        precision="fp32",
    ),
    SMALL: VlmConfig(
        source=SMALL,
        # Its projector has to learn first of all.
        lora_modules_to_save="multi_modal_projector",
        checkpointing=False,
        batch_size=8,
        max_prompt_tokens=512,
    ),
}


def configure(name: str, options: Mapping[str, Any]) -> VlmConfig:
    """Build the config of a preset, hub id or path, with some options changed.

    A PEFT adapter's folder stands for its base model with the adapter.
    """
    names = [field.name for field in fields(VlmConfig) if field.name != "source"]
    default = PRESETS.get(name) or VlmConfig(source=name)
    if base := base_of_adapter(name):
        if "adapter" in options or base_of_adapter(base):
            raise UserError(
                f"{name} is an adapter of {base}, and a model takes one adapter: merge one of the "
                "two into the base first."
            )
        default = VlmConfig(source=base, adapter=name)
    # The usual rates of fine-tuning: 1e-4 of adapters, 1e-5 of all weights.
    if options.get("tune") == "full" and default.tune == "lora":
        default = replace(default, learning_rate=default.learning_rate / 10)
    return apply(default, options, "backbone option", names)


def base_of_adapter(name: str) -> str:
    """Return the checkpoint that the PEFT adapter in a folder belongs to; empty if it has none."""
    from steelyard.harness.core.readers import read_object

    file = Path(name) / ADAPTER_CONFIG
    if not file.is_file():
        return ""
    base = str(read_object(file).get(ADAPTER_BASE) or "")
    if not base:
        raise UserError(
            f"{file} does not name its base model: give the base as the model, with "
            f"--backbone-set adapter={name}."
        )
    return base


def resolve_precision(config: VlmConfig, device: str) -> VlmConfig:
    """Return the config with ``precision="auto"`` replaced by the device's: fp32 or bf16."""
    if config.precision != "auto":
        return config
    return replace(config, precision="bf16" if device.startswith("cuda") else "fp32")
