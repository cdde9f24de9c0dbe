"""Vision-language backbones made, saved and loaded, and their training data prepared."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from steelyard.harness.backbone import Batch, Turn
from steelyard.harness.batches import IN_MEMORY_BYTES, TrainData
from steelyard.harness.data import Example
from steelyard.harness.errors import UserError
from steelyard.harness.vlm import Vlm, vision_modules
from steelyard.harness.vlm_config import TINY, VlmConfig

DESCRIPTION = "vlm.json"
ADAPTER, MODEL = "adapter", "model"


def build(name: str, config: VlmConfig, seed: int) -> Vlm:
    """The backbone before training: a checkpoint, with a new or given adapter under LoRA.

    Raises:
        UserError: there is no such checkpoint here, it is no vision-language model, it lacks a
            chat template, or a target module does not exist.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        source = checkpoint(config.source)
        model, processor = _load_pair(source, config)
        if config.adapter or config.tune == "lora":
            model = _with_adapter(model, config)
    made = Vlm(name, config, model, processor)
    _set_trainable(made)
    return made.train()


def checkpoint(source: str) -> str:
    """Where a source's files are: a folder, or a hub id as it is."""
    if source != TINY:
        return source
    from steelyard.harness import scenes_base

    return str(scenes_base.ensure())


