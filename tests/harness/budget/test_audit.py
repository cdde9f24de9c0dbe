"""Work past the meter is found by torch's own counter, and honest work is not disturbed."""

import copy
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import nn

from steelyard.harness.budget.audit import STEPS, Audit, BehindMeter
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter

ROWS, WIDTH = 8, 16
PASS = 2 * ROWS * WIDTH * WIDTH  # forward FLOPs of one call of the layer
Trick = Callable[[nn.Module, torch.Tensor], object]


def trained(trick: Trick, when: Callable[[int], bool], steps: int = 40) -> Meter:
    """Steps of one linear layer under an audited meter, with a trick at some of them."""
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    meter = Meter(Budget("test", steps * 2 * PASS), audit=Audit(7))
    meter.watch(layer)
    with meter, suppress(BudgetSpent, BehindMeter):
        for step in range(steps):
            if when(step):
                trick(layer, x)
            layer(x).sum().backward()
            meter.step(ROWS)
    return meter


def nothing(layer: nn.Module, x: torch.Tensor) -> None:
    """Add nothing to an honest step."""


def forward_itself(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer.forward(x)


def forward_in_secret(layer: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        layer.forward(x)


def its_weights(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, layer.weight)


def stripped_copy(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    clone = copy.deepcopy(layer)
    clone._forward_pre_hooks.clear()
    clone._forward_hooks.clear()
    return clone(x)


def module_of_its_own(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.Linear(WIDTH, WIDTH)(x)


def always(step: int) -> bool:
    return True


def test_honest_steps_are_audited_and_nothing_is_found() -> None:
    meter = trained(nothing, always)
    ledger = meter.ledger("budget")
    assert meter.audit.finding == ""
    assert ledger.steps == 40 and ledger.unposted == 0
    assert ledger.audited >= 2 + STEPS  # before the first step, those drawn, and the end


@pytest.mark.parametrize(
    "trick", [forward_itself, forward_in_secret, its_weights, stripped_copy, module_of_its_own]
)
def test_a_model_called_behind_the_meter_is_found(trick: Trick) -> None:
    meter = trained(trick, always)
    assert "were executed behind the meter" in meter.audit.finding
    # Forward once and posted not, beside a posted forward and backward: a third.
    assert meter.ledger("budget").unposted == pytest.approx(1 / 3, abs=1e-3)


def test_what_comes_before_the_first_step_and_after_the_last_is_always_looked_at() -> None:
    assert trained(forward_in_secret, lambda step: step == 0).audit.finding
    meter = trained(nothing, always)
    late = Meter(Budget("test", 4 * PASS), audit=Audit(7))
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    late.watch(layer)
    with late:
        for _ in range(2):
            layer(x).sum().backward()
            late.step(ROWS)
        with pytest.raises(BudgetSpent):
            layer(x)
        layer.forward(x).sum().backward()  # goes on although the meter has refused
    assert late.audit.finding and not meter.audit.finding


def test_a_forward_replaced_after_its_price_was_known_is_found() -> None:
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    meter = Meter(Budget("test", 40 * 2 * PASS), audit=Audit(7))
    meter.watch(layer)
    honest = layer.forward
    with meter, suppress(BudgetSpent, BehindMeter):
        for step in range(40):
            if step == 2:
                layer.forward = lambda x: honest(honest(honest(x)))  # type: ignore[method-assign]
            layer(x).sum().backward()
            meter.step(ROWS)
    assert meter.audit.finding


def test_what_was_paid_in_advance_may_be_executed_later_once() -> None:
    layer, frozen, x = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)

    def run(passes: int) -> str:
        meter = Meter(Budget("test", 100 * PASS), audit=Audit(7))
        meter.watch(layer)
        with meter, suppress(BehindMeter):
            meter.charge(2 * PASS)
            for _ in range(passes):
                with torch.no_grad():
                    frozen(x)
            layer(x).sum().backward()
            meter.step(ROWS)
        return meter.audit.finding

    assert run(2) == ""
    assert "behind the meter" in run(3)


def test_without_a_seed_nothing_is_looked_at() -> None:
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    meter = Meter(Budget("test", 1e9))
    meter.watch(layer)
    with meter:
        layer.forward(x)
        meter.step(ROWS)
    assert meter.audit.windows == 0 and meter.audit.finding == ""
