"""Work past the meter is found by torch's own counter, and honest work is not disturbed."""

import copy
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from steelyard.harness.budget.audit import STEPS, Audit, BehindMeter
from steelyard.harness.budget.flops import total_counter
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter

ROWS, WIDTH = 8, 16
PASS = 2 * ROWS * WIDTH * WIDTH  # forward FLOPs of one call of the layer
Trick = Callable[[nn.Module, torch.Tensor], object]


def trained(trick: Trick, when: Callable[[int], bool], steps: int = 40) -> Meter:
    """Steps of one linear layer under an audited meter, with a trick at some of them."""
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    meter = Meter(Budget("test", steps * 2 * PASS), "cpu", audit=Audit(7))
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
    late = Meter(Budget("test", 4 * PASS), "cpu", audit=Audit(7))
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
    meter = Meter(Budget("test", 40 * 2 * PASS), "cpu", audit=Audit(7))
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

    def run(first: int, last: int) -> str:
        """Execute so many passes of the frozen layer before the first step and after the last."""
        meter = Meter(Budget("test", 4 * PASS), "cpu", audit=Audit(7))
        meter.watch(layer)
        with meter, suppress(BehindMeter), torch.no_grad():
            meter.charge(2 * PASS)
            for passes in (first, last):
                for _ in range(passes):
                    frozen(x)
                layer(x)
                meter.step(ROWS)
        return meter.audit.finding

    assert run(2, 0) == run(1, 1) == run(0, 2) == ""
    assert "behind the meter" in run(3, 0)
    assert "behind the meter" in run(2, 1)


def test_without_a_seed_nothing_is_looked_at() -> None:
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    meter = Meter(Budget("test", 1e9), "cpu")
    meter.watch(layer)
    with meter:
        layer.forward(x)
        meter.step(ROWS)
    assert meter.audit.windows == 0 and meter.audit.finding == ""


def plain(net: nn.Module, x: torch.Tensor) -> None:
    torch.autograd.backward(net(x).square().mean())


def gradient_penalty(net: nn.Module, x: torch.Tensor) -> None:
    x = x.clone().requires_grad_(True)
    loss = net(x).square().mean()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.autograd.backward(loss + gradient.square().sum())


def weight_penalty(net: nn.Module, x: torch.Tensor) -> None:
    loss = net(x).square().mean()
    gradients = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    torch.autograd.backward(torch.stack([g.square().sum() for g in gradients]).sum())


def mapped(net: nn.Module, x: torch.Tensor) -> None:
    torch.autograd.backward(torch.vmap(net)(x).square().mean())


def directional(net: nn.Module, x: torch.Tensor) -> None:
    outputs, change = torch.func.jvp(net, (x,), (torch.ones_like(x),))
    torch.autograd.backward(outputs.square().mean() + change.square().mean())


def per_item_gradients(net: nn.Module, x: torch.Tensor) -> None:
    weights = dict(net.named_parameters())

    def loss(weights: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.func.functional_call(net, weights, (row,))
        return output.square().mean()

    torch.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    plain(net, x)


class Checkpointed(nn.Linear):
    """Layer that computes its activations again in the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        call = super().forward
        return torch.utils.checkpoint.checkpoint(lambda x: call(x).tanh(), x, use_reentrant=False)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize(
    "trick", [gradient_penalty, weight_penalty, mapped, directional, per_item_gradients]
)
def test_gradients_of_gradients_and_torch_func_cost_what_torch_counts(
    trick: Trick, start: int
) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), torch.randn(32, 8)
    meter = Meter(Budget("test", 1e12), "cpu", audit=Audit(7))
    meter.watch(net)
    costs = []
    with meter:
        for step in range(start + 4):
            before = meter.spent
            (trick if step >= start else plain)(net, x)
            meter.step(len(x))
            costs.append(meter.spent - before)
    assert meter.audit.finding == ""
    with total_counter() as counter:
        trick(net, x)
    # In the middle of a run the first such backward pass is paid for with the next step.
    assert sum(costs[start:]) == 4 * counter.get_total_flops()
    assert costs[-1] == counter.get_total_flops()
    assert costs[:start] == [3 * 2 * 32 * (8 * 16 + 16 * 4) - 2 * 32 * 8 * 16] * start


def test_work_behind_the_meter_is_charged_beside_gradients_of_gradients() -> None:
    honest, hiding = (
        trained(trick, always) for trick in (gradient_penalty, lambda net, x: hide(net, x))
    )
    assert hiding.spent / hiding.steps > honest.spent / honest.steps + 9 * PASS


def hide(net: nn.Module, x: torch.Tensor) -> None:
    gradient_penalty(net, x)
    for _ in range(10):
        forward_in_secret(net, x)


def checkpointed_call(layer: nn.Module, x: torch.Tensor) -> None:
    output = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    torch.autograd.backward(output.square().mean())


def test_a_watched_call_may_be_a_checkpoint() -> None:
    assert trained(checkpointed_call, always, 8).audit.finding == ""


def test_a_checkpointed_pass_is_no_gradient_of_a_gradient() -> None:
    layer, x = Checkpointed(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    meter = Meter(Budget("test", 1e9), "cpu", audit=Audit(7))
    meter.watch(layer)
    with meter:
        for _ in range(3):
            plain(layer, x)
            meter.step(ROWS)
    assert meter.spent == 3 * 3 * PASS and meter.audit.windows == 1
    penalised = trained(gradient_penalty, always)
    assert penalised.audit.windows >= penalised.steps > 5