def save(backbone: Vlm, folder: Path) -> None:
    """Write the weights that were trained, and what is needed to put them back; JSON last.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    from safetensors import SafetensorError

    from steelyard.harness.record import write_json

    part = ADAPTER if backbone.config.tune == "lora" else MODEL
    try:
        folder.mkdir(parents=True, exist_ok=True)
        backbone.model.save_pretrained(folder / part, safe_serialization=True)
        backbone.processor.save_pretrained(folder / MODEL)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Could not write {folder}: {error}.") from error
    made = {"name": backbone.name, "config": asdict(backbone.config)}
    write_json(folder / DESCRIPTION, made)


def load(folder: Path) -> Vlm:
    """A saved backbone, in evaluation mode; a missing or foreign folder is a UserError."""
    description = folder / DESCRIPTION
    if not description.is_file():
        raise UserError(f"No vision-language model at {folder}: {DESCRIPTION} is missing.")
    meta = json.loads(description.read_text(encoding="utf-8"))
    config = VlmConfig(**meta["config"])
    if config.tune == "lora":
        model, processor = _load_pair(checkpoint(config.source), config)
        model = _with_adapter(model, replace(config, adapter=str(folder / ADAPTER)))
    else:
        model, processor = _load_pair(str(folder / MODEL), config)
    made = Vlm(meta["name"], config, model, processor)
    _set_trainable(made)
    return made.eval()


def weights_file(folder: Path) -> Path:
    """The trained weights of a saved backbone."""
    adapter = folder / ADAPTER / "adapter_model.safetensors"
    return adapter if adapter.is_file() else folder / MODEL / "model.safetensors"


def prepare(
    backbone: Vlm, examples: tuple[Example, ...], turn: Callable[[Example], Turn]
) -> TrainData:
    """Training data of a vlm: processed once where that fits in memory, else on demand."""

    def at(position: int) -> Turn:
        return turn(examples[position])

    def collate(positions: Sequence[int]) -> Batch:
        turns = [at(position) for position in positions]
        return backbone.collate([t.inputs for t in turns], [t.answer for t in turns])

    made = TrainData(examples, collate, at, 0, False)
    first = collate(range(min(64, len(examples))))
    size = sum(t.nbytes for t in (first.pixels, first.tokens)) / len(first.tokens)
    regular = len(first.pixels) == int(first.has_image.sum()) and first.pixels.dim() == 4
    if not regular or size * len(examples) > IN_MEMORY_BYTES:
        return made
    chunks = [collate(range(s, min(s + 64, len(examples)))) for s in range(64, len(examples), 64)]
    whole = _joined([first, *chunks])
    return replace(made, gather=lambda positions: _rows(whole, positions))


def _joined(chunks: Sequence[Batch]) -> Batch:
    """Batches as one, prompts padded on the left and answers on the right."""
    width = max(chunk.tokens.shape[1] for chunk in chunks)
    length = max(chunk.targets.shape[1] for chunk in chunks)

    def left(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(t, (width - t.shape[1], 0)) for t in tensors])

    return Batch(
        pixels=torch.cat([chunk.pixels for chunk in chunks if len(chunk.pixels)]),
        has_image=torch.cat([chunk.has_image for chunk in chunks]),
        tokens=left([chunk.tokens for chunk in chunks]),
        mask=left([chunk.mask for chunk in chunks]),
        has_text=torch.cat([chunk.has_text for chunk in chunks]),
        targets=torch.cat(
            [pad(c.targets, (0, length - c.targets.shape[1]), value=-100) for c in chunks]
        ),
        extra={
            name: left([chunk.extra[name] for chunk in chunks])
            if name in ("slots", "block", "text_side")
            else torch.cat([chunk.extra[name] for chunk in chunks])
            for name in chunks[0].extra
        },
    )


def _rows(whole: Batch, rows: Sequence[int]) -> Batch:
    """Rows of a batch, columns cut to the longest prompt and answer among them."""
    mask, targets = whole.mask[rows], whole.targets[rows]
    start = mask.shape[1] - int(mask.sum(1).max())
    length = int((targets != -100).sum(1).max())
    images = whole.has_image.cumsum(0) - 1
    pictured = [row for row in rows if whole.has_image[row]]
    return Batch(
        pixels=whole.pixels[images[pictured]],
        has_image=whole.has_image[rows],
        tokens=whole.tokens[rows, start:],
        mask=mask[:, start:],
        has_text=whole.has_text[rows],
        targets=targets[:, :length],
        extra={
            name: whole.extra[name][rows, start:]
            if name in ("slots", "block", "text_side")
            else whole.extra[name][rows]
            for name in whole.extra
        },
    )


def _load_pair(source: str, config: VlmConfig) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    offline = bool(os.environ.get("HF_HUB_OFFLINE")) or Path(source).exists()
    half = config.precision == "bf16" and config.tune == "lora"
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=torch.bfloat16 if half else torch.float32, local_files_only=offline
        )
        processor = AutoProcessor.from_pretrained(source, local_files_only=offline)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"Could not load '{source}' as a vision-language model: {first} Give the folder of a "
            "checkpoint, or its hub id with the hub within reach."
        ) from error
    if not processor.chat_template:
        raise UserError(
            f"'{source}' has no chat template: add chat_template.jinja to the checkpoint's folder."
        )
    return model, processor


def _with_adapter(model: Any, config: VlmConfig) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if config.adapter:
        if not (Path(config.adapter) / "adapter_config.json").is_file():
            raise UserError(f"No PEFT adapter at {config.adapter}: adapter_config.json is missing.")
        return PeftModel.from_pretrained(model, config.adapter, is_trainable=config.tune == "lora")
    targets = _targets(model, config)
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets)
    return get_peft_model(model, lora)


def _targets(model: Any, config: VlmConfig) -> list[str]:
    """Full names of the language model's linear layers that the configuration names."""
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    linear = {
        name: name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    }
    wanted = [name.strip() for name in config.lora_targets.split(",")]
    absent = sorted(set(wanted) - set(linear.values()))
    if absent:
        raise UserError(
            f"lora_targets: the language model has no layer called {', '.join(absent)}; it has "
            f"{', '.join(sorted(set(linear.values())))}."
        )
    return [name for name, last in linear.items() if last in wanted]


def _set_trainable(backbone: Vlm) -> None:
    """Freeze what the configuration says, and switch checkpointing on where it asks."""
    if backbone.config.tune == "full":
        backbone.model.requires_grad_(True)
        if backbone.config.vision == "frozen":
            vision_modules(backbone.base)[0].requires_grad_(False)
    elif backbone.config.vision == "trained":
        for module in vision_modules(backbone.base):
            module.requires_grad_(True)
    if backbone.config.checkpointing:
        backbone.base.gradient_checkpointing_enable({"use_reentrant": False})
        backbone.base.enable_input_require_grads()
