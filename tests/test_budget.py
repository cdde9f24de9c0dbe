"""The meter counts what torch's own counter counts, stops in time and costs little."""

import copy
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from steelyard import methods
from steelyard.harness.budget import Budget, BudgetSpent, Meter
from steelyard.harness.errors import UserError
from steelyard.harness.flops import measure
from steelyard.harness.limits import BUDGETS, parse_budget


def _watched(meter: Meter, *modules: nn.Module) -> None:
    for module in modules:
        meter.watch(module)


def test_one_linear_layer_by_hand() -> None:
    layer = nn.Linear(3, 5)
    x = torch.randn(7, 3)
    meter = Meter(Budget("test", 1e9))
    _watched(meter, layer)
    with meter:
        layer(x).sum().backward()
    forward = 2 * 7 * 3 * 5
    # The input needs no gradient, so backward is the weight's gradient alone: as many again.
    assert meter.ledger("finished").flops == {"forward": forward, "backward": forward}


def test_backward_counts_the_input_gradient_and_only_what_is_executed() -> None:
    first, second = nn.Linear(3, 4), nn.Linear(4, 5)
    x = torch.randn(7, 3)
    meter = Meter(Budget("test", 1e9))
    _watched(meter, first, second)
    with meter:
        hidden = first(x)
        out = second(hidden)
        torch.autograd.grad(out.sum(), [hidden, *second.parameters()], retain_graph=True)
        part = dict(meter.ledger("finished").flops)
        out.sum().backward()
    a, b = 2 * 7 * 3 * 4, 2 * 7 * 4 * 5
    assert part["forward"] == a + b
    # A gradient of the second layer and at its input leaves the first layer's backward unexecuted.
    assert part["backward"] == 2 * b
    assert meter.ledger("finished").flops["backward"] == 2 * b + 2 * b + a


def test_no_gradient_pass_frozen_layer_and_deep_copy() -> None:
    layer = nn.Linear(3, 5)
    x = torch.randn(7, 3)
    forward = 2 * 7 * 3 * 5
    meter = Meter(Budget("test", 1e9))
    _watched(meter, layer)
    with meter:
        with torch.no_grad():
            layer(x)
        copy.deepcopy(layer)(x)
        layer.requires_grad_(False)
        layer(x)
    assert meter.ledger("finished").flops == {"forward": 3 * forward}


def test_nested_modules_are_counted_once_and_phases_are_named() -> None:
    outer = nn.Sequential(nn.Linear(3, 5))
    meter = Meter(Budget("test", 1e9))
    _watched(meter, outer, outer[0])
    with meter, meter.phase("teacher"):
        outer(torch.randn(7, 3)).sum().backward()
    assert meter.ledger("finished").flops == {"teacher": 2 * 2 * 7 * 3 * 5}


def test_a_module_watched_again_after_its_handles_ended_is_counted_again() -> None:
    layer = nn.Linear(3, 5)
    meter = Meter(Budget("test", 1e9))
    for handle in meter.watch(layer):
        handle.remove()
    with meter:
        layer(torch.randn(7, 3))
        assert meter.spent == 0
        meter.watch(layer)
        layer(torch.randn(7, 3))
    assert meter.spent == 2 * 7 * 3 * 5


def test_raises_before_the_pass_that_would_overshoot_and_recovers() -> None:
    layer = nn.Linear(3, 5)
    x = torch.randn(7, 3)
    step = 2 * 2 * 7 * 3 * 5
    meter = Meter(Budget("test", 2.5 * step))
    _watched(meter, layer)
    with meter:
        for _ in range(2):
            layer(x).sum().backward()
            meter.step(7)
        with pytest.raises(BudgetSpent):
            layer(x)
        assert meter.spent == 2 * step
        with torch.no_grad():
            layer(x)  # half a step still fits
    assert meter.spent == 2.5 * step
    assert meter.fraction == 1.0


def test_outside_the_meter_nothing_is_counted() -> None:
    layer = nn.Linear(3, 5)
    meter = Meter(Budget("test", 1e9))
    _watched(meter, layer)
    layer(torch.randn(7, 3))
    with meter:
        pass
    layer(torch.randn(7, 3))
    assert meter.spent == 0


def test_measuring_leaves_no_trace() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    measure(module, (torch.randn(6, 3, generator=torch.Generator()),), {})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_cap_on_seconds_stops_too() -> None:
    layer = nn.Linear(3, 5)
    meter = Meter(Budget("test", 1e12, seconds=1e-9))
    _watched(meter, layer)
    with meter, pytest.raises(BudgetSpent):
        layer(torch.randn(7, 3))


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "lots"])
def test_a_budget_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_budget(text)


def test_budgets_by_name_and_number() -> None:
    assert parse_budget("S") == Budget("S", BUDGETS["S"].flops)
    assert parse_budget("5e12").flops == 5e12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "frozen"),
    [
        ("joint", {}, False),
        ("joint", {}, True),
        ("joint_unimodal", {}, False),
        ("unimodal_pretrained", {}, False),
        ("mcr", {"ceb": 1.0}, False),
        ("mcr", {"pretrain": 0.4}, False),
        ("balgrad", {"projection": "P1"}, False),
        ("balgrad", {"projection": "P2"}, False),
        ("ogm_ge", {}, False),
    ],
)
def test_a_whole_run_is_within_five_percent_of_the_flop_counter(
    world: Path, method: str, options: dict[str, float | str], frozen: bool
) -> None:
    from steelyard import tasks
    from steelyard.harness import backbones
    from steelyard.harness.spec import RunSpec

    corpus = tasks.load("food101", world / "food101")
    spec = RunSpec(method, "food101", "tiny", "8e9", 0, backbone_options={"frozen": frozen})
    backbone = backbones.untrained(spec, corpus, "cpu")
    data = backbones.train_data(backbone, corpus.name, corpus)
    meter = Meter(Budget("test", 8e9 if not frozen else 4e7))
    _watched(meter, *backbone.metered_modules)
    module = methods.load(method)
    config = methods.configure(module, options)
    with FlopCounterMode(display=False) as counter, suppress(BudgetSpent), meter:
        module.train(backbone, data, meter, config, 0)
    executed = counter.get_total_flops() - meter.calibration
    assert meter.steps > 5
    assert meter.spent == pytest.approx(executed, rel=0.05)
