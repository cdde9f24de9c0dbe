"""Methods on TRL's trainers train on every family, on images of any size and number."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
import vlm_toys

from steelyard import methods
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter

ONLINE = ("grpo", "rloo", "mbpo")
METHODS = (*ONLINE, "sft", "dpo", "mdpo", "kto")
OPTIONS: dict[str, Any] = {"group": 4, "max_tokens": 3, "resample": 1}
# A random model's answers have most faults.
MINING: dict[str, Any] = {"steps": 1, "filters": "", "iig": False, "mine_limit": 8}
# Two steps of 8 answers, of which a pair has two; an offline method trains on 8 prompts.
PROMPTS = {"grpo": 4, "rloo": 4, "mbpo": 6} | dict.fromkeys(METHODS[3:], 16)
ANSWERS = dict.fromkeys(METHODS, 16) | dict.fromkeys(("dpo", "mdpo"), 32)
DEFAULT = {("grpo", "llava_onevision"), ("rloo", "qwen2_5_vl"), ("mbpo", "llava_onevision")}
DEFAULT |= {("dpo", "qwen2_vl"), ("mdpo", "llava_onevision"), ("kto", "qwen2_5_vl")}
CELLS = [
    pytest.param(*cell, marks=() if cell in DEFAULT else pytest.mark.heavy, id="-".join(cell))
    for cell in ((method, family) for method in METHODS for family in tiny_vlms.FAMILIES)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.mark.parametrize("uneven", [True, pytest.param(False, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("tune", ["lora", pytest.param("full", marks=pytest.mark.heavy)])
@pytest.mark.parametrize(("name", "family"), CELLS)
def test_two_steps(name: str, family: str, tune: str, uneven: bool, root: Path) -> None:
    """Under LoRA with half-precision weights; ``uneven`` images are unequal, several or none."""
    model = vlm_toys.build(family, root, tune=tune, lora_rank=4, micro_batch_size=4)
    if tune == "lora":
        for parameter in model.base.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    meter = Meter(Budget("test", 1e12, items=PROMPTS[name]), "cpu")
    for module in model.metered_modules:
        meter.watch(module)
    options = (OPTIONS if name in ONLINE else {}) | (MINING if name == "mbpo" else {})
    data = vlm_toys.train_data(model, 16, uneven=uneven)
    method = methods.load(name)
    with meter, suppress(BudgetSpent):
        method.train(model, data, meter, methods.configure(method, options, "vlm"), 0)
    assert meter.steps == 2
    ledger = meter.ledger("budget")
    assert (ledger.items, ledger.answers) == (PROMPTS[name], ANSWERS[name])
    phases = {"forward", "backward"} | ({"reference"} if name != "sft" else set())
    assert ledger.flops.keys() >= phases | ({"rollout"} if name in ONLINE else set())
    after = [p for p in model.parameters() if p.requires_grad]
    assert not all(map(torch.equal, before, after))
    assert all(bool(p.isfinite().all()) for p in after)
