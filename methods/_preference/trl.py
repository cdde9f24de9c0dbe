"""The one way a method runs a TRL trainer: the harness's optimiser, schedule, meter and stopping.

A method opens a workspace, builds its trainer with ``arguments`` and calls ``run``::

    with workspace(backbone) as folder:
        args = arguments(DPOConfig, backbone, seed, folder, beta=0.1)
        reference = reference_copy(backbone)
        trainer = DPOTrainer(backbone.model, reference, args, data_collator=..., ...)
        run(trainer, backbone, meter, items=backbone.recipe.batch_size)

What TRL does to a model that outlives the trainer (a patched ``forward``, a second adapter,
gradient checkpointing) is undone when the workspace closes, also after an exception.
"""

import copy
import inspect
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import NonFiniteLoss, UserError
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.fit import new_optimiser, schedule
from steelyard.methods._preference.trl_head import score_answers

REFERENCE_ADAPTER = "ref"  # the name TRL gives its frozen copy of a LoRA adapter
UNBOUNDED = 10**9  # optimiser steps; the meter ends a run
LOUD = ("transformers", "trl", "accelerate", "datasets", "peft")
UNLOGGED = ("epoch", "learning_rate", "num_tokens", "step_time")


@contextmanager
def workspace(backbone: Vlm) -> Iterator[Path]:
    """A folder to train in, removed afterwards; silence; the model as it was but for its weights.

    TRL sends usage data to the hub when it may; in here it may not.
    """
    model = backbone.model
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="steelyard-"))
        stack.callback(backbone.train, backbone.training)
        stack.enter_context(_restored(model))
        yield Path(folder)


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Put back what trainers patch on the modules and on the model's configuration."""
    forwards = {module: vars(module).get("forward") for module in model.modules()}
    dropout = {m: m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    trainable = {p: p.requires_grad for p in model.parameters()}
    settings: list[dict[str, Any]] = [vars(model.config), vars(model.config.get_text_config())]
    before = [dict(values) for values in settings]
    checkpointing = model.is_activation_checkpointing
    try:
        yield
    finally:
        for module, forward in forwards.items():
            vars(module).pop("_original_forward", None)
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward
        for module, probability in dropout.items():
            module.p = probability
        for values, saved in zip(settings, before, strict=True):
            values.clear()
            values.update(saved)
        if REFERENCE_ADAPTER in _adapters(model):
            model.delete_adapter(REFERENCE_ADAPTER)
        for parameter, required in trainable.items():
            parameter.requires_grad_(required)
        if model.is_activation_checkpointing and not checkpointing:
            model.activation_checkpointing_disable()


@contextmanager
def _quiet() -> Iterator[None]:
    """No logs, warnings, progress bars or telemetry of the libraries underneath."""
    import datasets
    import transformers
    from huggingface_hub import constants

    bars = datasets.are_progress_bars_disabled()
    levels = {name: logging.getLogger(name).level for name in LOUD}
    telemetry = constants.HF_HUB_DISABLE_TELEMETRY
    advice = os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        constants.HF_HUB_DISABLE_TELEMETRY = True
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_TELEMETRY = telemetry
            if advice is None:
                del os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"]
            if not bars:
                datasets.enable_progress_bars()
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def arguments(config_class: type[Any], backbone: Vlm, seed: int, folder: Path, **own: Any) -> Any:
    """Training arguments of a TRL trainer that follow the backbone's recipe.

    ``own`` are the trainer's own settings and win over these.
    """
    recipe = backbone.recipe
    shared = {
        "output_dir": str(folder),
        "max_steps": UNBOUNDED,
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": recipe.clip_norm,
        "weight_decay": recipe.weight_decay,
        "learning_rate": recipe.learning_rate,
        "bf16": recipe.precision == "bf16",
        "use_cpu": backbone.device.type == "cpu",
        "gradient_checkpointing": backbone.config.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": seed_for(seed, "trl") % 2**32,
        "data_seed": seed_for(seed, "trl", "data") % 2**32,
        "remove_unused_columns": False,
        "dataloader_drop_last": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": backbone.device.type != "cpu",
        "train_sampling_strategy": "sequential",  # the data set is in a random order already
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "max_length": None,
        "disable_dropout": False,
    }
    known = inspect.signature(config_class).parameters
    return config_class(**{name: value for name, value in shared.items() if name in known} | own)


def reference_copy(backbone: Vlm) -> Any | None:
    """The frozen model to compare with; None under LoRA, where TRL freezes a second adapter.

    A deep copy keeps the meter's hooks, so that its passes are counted.
    """
    if backbone.config.tune == "lora":
        return None
    reference = copy.deepcopy(backbone.model).eval()
    return reference.requires_grad_(False)


@contextmanager
def charged(
    module: nn.Module, meter: Meter, phase: str, when: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Charge this module's forward passes to ``phase``, those during which ``when()`` holds."""
    open_phases: list[ExitStack] = []

    def enter(called: nn.Module, args: Any) -> None:
        stack = ExitStack()
        if when():
            stack.enter_context(meter.phase(phase))
        open_phases.append(stack)

    def leave(called: nn.Module, args: Any, output: Any) -> None:
        open_phases.pop().close()

    handles = (
        module.register_forward_pre_hook(enter, prepend=True),  # before the meter's own hook
        module.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(trainer: Any, backbone: Vlm, meter: Meter, *, items: int, until: float = 1.0) -> None:
    """Train until the share ``until`` of the budget is used, or BudgetSpent is raised.

    ``items`` are the training examples of one optimiser step. Reference passes go to the phase
    ``reference``. The learning rate warms up and falls along a cosine over this stage's share.

    Raises:
        NonFiniteLoss: a loss or gradient norm is NaN or infinite; names the step.
        UserError: the answers' log-probability is exactly zero: nothing is being trained.
        BudgetSpent: the next pass would overshoot the budget.
    """
    from transformers import PrinterCallback

    meter.start_stage()
    start = meter.fraction
    if start >= until:
        return

    def progress() -> float:
        return min(1.0, (meter.fraction - start) / (until - start))

    recipe = backbone.recipe
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    trainer.optimizer = new_optimiser(trained, recipe)
    for group in trainer.optimizer.param_groups:
        group["lr"] = recipe.learning_rate
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        trainer.optimizer, lambda step: schedule(progress(), recipe.warmup)
    )
    for module in filter(None, (trainer.model, vars(trainer).get("ref_model"))):
        temperature = vars(trainer).get("temperature", 1.0)  # of sampling, where there is any
        score_answers(_unwrapped(module), temperature, recipe.precision == "bf16")
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_callback(meter, items, progress))
    # TRL and transformers only use this number for hub statistics; it walks all parameters.
    trainer.floating_point_ops = lambda inputs: 0.0
    backbone.train()
    with _reference_phase(trainer, meter):
        trainer.train()


@contextmanager
def _reference_phase(trainer: Any, meter: Meter) -> Iterator[None]:
    """Charge the frozen copy, or the policy while it wears the frozen adapter, to ``reference``."""
    reference = vars(trainer).get("ref_model")
    policy = trainer.model

    def wears_reference() -> bool:
        return bool(policy.active_adapter == REFERENCE_ADAPTER)

    if reference is not None:
        with charged(reference, meter, "reference"):
            yield
    elif REFERENCE_ADAPTER in _adapters(policy):
        with charged(policy, meter, "reference", wears_reference):
            yield
    else:
        yield


def _unwrapped(model: Any) -> Any:
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def _adapters(model: Any) -> Mapping[str, object]:
    from peft import PeftModel

    return model.peft_config if isinstance(model, PeftModel) else {}


def _callback(meter: Meter, items: int, progress: Callable[[], float]) -> Any:
    """The callback through which the meter follows and stops a trainer."""
    from transformers import TrainerCallback

    class Metered(TrainerCallback):  # type: ignore[misc]
        """Counts steps, logs and stops."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            meter.afford_step()

        def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            logs = rest["logs"]
            if "loss" not in logs:
                return  # the summary at the end
            values = {name: float(value) for name, value in logs.items() if _is_number(value)}
            _check(values, meter.steps + 1)
            meter.log({k: v for k, v in values.items() if k not in UNLOGGED})
            meter.step(items)
            if progress() >= 1.0:
                control.should_training_stop = True

    return Metered()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Tensor))


def _check(values: Mapping[str, float], step: int) -> None:
    for name in ("loss", "grad_norm"):
        if name in values and not math.isfinite(values[name]):
            raise NonFiniteLoss(step, values[name])
    pair = [values[name] for name in ("logps/chosen", "logps/rejected") if name in values]
    if pair and not any(pair):
        raise UserError(
            f"At step {step} the answers' log-probability is exactly 0: no answer token is left in "
            "the batch. Raise max_answer_tokens of the backbone or drop the empty answers."
        )
