"""Vision-language backbones made, saved and loaded, and their training data prepared."""

import hashlib
import json
import os
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image
from torch import Tensor, nn

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.vlm import Vlm, vision_modules
from steelyard.harness.models.vlm_config import TINY, VlmConfig

DESCRIPTION = "vlm.json"
ADAPTER, MODEL, VISION = "adapter", "model", "vision.safetensors"
FAMILIES = ("idefics3", "llava", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "smolvlm")
"""Model types known to be the sum of their parts; others are compared once when built."""


def build(name: str, config: VlmConfig, seed: int, device: str = "cpu") -> Vlm:
    """The backbone before training: a checkpoint, with a new or given adapter under LoRA.

    Under ``bf16`` on a GPU the frozen weights of a LoRA run are held in bf16.

    Raises:
        UserError: there is no such checkpoint here, it is no vision-language model, it lacks a
            chat template, or a target module does not exist.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        source = checkpoint(config.source)
        model, processor = _load_pair(source, _dtype(config, device))
        if config.adapter or config.tune == "lora":
            model = _with_adapter(model, config)
    made = Vlm(name, config, model, processor)
    _set_trainable(made)
    if made.base.config.model_type not in FAMILIES:
        _check_parts(made)
    return made.to(device).train()


def checkpoint(source: str) -> str:
    """Where a source's files are: a folder, or a hub id as it is."""
    if source != TINY:
        return source
    from steelyard.harness.models.tiny_vlm import train

    return str(train.ensure())


def save(backbone: Vlm, folder: Path) -> None:
    """Write the weights that were trained, and what is needed to put them back; JSON last.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from steelyard.harness.core.files import explain_write_errors, write_json

    part = ADAPTER if backbone.config.tune == "lora" else MODEL
    with explain_write_errors(folder, SafetensorError):
        folder.mkdir(parents=True, exist_ok=True)
        backbone.model.save_pretrained(folder / part, safe_serialization=True)
        backbone.processor.save_pretrained(folder / MODEL)
        if part == ADAPTER and backbone.config.vision == "trained":  # no part of a PEFT adapter
            save_file(_vision_weights(backbone), folder / VISION)
    made = {"name": backbone.name, "config": asdict(backbone.config)}
    made["base"] = revision(checkpoint(backbone.config.source))
    write_json(folder / DESCRIPTION, made)


def load(folder: Path, device: str = "cpu") -> Vlm:
    """A saved backbone, in evaluation mode.

    Raises:
        UserError: the folder is missing or foreign, or the checkpoint that a saved adapter
            belongs to is no longer there or no longer the same.
    """
    from safetensors.torch import load_file

    description = folder / DESCRIPTION
    if not description.is_file():
        raise UserError(f"No vision-language model at {folder}: {DESCRIPTION} is missing.")
    meta = json.loads(description.read_text(encoding="utf-8"))
    config = VlmConfig(**meta["config"])
    if config.tune == "lora":
        source = checkpoint(config.source)
        model, processor = _load_pair(source, _dtype(config, device))
        if revision(source) != meta["base"]:
            raise UserError(
                f"The adapter at {folder} belongs to another version of {config.source}: put back "
                f"the checkpoint with revision {meta['base']}."
            )
        model = _with_adapter(model, replace(config, adapter=str(folder / ADAPTER)))
    else:
        model, processor = _load_pair(str(folder / MODEL), _dtype(config, device))
    made = Vlm(meta["name"], config, model, processor)
    if config.tune == "lora" and config.vision == "trained":
        made.base.load_state_dict(load_file(folder / VISION), strict=False)
    _set_trainable(made)
    return made.to(device).eval()


def _vision_weights(backbone: Vlm) -> dict[str, Tensor]:
    inside = {id(p) for module in vision_modules(backbone.base) for p in module.parameters()}
    named = backbone.base.named_parameters()
    return {name: p.detach().contiguous().cpu() for name, p in named if id(p) in inside}


def revision(source: str) -> str:
    """Which version of a checkpoint this is: the hub's commit, or a hash of a folder's files."""
    from huggingface_hub import snapshot_download

    if not Path(source).is_dir():
        return Path(snapshot_download(source, local_files_only=True)).name
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(source).iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    return digest.hexdigest()


def _dtype(config: VlmConfig, device: str) -> torch.dtype:
    """Weights that learn stay in full precision, and so does everything on a CPU."""
    half = config.precision == "bf16" and config.tune == "lora" and device.startswith("cuda")
    return torch.bfloat16 if half else torch.float32


def _found(source: str) -> str:
    """A folder, or a hub id where the hub can be asked; else the hub's copy on this machine.

    Transformers asks an absent hub for most of a minute, whatever ``local_files_only`` says.
    """
    from huggingface_hub import constants, snapshot_download

    if Path(source).exists():
        return source
    if not constants.HF_HUB_OFFLINE and _reached(constants.ENDPOINT):
        return source
    return str(snapshot_download(source, local_files_only=True))


def _reached(endpoint: str) -> bool:
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # not for us to know
    address = urlsplit(endpoint)
    try:
        socket.create_connection((str(address.hostname), address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def _load_pair(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        found = _found(source)
        model = AutoModelForImageTextToText.from_pretrained(found, dtype=dtype)
        processor = AutoProcessor.from_pretrained(found)
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
        adapted = PeftModel.from_pretrained(model, config.adapter, is_trainable=True)
        # Full fine-tuning starts from the adapter's weights and trains the merged ones.
        return adapted if config.tune == "lora" else adapted.merge_and_unload()
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


@torch.no_grad()
def _check_parts(backbone: Vlm) -> None:
    """Encode and fuse must be the model's own forward pass, which a new family might not be."""
    kind = backbone.base.config.model_type
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    backbone.eval()
    try:
        batch = backbone.collate([Inputs(image, "What is this?", "What is this?")], ["yes"])
        own = backbone.prompts.plain(batch)
        types = {"mm_token_type_ids": torch.zeros_like(batch.targets)}
        more = {"input_ids": batch.targets, "attention_mask": torch.ones_like(batch.targets)}
        for name in own.keys() & (more | types).keys():
            own[name] = torch.cat([own[name], (more | types)[name]], 1)
        logits = backbone.base(**own).logits[0, batch.tokens.shape[1] - 1 : -1]
        equal = torch.allclose(backbone.predict(batch), logits, atol=1e-3, rtol=1e-3)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        equal = False
    if not equal:
        raise UserError(
            f"{kind} models do not fit: their image tokens do not simply take the place of prompt "
            f"tokens; the families that do: {', '.join(FAMILIES)}."
        )


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
