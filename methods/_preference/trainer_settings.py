"""Check the settings of a TRL trainer that a user gives with ``--trl KEY=VALUE``."""

import warnings
from collections.abc import Collection
from dataclasses import fields
from fnmatch import fnmatch
from typing import Any

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.options import Options, check_values, read_values

OPTIONS = {
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "micro_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "learning_rate": "learning_rate",
    "lr_scheduler*": "warmup",
    "warmup*": "warmup",
    "optim*": "optimizer",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "weight_decay": "weight_decay",
    "max_grad_norm": "clip_norm",
    "*[bf][pf]16*": "precision",
    "*_checkpointing*": "checkpointing",
    "max_length": "max_prompt_tokens",
    "dataloader_*": "workers",
}
"""Keys, by pattern, that are options of the backbone under another name."""
INSTEAD = {
    **{key: f"--backbone-set {option}=VALUE" for key, option in OPTIONS.items()},
    "max_steps": "--budget",
    "num_train_epochs": "--budget",
    "*seed": "--seeds",
    "report_to": "--log",
    "logging_*": "--log",
    "output_dir": "--runs",
    "save_*": "--runs",
    "eval_*": "--evaluate",
    "num_generations": "--set group=VALUE",
    "max_completion_length": "--set max_tokens=VALUE",
    "epsilon": "--set clip=VALUE",
    "desirable_weight": "--set desirable=VALUE",
    "undesirable_weight": "--set undesirable=VALUE",
}
"""Keys that are set elsewhere, by pattern, with the option to use."""
UNUSED = (
    "model_init_kwargs", "trust_remote_code", "router_*", "chat_template*", "dataset_*",
    "eos_token", "pad_*", "truncation_mode", "shuffle_dataset", "packing*", "padding_free",
    "*_only_loss", "activation_*", "precompute_*", "*ref_model*", "top_[pk]", "min_p",
    "repetition_penalty", "generation_*", "steps_per_generation", "num_iterations",
    "cache_implementation", "*structured_outputs*", "*transformers_*", "ds3_*", "log_*",
    "num_completions_*", "max_tool_*", "num_generations_eval", "disable_dropout",
    "reward_weights", "cast_*",
)  # fmt: skip
"""Keys without effect: rows, answers, sampling and the reference are this package's own."""


def check(trainer: str, settings: Options, options: Collection[str]) -> None:
    """Raise UserError for a key or value that TRL's configuration class ``trainer`` cannot take.

    ``options`` are those of the method: what is one of them is set there.
    """
    import trl
    from transformers import TrainingArguments
    from trl.import_utils import is_vllm_available

    config_class: type[Any] = getattr(trl, trainer)
    base = {field.name for field in fields(TrainingArguments)}
    names = [
        field.name
        for field in fields(config_class)
        if field.name not in {*base, *options}
        and not any(fnmatch(field.name, pattern) for pattern in (*INSTEAD, *UNUSED))
    ]
    for key in settings:
        if key in names:
            continue
        advice = f"--set {key}=VALUE" if key in options else ""
        advice = advice or next((a for pattern, a in INSTEAD.items() if fnmatch(key, pattern)), "")
        if advice:
            raise UserError(f"--trl {key}: use {advice}.")
        if key in {*base, *(field.name for field in fields(config_class))}:
            raise UserError(
                f"--trl {key}: steelyard sets it, or it has no effect here. {trainer} takes "
                f"{', '.join(sorted(names))}."
            )
        raise unknown(f"setting of TRL's {trainer}", key, names)
    values = read_values(config_class, settings)
    if values.get("use_vllm") and not is_vllm_available():
        raise UserError(
            "--trl use_vllm: there is no vLLM here: pip install 'steelyard[vllm]', for a GPU."
        )
    check_values(config_class, values, f"setting of TRL's {trainer}", names)
    try:
        with warnings.catch_warnings(action="ignore"):  # of names that TRL itself still uses
            config_class(output_dir="unused", use_cpu=True, report_to="none", **values)
    except (TypeError, ValueError) as error:
        raise UserError(f"--trl: {' '.join(str(error).split())}") from None
