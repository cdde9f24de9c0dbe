"""Every method for vision-language models trains on every family, at a cost that torch confirms.

A cell takes two optimiser steps. By default with bf16 weights, LoRA, checkpointing, and images that
are unequal, several or missing; the heavy cells change one of these.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
import vlm_toys

from steelyard import methods
from steelyard.harness.budget.flops import total_counter
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.models.vlm import Vlm, vision_modules

METHODS = [
    name
    for name in methods.names()
    if "vlm" in methods.load(name).ABOUT.backbones and name != "zero_shot"
]
ONLINE = {"group": 4, "max_tokens": 3, "resample": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": ONLINE,
    "rloo": ONLINE,
    # A random model's answers have most faults.
    "mbpo": {**ONLINE, "steps": 1, "filters": "", "iig": False, "mine_limit": 8},
}
PAIRS = ("dpo", "mdpo", "mpo")
"""Methods with two answers to a prompt."""
PROMPTS = {"grpo": 4, "rloo": 4, "mbpo": 6}
"""Prompts of two steps, of which each holds 8 answers; 16 where an answer has its own prompt."""
ATTACKS = ("mbpo",)
"""Methods that follow gradients through the vision tower to the pixels."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def build(family: str, root: Path, **options: Any) -> Vlm:
    model = vlm_toys.build(family, root, lora_rank=4, micro_batch_size=4, **options)
    if options["tune"] == "lora":
        for parameter in model.base.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    return model


def check_two_steps(name: str, model: Vlm, *, uneven: bool) -> Meter:
    """Train two steps and compare the ledger with torch's counter over the same passes."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tower = vision_modules(model.base)[0]
    gradients = []
    hook = tower.register_forward_pre_hook(lambda *call: gradients.append(torch.is_grad_enabled()))
    meter = Meter(Budget("test", 1e12, items=PROMPTS.get(name, 16)), "cpu")
    for module in model.metered_modules:
        meter.watch(module)
    # Sampled answers are charged by their tokens; here, beside that, as they are executed.
    meter.tokens.is_paid = lambda *call: False  # type: ignore[method-assign]
    data = vlm_toys.train_data(model, 16, uneven=uneven)
    method = methods.load(name)
    config = methods.configure(method, OPTIONS.get(name, {}), "vlm")
    with total_counter() as counter, meter, suppress(BudgetSpent):
        method.train(model, data, meter, config, 0)
    hook.remove()
    assert meter.steps == 2
    ledger = meter.ledger("budget")
    by_tokens = sum(part.flops for part in ledger.generation)
    ratio = (meter.spent - by_tokens + meter.calibration) / counter.get_total_flops()
    assert 0.995 < ratio < 1.005
    answers = 32 if name in PAIRS else 16
    assert (ledger.items, ledger.answers) == (PROMPTS.get(name, 16), answers)
    sampled = {"rollout"} if name in PROMPTS else set()
    compared = {"reference"} if name in (*PROMPTS, *PAIRS, "kto") else set()
    phases = {"forward", "backward"} | sampled | compared
    assert ledger.flops.keys() - {"mine"} == phases
    if name not in ATTACKS:
        assert gradients and not any(gradients), "a frozen tower needs no gradient"
    after = model.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed and changed <= trainable
    assert all(bool(after[key].isfinite().all()) for key in changed)
    return meter


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_two_steps_cost_what_torch_counts(name: str, family: str, root: Path) -> None:
    model = build(family, root, tune="lora", checkpointing=True)
    check_two_steps(name, model, uneven=True)


@pytest.mark.heavy
@pytest.mark.parametrize("uneven", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("tune", ["lora", "full"])
@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_two_steps_of_other_recipes(
    name: str, family: str, tune: str, checkpointing: bool, uneven: bool, root: Path
) -> None:
    if (tune, checkpointing, uneven) == ("lora", True, True):
        pytest.skip("the default cell")
    model = build(family, root, tune=tune, checkpointing=checkpointing)
    check_two_steps(name, model, uneven=uneven)
