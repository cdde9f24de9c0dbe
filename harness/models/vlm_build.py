"""Build, save and load vision-language backbones."""

import os
import socket
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image
from torch import nn

from steelyard.harness.core.compat import enable_checkpointing, prepare_imports
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.data.images import as_rgb
from steelyard.harness.models import vlm_checks
from steelyard.harness.models.assembled import located
from steelyard.harness.models.extension import STATE, Extension, extend, load_weights, state
from steelyard.harness.models.frozen_tower import freeze
from steelyard.harness.models.storage import (
    describe_last,
    explain_load_errors,
    folder_hash,
    read_description,
)
from steelyard.harness.models.vlm import Vlm, vision_modules
from steelyard.harness.models.vlm_config import TINY, VlmConfig, resolve_precision
from steelyard.harness.models.vlm_layout import IGNORED
from steelyard.harness.models.vlm_resolution import limit_pixels

DESCRIPTION = "vlm.json"
ADVICE = "Give the folder of a checkpoint, or its hub id while online."
ADAPTER, MODEL, VISION = "adapter", "model", "vision.safetensors"
FAMILIES = ("gemma3", "idefics3", "internvl", "llava", "llava_next", "llava_onevision",
            "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm")  # fmt: skip
"""Model types known to equal encode and fuse; others are compared once when built."""
NOT_QUANTIZED = ("lm_head", "visual", "vision_tower", "vision_model", "multi_modal_projector",
                 "connector")  # fmt: skip
"""Parts that stay as they are in a model of 4 bits: the head, vision towers and projectors."""


def build(name: str, config: VlmConfig, seed: int | None, device: str) -> Vlm:
    """Build the backbone before training: a checkpoint, under LoRA with a new or given adapter.

    Without a seed no new adapter is put on: enough for scoring.

    Raises:
        UserError: no such checkpoint, its parts or its adapter do not fit one another, or a LoRA
            target module does not exist.
    """
    config = resolve_precision(config, device)
    # New adapter weights depend on the seed alone, and the caller's random state is unchanged.
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        source = checkpoint(config.source)
        model, processor = _load_pair(source, config, device)
        if config.adapter or (config.tune == "lora" and seed is not None):
            model = _with_adapter(model, config)
    backbone = _assemble(name, config, model, processor, source)
    _set_trainable(backbone)
    if backbone.base.config.model_type not in FAMILIES:
        _check_parts(backbone)
    return backbone.to(device).train()


def build_shapes(name: str, config: VlmConfig) -> tuple[Vlm, Any]:
    """Build a backbone whose weights have shapes and no values, and the mode to call it under.

    It takes the configuration and processor of a checkpoint, and neither its weights nor memory.

    Raises:
        UserError: they are not at hand, or do not fit one another.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig, AutoModelForImageTextToText

    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    source = checkpoint(config.source)
    processor = load_processor(source)
    with (
        torch.device("meta"),
        explain_load_errors(
            f"Could not load '{source}' as a vision-language model", ADVICE, source
        ),
    ):
        settings = AutoConfig.from_pretrained(_resolve(source), trust_remote_code=False)
        model = AutoModelForImageTextToText.from_config(
            settings, dtype=_dtype(config), trust_remote_code=False
        )
        if config.tune == "lora":
            model = _with_adapter(model, replace(config, adapter=""))
    backbone = _assemble(name, config, model, processor, source)
    _set_trainable(backbone)
    # Not under the mode from the start: adapters convert their weights, which it refuses. Tensors
    # on the CPU without values, unlike those on ``meta``, run under autocast.
    copies: dict[int, torch.Tensor] = {}
    with shapes:
        for module in backbone.modules():
            parts: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for tensors in parts:
                for key, tensor in tensors.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in copies:
                        copy = torch.empty_like(tensor, device="cpu")
                        is_weight = isinstance(tensor, nn.Parameter)
                        copies[id(tensor)] = (
                            nn.Parameter(copy, tensor.requires_grad) if is_weight else copy
                        )
                    tensors[key] = copies[id(tensor)]
    return backbone.train(), shapes


def checkpoint(source: str) -> str:
    """Return the folder or hub id with a source's files; what has a name here is made if absent."""
    if source != TINY:
        return located(source)
    from steelyard.harness.models.tiny_vlm import train

    # On a CPU everywhere: all machines and runs start from one model.
    return str(train.ensure(device="cpu"))


