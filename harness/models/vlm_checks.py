"""Try the parts of a checkpoint when it is loaded, so that no fault is met by a crash later."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from steelyard.harness.core.errors import UserError, one_line
from steelyard.harness.core.examples import Inputs
from steelyard.harness.data.images import as_rgb, open_image, stored_size
from steelyard.harness.models.storage import explain_load_errors
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_config import ADAPTER_CONFIG

PATCHES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Settings of a processor by name, and what the configuration of the vision tower calls them."""
SMALL, LONG = 32, 20
"""Pixels of the shorter side below which, and ratio of the sides from which, a shape is extreme."""


def check_weights(source: str, missing: set[str]) -> None:
    """Raise UserError if a checkpoint lacks weights of its model, which would be random."""
    if missing:
        raise UserError(
            f"'{source}' lacks {len(missing)} weights of its model, such as {min(missing)}: they "
            "would be random. Give a complete checkpoint of this model type."
        )


def check_processor(backbone: Vlm, source: str) -> None:
    """Raise UserError unless processor, template and model of a checkpoint fit one another."""
    processor = backbone.processor
    tokens = max(processor.tokenizer.get_vocab().values()) + 1
    rows = backbone.base.get_input_embeddings().num_embeddings
    if tokens > rows:
        raise UserError(
            f"'{source}': its tokenizer has {tokens} tokens and its model embeddings of {rows}: "
            "give tokenizer and weights of the same version."
        )
    vision = getattr(backbone.base.config, "vision_config", None)
    for part in (processor, processor.image_processor):
        for name, of_tower in PATCHES.items():
            size, expected = getattr(part, name, None), getattr(vision, of_tower, None)
            if isinstance(size, int) and isinstance(expected, int) and size != expected:
                raise UserError(
                    f"'{source}': {name} is {size} in its processor and {expected} in its vision "
                    "tower: give preprocessor and weights of the same version."
                )
    if not backbone.image_capacity(1):
        raise UserError(
            f"The chat template of '{source}' shows no image: replace chat_template.jinja in its "
            "folder by that of the vision-language model."
        )
    with (
        explain_load_errors(
            f"The processor of '{source}' fails on an image of 64 x 64",
            "Replace the processor's files in its folder by those of the vision-language model.",
        ),
        suppress(UserError),  # a limit of the options, which real items may keep
    ):
        backbone.collate([Inputs(as_rgb(Image.effect_noise((64, 64), 60)), "?", "?")])


def refused_images(processor: Any, paths: Iterable[Path]) -> dict[Path, str]:
    """Return why a processor refuses images, by path.

    Only extreme shapes are tried, each once and as a blank image: a large set costs little.
    """
    faults: dict[tuple[int, int], str] = {}
    refused = {}
    for path in dict.fromkeys(paths):
        size = stored_size(path)
        if min(size) >= SMALL and max(size) < LONG * min(size):
            continue
        size = open_image(path).size  # upright
        if size not in faults:
            faults[size] = ""
            try:
                processor.image_processor([Image.new("RGB", size)], return_tensors="pt")
            except Exception as error:  # libraries raise what they like
                faults[size] = one_line(error)
        if faults[size]:
            refused[path] = f"{size[0]} x {size[1]}: {faults[size]}"
    return refused


def named(option: str, value: str, names: Collection[str]) -> set[str]:
    """Return the modules that an option names, comma-separated; UserError unless they exist."""
    modules = {name.strip() for name in value.split(",") if name.strip()}
    if absent := sorted(modules - set(names)):
        raise UserError(
            f"{option}: there is no layer called {', '.join(absent)} to adapt; there are "
            f"{', '.join(sorted(filter(str.isidentifier, names)))}."
        )
    return modules


def put_on(model: Any, config: Any) -> Any:
    """Return the model with a new PEFT adapter, all of whose weights are in full precision."""
    from peft import get_peft_model

    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            # PEFT copies modules to save as they are. A step of AdamW is smaller than what bfloat16
            # can add to a weight.
            parameter.data = parameter.data.float()
    return adapted


def load_adapter(model: Any, folder: str) -> Any:
    """Return the model with the PEFT adapter of a folder.

    Raises:
        UserError: there is none, or not all of its tensors fit the model, or they do not fill it.
    """
    from peft import PeftConfig

    if not (Path(folder) / ADAPTER_CONFIG).is_file():
        raise UserError(f"No PEFT adapter at {folder}: {ADAPTER_CONFIG} is missing.")
    with explain_load_errors(
        f"The adapter at {folder} does not fit", "Give the base model that it was trained on."
    ):
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = False
        adapted = put_on(model, config)
        # PEFT itself only warns of these, and scores would be those of the base model.
        result = adapted.load_adapter(folder, "default", is_trainable=True)
    unfit = {
        "tensors have no place in": result.unexpected_keys,
        "tensors are missing for": result.missing_keys,
    }
    faults = [f"{len(keys)} {fault} the model ({keys[0]})" for fault, keys in unfit.items() if keys]
    if faults:
        raise UserError(
            f"The adapter at {folder} does not fit: {' and '.join(faults)}. Give the base model "
            "that it was trained on, in the layout that transformers saves now."
        )
    return adapted
