"""Methods on a vision-language model, ended at some step and called again: equal in all numbers."""

import itertools
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import vlm_toys

from steelyard import methods
from steelyard.harness.budget import checkpoints
from steelyard.harness.budget.audit import Audit
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.errors import Interrupted
from steelyard.harness.models.frozen_tower import feature_stores

FAMILY = "llava"
CASES: dict[str, tuple[str, float, dict[str, Any], dict[str, Any]]] = {
    "mcr": ("mcr", 1.5e9, {}, {}),
    "sft": ("sft", 6e8, {}, {}),
    "dpo": ("dpo", 3.5e9, {"negatives": "blank_image", "max_pairs": 24}, {}),
    "kto": ("kto", 1.2e9, {"max_pairs": 24}, {"micro_batch_size": 4}),
    "grpo": ("grpo", 1.2e9, {"group": 4, "max_tokens": 3}, {"tune": "lora"}),
    "mbpo": (
        "mbpo",
        8e9,
        {"group": 4, "max_tokens": 3, "steps": 1, "filters": "", "mine_share": 0.3, "mix": 0.4},
        {"micro_batch_size": 4},
    ),
}
"""Method, budget, its options and the backbone's."""


class Killed(BaseException):
    """Ends an attempt without warning."""


def attempt(
    name: str, root: Path, folder: Path, minutes: float, at: int | None, error: BaseException
) -> tuple[Meter, dict[str, torch.Tensor]]:
    """Train until a progress call ends it; return the meter and the weights."""
    method, flops, options, backbone_options = CASES[name]
    model = vlm_toys.build(FAMILY, root, **backbone_options)
    meter = Meter(Budget("test", flops), "cpu", Audit(3))
    for module in model.metered_modules:
        meter.watch(module)
    calls = itertools.count()

    def progress(fraction: float) -> None:
        try:
            if next(calls) == at:
                raise error
        except Interrupted as interruption:
            meter.checkpoints.defer(interruption)

    meter.on_progress = progress
    folder.mkdir(exist_ok=True)
    stores = feature_stores(model)
    for store in stores:
        store.repeat = meter.repeated
    meter.checkpoints.open(folder, minutes, model, {}, stores)
    torch.manual_seed(0)
    data = vlm_toys.train_data(model)
    module = methods.load(method)
    with meter, suppress(BudgetSpent):
        module.train(model, data, meter, methods.configure(module, options, "vlm"), 0)
    return meter, {name: value.clone() for name, value in model.state_dict().items()}


def numbers(meter: Meter) -> dict[str, Any]:
    """Return all that a record takes from the meter, without times."""
    ledger = meter.ledger("budget")
    costs = (ledger.flops, ledger.steps, ledger.items, ledger.answers, ledger.audited)
    return {"costs": costs, "log": meter.history, "means": meter.diagnostics}


@pytest.fixture
def every_third(monkeypatch: pytest.MonkeyPatch) -> float:
    clock = itertools.count()
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: float(next(clock)))
    return 3.5 / 60


def compare(name: str, root: Path, minutes: float, moments: Sequence[int]) -> None:
    """Compare a training that was killed at these progress calls with an undisturbed one."""
    never = Killed()
    plain, weights = attempt(name, root, root / "plain", 0.0, None, never)
    folder = root / "ended"
    for moment in moments:
        with pytest.raises(Killed):
            attempt(name, root, folder, minutes, moment, Killed())
    assert (folder / checkpoints.FILE).exists()
    meter, resumed = attempt(name, root, folder, minutes, None, never)
    assert numbers(meter) == numbers(plain)
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


@pytest.mark.parametrize("name", ["mcr", "dpo", "mbpo"])
def test_a_killed_training_has_the_numbers_of_an_undisturbed_one(
    name: str, tmp_path: Path, every_third: float
) -> None:
    compare(name, tmp_path, every_third, [9 if name == "mbpo" else 5])


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(5))
def test_any_moments_will_do(name: str, seed: int, tmp_path: Path, every_third: float) -> None:
    draws = random.Random(f"{name} {seed}")
    compare(name, tmp_path, every_third, [4, draws.randrange(1, 5)])