def save(backbone: Vlm, folder: Path) -> None:
    """Write the trained weights, the processor and the revision of the checkpoint."""
    from safetensors.torch import save_file

    part = ADAPTER if backbone.config.tune == "lora" else MODEL
    # An adapter fits only the weights it was trained on, and a hub id can get new ones.
    base = revision(checkpoint(backbone.config.source))
    description = {"name": backbone.name, "config": asdict(backbone.config), "base": base}
    description |= {"extension": asdict(backbone.extension)} if backbone.extension else {}
    with describe_last(folder / DESCRIPTION, description):
        backbone.processor.save_pretrained(folder / MODEL)
        if backbone.extension is not None:
            save_file(state(backbone), folder / STATE)
            return
        backbone.model.save_pretrained(folder / part, safe_serialization=True)
        # PEFT adapters do not contain the vision tower.
        if part == ADAPTER and backbone.config.vision == "trained":
            weights = _vision_weights(backbone.base)
            # Safetensors refuses tensors that are not contiguous.
            save_file(
                {n: p.detach().contiguous().cpu() for n, p in weights.items()}, folder / VISION
            )


def load(folder: Path, device: str) -> Vlm:
    """Load a saved backbone in the precision of its training, in evaluation mode.

    Raises:
        UserError: the folder holds none, its weights do not all fit, or the checkpoint of its
            adapter or the file of its extension is missing or changed.
    """
    from safetensors.torch import load_file

    meta = read_description(folder / DESCRIPTION, "vision-language model")
    config = VlmConfig(**meta["config"])
    if config.tune == "lora" or "extension" in meta:
        source = checkpoint(config.source)
        if revision(source) != meta["base"]:
            raise UserError(
                f"The adapter at {folder} belongs to another version of {config.source}: restore "
                f"the checkpoint with revision {meta['base']}."
            )
    if "extension" in meta:
        backbone = build(meta["name"], config, seed=0, device=device)
        names = extend(backbone, Extension(**meta["extension"]))
        load_weights(backbone, load_file(folder / STATE), {*names}, folder / STATE)
        return backbone.eval()
    if config.tune == "lora":
        model, processor = _load_pair(source, config, device)
        model = _with_adapter(model, replace(config, adapter=str(folder / ADAPTER)))
    else:
        model, processor = _load_pair(str(folder / MODEL), config, device)
    backbone = _assemble(meta["name"], config, model, processor, str(folder))
    _set_trainable(backbone)
    if config.tune == "lora" and config.vision == "trained":
        base, file = backbone.base, folder / VISION
        load_weights(base, load_file(file), _vision_weights(base).keys(), file)
    return backbone.to(device).eval()


def _vision_weights(base: Any) -> dict[str, nn.Parameter]:
    """Return the parameters of vision tower and projector by their names in the model."""
    inside = {id(p) for module in vision_modules(base) for p in module.parameters()}
    return {name: p for name, p in base.named_parameters() if id(p) in inside}


def revision(source: str) -> str:
    """Return the hub's commit of a checkpoint, or a hash of a folder's files."""
    from huggingface_hub import snapshot_download

    if Path(source).is_dir():
        return folder_hash(Path(source))
    return Path(snapshot_download(source, local_files_only=True)).name


def _dtype(config: VlmConfig) -> torch.dtype:
    half = config.precision == "bf16" and (config.tune == "lora" or config.weights == "bf16")
    return torch.bfloat16 if half else torch.float32


def _resolve(source: str) -> str:
    """Return a folder, a hub id if the hub is reachable, or the hub's copy on this machine.

    Transformers waits most of a minute for an absent hub, whatever ``local_files_only`` says.
    """
    from huggingface_hub import constants, snapshot_download

    if Path(source).exists():
        return source
    if not constants.HF_HUB_OFFLINE:
        if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
            return source  # only the proxy knows
        hub = urlsplit(constants.ENDPOINT)
        with suppress(OSError):
            socket.create_connection((str(hub.hostname), hub.port or 443), timeout=3).close()
            return source
    return str(snapshot_download(source, local_files_only=True))


def load_processor(source: str) -> Any:
    """Load a checkpoint's processor alone."""
    prepare_imports()
    from transformers import AutoProcessor

    with explain_load_errors(
        f"Could not load the processor of '{source}'",
        "Give the folder of a vision-language checkpoint, or its hub id while online.",
        source,
    ):
        return AutoProcessor.from_pretrained(_resolve(source), trust_remote_code=False)


