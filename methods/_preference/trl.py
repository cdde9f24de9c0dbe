"""Run a TRL trainer with the harness's optimiser, schedule, meter and end of training.

``train_on_rows`` opens a workspace, builds the trainer with ``arguments`` and calls ``run``. TRL
changes a model beyond its weights (a patched ``forward``, a second adapter, gradient
checkpointing). The workspace undoes this when it closes, also after an exception.
"""

import copy
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelyard.harness.budget.checkpoints import Stage
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.files import TemporaryFolder
from steelyard.harness.core.options import read_values
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.fit import new_optimiser
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import preflight, trl_data
from steelyard.methods._preference.callbacks import metered, resumable
from steelyard.methods._preference.head import score_answers
from steelyard.methods._preference.reference import cached

REFERENCE_ADAPTER = "ref"  # TRL's name for its frozen copy of a LoRA adapter
UNBOUNDED = 10**9  # optimiser steps; the meter ends the run
NOISY_LIBRARIES = ("transformers", "trl", "accelerate", "datasets", "peft")
CollatorOf = Callable[[Vlm, Any, trl_data.PromptAt], trl_data.Collator]
"""Returns the collator of training data or pairs, and of their prompts."""


def train_on_rows(
    trainer_class: Callable[..., Any],
    config_class: type[Any],
    backbone: Vlm,
    data: TrainData,
    meter: Meter,
    seed: int,
    collator: CollatorOf,
    *,
    pairs: Sequence[trl_data.AnswerPair] | None = None,
    reference: Sequence[str] = (),
    rows_per_pair: int = 1,
    answers_per_row: int = 1,
    stage: str = "pairs",
    until: float = 1.0,
    compares: bool = False,
    **settings: Any,
) -> None:
    """Train with one of TRL's offline trainers until the fraction ``until`` of the budget is spent.

    Rows are those of the data, or of ``pairs``, whose trainers compare with the start model's
    log-probabilities, which they read from a batch under the names ``reference``. A row is a prompt
    with one or more answers. The seed and ``stage`` decide the order of rows. The loss
    ``compares`` the rows of a pass if it is no mean over them. ``settings`` are further arguments
    of ``config_class``.
    """
    from trl.trainer.utils import add_fused_lm_head  # here, because trl takes seconds

    prompts = trl_data.prompts_of(backbone, data)
    preflight.check(backbone, data, prompts, pairs)
    source = data if pairs is None else pairs
    rows = rows_per_pair * len(source)
    size = trl_data.batch_size(backbone, rows, least=rows_per_pair)
    settings |= passes(backbone, size, rows_per_pair, compares=compares)
    with workspace(backbone) as folder:
        collate = collator(backbone, source, prompts)
        if reference:
            add_fused_lm_head(backbone.base)
            score_answers(backbone.base)
            collate, rows = cached(backbone, meter, collate, rows, size, reference)
        # Without a reference model TRL would load the checkpoint again, or add a second adapter.
        unused = {"ref_model": copy.copy(backbone.model)} if reference else {}
        part = meter.checkpoints.stage(stage)
        first = size * part.position["step"] if part.position else 0
        micro = settings["per_device_train_batch_size"]
        ordered = trl_data.ordered(rows, size, seed, stage, micro, first)

        def position(row: int) -> int:
            return row if pairs is None else pairs[row // rows_per_pair].position

        trainer = trainer_class(
            model=backbone.model,
            args=arguments(config_class, backbone, seed, folder, **settings),
            data_collator=trl_data.reading_ahead(collate, ordered["row"], position, data.expect),
            train_dataset=ordered,
            processing_class=backbone.processor,
            **unused,
        )
        if reference:
            trainer.ref_model, trainer.precompute_ref_logps = None, True
        answers = size * answers_per_row
        run(trainer, backbone, meter, prompts=size, answers=answers, until=until, stage=part)


@contextmanager
def workspace(backbone: Vlm) -> Iterator[Path]:
    """Yield a temporary folder; libraries are silent, and the model keeps only its new weights."""
    model = backbone.model
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        folder = stack.enter_context(TemporaryFolder())
        stack.callback(backbone.train, backbone.training)
        stack.enter_context(_restored(model))
        yield Path(folder)


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Restore whatever trainers patch on the modules and on the model's configuration."""
    forwards = {module: vars(module).get("forward") for module in model.modules()}
    dropout = {m: m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    trainable = {p: p.requires_grad for p in model.parameters()}
    configs: list[dict[str, Any]] = [vars(model.config), vars(model.config.get_text_config())]
    before = [dict(config) for config in configs]
    try:
        yield
    finally:
        # TRL's fused head, and ours, are instance attributes that hide the class's ``forward``;
        # accelerate keeps the ``forward`` that it wraps in ``_original_forward``.
        for module, forward in forwards.items():
            vars(module).pop("_original_forward", None)
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward
        for module, probability in dropout.items():
            module.p = probability
        # Trainers change token ids and caching in the configuration, which is saved with the model.
        for config, values in zip(configs, before, strict=True):
            config.clear()
            config.update(values)
        if REFERENCE_ADAPTER in getattr(model, "peft_config", {}):
            model.delete_adapter(REFERENCE_ADAPTER)
        # Deleting an adapter changes which parameters are trainable.
        for parameter, required in trainable.items():
            parameter.requires_grad_(required)


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off logs, warnings, progress bars and telemetry of the libraries."""
    import datasets
    import transformers
    from huggingface_hub import constants

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for logger in map(logging.getLogger, NOISY_LIBRARIES):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        # TRL sends usage data to the hub.
        telemetry = constants.HF_HUB_DISABLE_TELEMETRY
        stack.callback(setattr, constants, "HF_HUB_DISABLE_TELEMETRY", telemetry)
        constants.HF_HUB_DISABLE_TELEMETRY = True
        if "TRANSFORMERS_NO_ADVISORY_WARNINGS" not in os.environ:
            stack.callback(os.environ.pop, "TRANSFORMERS_NO_ADVISORY_WARNINGS")
            os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
        yield


def arguments(
    config_class: type[Any], backbone: Vlm, seed: int, folder: Path, **settings: Any
) -> Any:
    """Return training arguments of a TRL trainer that follow the backbone's recipe.

    ``settings`` override the recipe's, and the user's override both.
    """
    recipe = backbone.recipe
    shared = {
        "output_dir": str(folder),
        "max_steps": UNBOUNDED,
        **passes(backbone, recipe.batch_size),
        "max_grad_norm": recipe.clip_norm,
        "weight_decay": recipe.weight_decay,
        "learning_rate": recipe.learning_rate,
        "bf16": False,  # the backbone's own hooks set its precision
        "use_cpu": backbone.device.type == "cpu",
        "gradient_checkpointing": False,  # the backbone's own option has been applied to its layers
        # With these TRL switches them on again after it has sampled.
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": seed_for(seed, "trl", *ranks.name()) % 2**32,  # NumPy takes 32 bits
        "data_seed": seed_for(seed, "trl", "data") % 2**32,
        "remove_unused_columns": False,  # the collators read columns that no model knows
        "dataloader_drop_last": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": backbone.device.type != "cpu",
        "train_sampling_strategy": "sequential",  # the data set is in a random order already
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "logging_steps": 1,  # the meter counts a step when its loss is logged
        "logging_nan_inf_filter": False,  # a loss that is not finite has to end the run
        "max_length": None,  # TRL would cut answers off
        "disable_dropout": False,
        "vllm_importance_sampling_correction": False,  # see ``vllm``
        "use_bias_correction_kl": False,  # the ratio is no factor of the divergence in GRPO
    }
    names = inspect.signature(config_class).parameters
    # Trainers differ in the settings that they know.
    shared = {name: value for name, value in shared.items() if name in names}
    return config_class(
        **{**shared, **settings, **read_values(config_class, backbone.trainer_settings)}
    )


def passes(
    backbone: Vlm, rows: int, multiple: int = 1, *, compares: bool = False
) -> dict[str, int]:
    """Return the training arguments that split a step over ``rows`` into passes with gradients.

    They are those of one process: each of several ranks takes an equal part of the passes.
    """
    size = backbone.recipe.micro_size(rows, multiple, compares=compares)
    return {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": rows // size // ranks.world(),
    }


def reference_copy(backbone: Vlm) -> Any | None:
    """Return a frozen copy of the model; None under LoRA, where TRL freezes a second adapter."""
    if backbone.config.tune == "lora":
        return None
    # A deep copy keeps the meter's hooks, so its passes are counted.
    return copy.deepcopy(backbone.model).eval().requires_grad_(False)


def run(
    trainer: Any,
    backbone: Vlm,
    meter: Meter,
    *,
    prompts: int | Callable[[], int],
    answers: int,
    until: float = 1.0,
    stage: Stage | None = None,
) -> None:
    """Train until the fraction ``until`` of the budget is spent, or BudgetSpent is raised.

    ``prompts`` and ``answers`` are the numbers per optimiser step, as ``Meter.step`` counts them; a
    function returns the prompts of the last step of a trainer whose steps differ.
    Passes of the reference are charged to the phase ``reference``. The learning rate follows the
    meter, as in ``fit``. The rows of a trainer without a ``source`` begin where ``stage`` does.

    Raises:
        NonFiniteLoss: a gradient is NaN or infinite; raised before the optimiser's step.
        UserError: the answers' log-probability is exactly zero, so nothing is trained.
        BudgetSpent: the next pass would overshoot the budget.
    """
    from peft import PeftModel
    from transformers import PrinterCallback

    stage = stage or meter.checkpoints.stage("online")
    meter.start_stage()
    position = stage.position or {"step": 0, "start": meter.fraction}
    start: float = position["start"]
    if stage.finished or start >= until:
        stage.finish()
        return

    def progress() -> float:
        return min(1.0, (meter.fraction - start) / (until - start))

    recipe = backbone.recipe
    trainable = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    trainer.optimizer = new_optimiser(trainable, recipe)
    # TRL's schedule counts steps. This one changes nothing: the callback sets the rate.
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1.0)
    for module in filter(None, (trainer.model, vars(trainer).get("ref_model"))):
        # Online trainers score answers at the temperature they were sampled with.
        temperature = vars(trainer).get("temperature", 1.0)
        base = module.get_base_model() if isinstance(module, PeftModel) else module
        score_answers(base, temperature)
    _average_over_ranks(trainer)
    trainer.remove_callback(PrinterCallback)  # it prints every log
    source = vars(trainer).get("source")
    sampler = source.sampler if source else trl_data.Endless(len(trainer.train_dataset))
    trainer._get_train_sampler = lambda dataset=None: sampler
    known = source.sampler if source else None
    trainer.add_callback(resumable(stage, position, trainer.optimizer, known))
    trainer.add_callback(metered(meter, recipe, prompts, answers, progress))
    # A walk over all parameters per step, for statistics of the hub only.
    trainer.floating_point_ops = lambda inputs: 0.0
    backbone.train()
    with _reference_phase(vars(trainer).get("ref_model"), trainer.model, meter):
        trainer.train()
    stage.finish()


def _average_over_ranks(trainer: Any) -> None:
    """Average gradients over the ranks, each of which has a trainer that knows of no other.

    Thus no wrapper hides a module from the meter, and each rank gets its part of every block of a
    sampler. Trainers clip once in each step, also to an infinite norm.
    """
    clip, count_tokens = trainer.accelerator.clip_grad_norm_, trainer._get_num_items_in_batch

    def average_and_clip(parameters: Iterable[nn.Parameter], *norm: float) -> Any:
        parameters = list(parameters)
        ranks.average(parameters)
        return clip(parameters, *norm)

    def mean_tokens(batches: list[Any], device: torch.device) -> Any:
        # A loss over all tokens of a step: the mean over ranks of sums divided by their mean count.
        count = count_tokens(batches, device)
        return count if count is None else ranks.mean_tensor(count)

    trainer.accelerator.clip_grad_norm_ = average_and_clip
    trainer._get_num_items_in_batch = mean_tokens


@contextmanager
def _reference_phase(reference: Any, policy: Any, meter: Meter) -> Iterator[None]:
    """Charge the frozen copy, or the policy with the frozen adapter active, to ``reference``."""
    module: nn.Module = policy if reference is None else reference
    open_phases: list[ExitStack] = []

    def enter(called: nn.Module, args: Any) -> None:
        stack = ExitStack()
        if module is reference or getattr(policy, "active_adapter", None) == REFERENCE_ADAPTER:
            stack.enter_context(meter.phase("reference"))
        open_phases.append(stack)

    def leave(called: nn.Module, args: Any, output: Any) -> None:
        open_phases.pop().close()

    handles = (
        module.register_forward_pre_hook(enter, prepend=True),  # before the meter's hook
        module.register_forward_hook(leave, always_call=True),  # also if the budget ends inside
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
