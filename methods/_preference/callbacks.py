"""Callbacks through which the meter follows a TRL trainer, and through which it is resumed."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from steelyard.harness.budget.checkpoints import Stage
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import NonFiniteLoss, UserError
from steelyard.harness.models.backbone import Recipe
from steelyard.harness.training.fit import set_rate
from steelyard.methods._preference.online import BlockSampler

UNLOGGED = ("epoch", "learning_rate", "num_tokens", "step_time")


def metered(
    meter: Meter,
    recipe: Recipe,
    prompts: int | Callable[[], int],
    answers: int,
    progress: Callable[[], float],
) -> Any:
    """Return the callback through which the meter follows, schedules and stops a trainer."""
    from transformers import TrainerCallback

    class Metered(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            # A trainer whose steps differ checks its prompts itself.
            meter.afford_step(1 if callable(prompts) else prompts)
            # Noted here, because TRL's schedule has moved on when the step is logged.
            self.rate = set_rate(rest["optimizer"], recipe, progress())

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            groups = rest["optimizer"].param_groups
            gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
            # After clipping, which spreads a value that is not finite to all gradients.
            norm = torch.nn.utils.get_total_norm(gradients).item()
            if not math.isfinite(norm):
                raise NonFiniteLoss(meter.steps + 1, norm, "gradient norm")

        def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            logs = rest["logs"]
            if "loss" not in logs:
                return  # the summary at the end
            values = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float, Tensor))}
            check_step(values, meter.steps + 1)
            meter.log({k: v for k, v in values.items() if k not in UNLOGGED}, self.rate)
            meter.step(prompts() if callable(prompts) else prompts, answers)
            if progress() >= 1.0:
                control.should_training_stop = True

    return Metered()


def check_step(values: Mapping[str, float], step: int) -> None:
    """Refuse log-probabilities of exactly zero."""
    log_probs = [values[name] for name in ("logps/chosen", "logps/rejected") if name in values]
    if log_probs and not any(log_probs):
        raise UserError(
            f"At step {step} the answers' log-probability is exactly 0: the batch has no answer "
            "token. Raise max_answer_tokens of the backbone or drop the empty answers."
        )


def resumable(
    stage: Stage, position: Mapping[str, Any], optimiser: Any, sampler: BlockSampler | None
) -> Any:
    """Return the callback that marks the stage before each step, when trainers buffer nothing.

    The loader has read on by then, and a sampler knows what was not used.
    """
    from transformers import TrainerCallback

    if sampler is not None and "rows" in position:
        sampler.load_state_dict(position["rows"])
    step = position["step"]

    def current() -> dict[str, Any]:
        rows = {} if sampler is None else {"rows": sampler.state_dict()}
        return {"step": step, "start": position["start"], **rows}

    class Resumable(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            stage.mark(current, [optimiser])

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            nonlocal step
            step += 1
            if sampler is not None:
                sampler.unused.popleft()

    return Resumable()