def _in_four_bits(config: VlmConfig) -> Any:
    """Return the settings of QLoRA (arXiv 2305.14314) for the language model alone."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_dtype(config),
        llm_int8_skip_modules=[rf".*\b{name}" for name in NOT_QUANTIZED],
    )


def _load_pair(source: str, config: VlmConfig, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    adapter, settings = config.adapter, dict[str, Any]()
    if config.attn_implementation != "auto":
        settings["attn_implementation"] = config.attn_implementation
    if config.quantize == "4bit":
        settings |= {"quantization_config": _in_four_bits(config), "device_map": {"": device}}
    use, advice = "", ADVICE
    if adapter:
        use = f", the base of the adapter {adapter},"
        advice = f"Give the base as the model, with --backbone-set adapter={adapter}."
    message = f"Could not load '{source}'{use} as a vision-language model"
    with explain_load_errors(message, advice, source):
        location = _resolve(source)
        model, info = AutoModelForImageTextToText.from_pretrained(
            location,
            dtype=_dtype(config),
            output_loading_info=True,
            trust_remote_code=False,
            **settings,
        )
        processor = AutoProcessor.from_pretrained(location, trust_remote_code=False)
    vlm_checks.check_weights(source, info["missing_keys"])
    if not processor.chat_template:
        raise UserError(
            f"'{source}' has no chat template: add chat_template.jinja to the checkpoint's folder."
        )
    return model, processor


def _assemble(name: str, config: VlmConfig, model: Any, processor: Any, source: str) -> Vlm:
    """Build the backbone of a loaded checkpoint, and try its parts."""
    with explain_load_errors(
        f"The chat template or processor of '{source}' fails",
        "Replace chat_template.jinja in its folder by that of the vision-language model.",
    ):
        limit_pixels(processor, model.config, config.min_pixels, config.max_pixels)
        backbone = Vlm(name, config, model, processor)
    vlm_checks.check_processor(backbone, source)
    return backbone


def _with_adapter(model: Any, config: VlmConfig) -> Any:
    from peft import LoraConfig

    if config.adapter:
        adapted = vlm_checks.load_adapter(model, config.adapter)
        # Full fine-tuning starts from the adapter's weights and trains the merged ones.
        return adapted if config.tune == "lora" else adapted.merge_and_unload()
    inside = {id(module) for module in model.get_decoder().modules()}
    linear = {
        name: name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    }
    targets = set(linear.values())
    if config.lora_targets != "all-linear":
        targets = vlm_checks.named("lora_targets", config.lora_targets, targets)
    tower = {id(module) for module in vision_modules(model)[0].modules()}
    modules = {n.rpartition(".")[2] for n, m in model.named_modules() if id(m) not in tower}
    trained = vlm_checks.named("lora_modules_to_save", config.lora_modules_to_save, modules)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        # Full names, because a vision tower often has layers of the same last name.
        target_modules=[
            name for name, last in linear.items() if last in targets and last not in trained
        ],
        modules_to_save=sorted(trained) or None,
    )
    return vlm_checks.put_on(model, lora)


@torch.no_grad()
def _check_parts(backbone: Vlm) -> None:
    """Raise UserError if encode and fuse differ from the model's own forward pass."""
    kind = backbone.base.config.model_type
    # Noise, because equal patches would hide image tokens in a wrong order.
    noise = [as_rgb(Image.effect_noise(size, 60)) for size in ((64, 64), (48, 96))]
    items = [Inputs(image, "What is this?", "What is this?") for image in (*noise, None)]
    backbone.eval()
    try:
        batch = backbone.collate(items, ["yes"] * len(items))
        logits = backbone.base(**backbone.prompts.plain(batch, answers=True)).logits
        expected = logits[:, batch.tokens.shape[1] - 1 : -1][batch.targets != IGNORED]
        error = (backbone.predict(batch) - expected).abs().max()
        tolerance = 1e-3 if expected.dtype == torch.float32 else 3e-2
        equal = bool(error <= tolerance * expected.abs().max())
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        equal = False
    if not equal:
        raise UserError(
            f"{kind} models do not fit: their image tokens do not simply replace prompt tokens; "
            f"the families that do: {', '.join(FAMILIES)}."
        )


def _set_trainable(backbone: Vlm) -> None:
    """Apply the options ``tune``, ``vision`` and ``checkpointing`` to the modules."""
    if backbone.config.tune == "full":
        backbone.model.requires_grad_(True)
    elif backbone.config.vision == "trained":
        for module in vision_modules(backbone.base):
            # A step of AdamW is smaller than what bfloat16 can add to a weight.
            module.float().requires_grad_(True)
    base = backbone.base
    if backbone.config.vision == "frozen":
        layers = getattr(base.config, "vision_feature_layer", None) or ()
        # What other families read of the tower is not known, so nothing of it is stored.
        can_store = base.config.model_type in FAMILIES
        freeze(
            vision_modules(base)[0],
            [layers] if isinstance(layers, int) else layers,
            limit=backbone.config.feature_cache_gb * 1e9 * can_store,
        )
    if backbone.config.checkpointing:
        # A checkpoint that is not reentrant needs no input with a gradient. Transformers makes the
        # embeddings require one, whose backward pass then goes on through whatever is frozen; and
        # TRL asks for it again after each generation.
        base.enable_input_require_grads = lambda: None
        enable_checkpointing(base)
