"""Meter: counts as torch's own counter does, stops in time and costs little."""

import copy
import gc
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steelyard import methods
from steelyard.harness.budget.flops import measure, total_counter
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.records.budget import BUDGETS, parse_budget


def _watched(meter: Meter, *modules: nn.Module) -> None:
    for module in modules:
        meter.watch(module)


def test_one_linear_layer_by_hand() -> None:
    layer = nn.Linear(3, 5)
    x = torch.randn(7, 3)
    meter = Meter(Budget("test", 1e9), "cpu")
    _watched(meter, layer)
    with meter:
        layer(x).sum().backward()
    forward = 2 * 7 * 3 * 5
    # The input needs no gradient, so backward is the weight's gradient alone: as many again.
    assert meter.ledger("finished").flops == {"forward": forward, "backward": forward}


def test_backward_counts_the_input_gradient_and_only_what_is_executed() -> None:
    first, second = nn.Linear(3, 4), nn.Linear(4, 5)
    x = torch.randn(7, 3)
    meter = Meter(Budget("test", 1e9), "cpu")
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


@pytest.mark.parametrize("leaf", [False, True], ids=["activation", "leaf"])
@pytest.mark.parametrize(("weights", "inputs"), [(True, False), (False, True), (True, True)])
def test_a_backward_pass_is_charged_the_gradients_that_it_computes(
    weights: bool, inputs: bool, leaf: bool
) -> None:
    first, second = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6))
    meter = Meter(Budget("test", 1e9), "cpu")
    _watched(meter, first, second)
    with meter:
        hidden = torch.randn(7, 4, requires_grad=True) if leaf else first(torch.randn(7, 3))
        starts = [*(second.parameters() if weights else ()), *([hidden] if inputs else ())]
        torch.autograd.grad(second(hidden).sum(), starts, retain_graph=True)
    a, b = 2 * 7 * 4 * 5, 2 * 7 * 5 * 6
    # The inner layer's input gradient is part of every pass through it.
    expected = b + weights * (a + b) + inputs * a
    assert meter.ledger("finished").flops["backward"] == expected


def test_no_gradient_pass_frozen_layer_and_deep_copy() -> None:
    layer = nn.Linear(3, 5)
    x = torch.randn(7, 3)
    forward = 2 * 7 * 3 * 5
    meter = Meter(Budget("test", 1e9), "cpu")
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
    meter = Meter(Budget("test", 1e9), "cpu")
    _watched(meter, outer, outer[0])
    with meter, meter.phase("teacher"):
        outer(torch.randn(7, 3)).sum().backward()
    assert meter.ledger("finished").flops == {"teacher": 2 * 2 * 7 * 3 * 5}


def test_a_module_watched_again_after_its_handles_ended_is_counted_again() -> None:
    layer = nn.Linear(3, 5)
    meter = Meter(Budget("test", 1e9), "cpu")
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
    meter = Meter(Budget("test", 2.5 * step), "cpu")
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


def test_a_backward_pass_that_was_left_out_is_not_waited_for_after_its_step() -> None:
    layer = nn.Linear(3, 5)
    x = torch.randn(7, 3)
    forward = 2 * 7 * 3 * 5
    meter = Meter(Budget("test", 3 * forward), "cpu")
    _watched(meter, layer)
    with meter:
        layer(x)
        meter.step(7)
        layer(x).sum().backward()
    assert meter.ledger("budget").flops == {"forward": 2 * forward, "backward": forward}


def test_fixed_costs_are_no_part_of_the_schedule() -> None:
    layer = nn.Linear(5, 10)
    meter = Meter(Budget("test", 1000), "cpu")
    _watched(meter, layer)
    with meter, torch.no_grad():
        meter.charge(600)
        assert (meter.spent, meter.fraction) == (600, 0)
        layer(torch.randn(1, 5))  # 100 of the 400 that are left
    assert meter.fraction == 0.25


def test_fused_attention_on_a_cpu_by_hand() -> None:
    """Torch 2.14 has no formula for it; a budget must not mean more there."""
    q, k, v = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 3 * 4  # of two heads, three places and width four
    with total_counter() as counter:
        out = nn.functional.scaled_dot_product_attention(q, k, v)
    assert counter.get_total_flops() == 2 * product
    with total_counter() as counter:
        out.sum().backward()
    # The scores again, then the gradients of scores, values, queries and keys.
    assert counter.get_total_flops() == 5 * product


def test_outside_the_meter_nothing_is_counted() -> None:
    layer = nn.Linear(3, 5)
    meter = Meter(Budget("test", 1e9), "cpu")
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
    meter = Meter(Budget("test", 1e12, seconds=1e-9), "cpu")
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
    assert parse_budget("S", "data") == Budget("S", items=BUDGETS["S"].items)
    assert parse_budget("640", "data").items == 640
    assert str(parse_budget("2e11", wall=60.0)) == "2e+11 FLOPs or 60 s"


@pytest.mark.parametrize(
    ("text", "track", "wall", "message"),
    [
        ("1.5", "data", None, "whole training items"),
        ("S", "data", 60.0, "caps items alone"),
        ("S", "compute", -1.0, "seconds above 0"),
        ("Z", "data", None, "Known: L, M, S, XS, paper"),
    ],
)
def test_a_budget_that_does_not_fit_its_track_is_refused(
    text: str, track: Any, wall: float | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        parse_budget(text, track, wall)


def test_the_data_track_ends_after_exactly_so_many_items_and_schedules_follow_them() -> None:
    layer = nn.Linear(3, 5)
    meter = Meter(Budget("test", items=20), "cpu")
    _watched(meter, layer)
    with meter:
        for expected in (0.4, 0.8):
            meter.afford_step(8)
            layer(torch.randn(8, 3)).sum().backward()
            meter.step(8, answers=16)
            assert meter.fraction == expected
        with pytest.raises(BudgetSpent, match="24 items needed, the budget is 20 items"):
            meter.afford_step(8)
        meter.afford_step(4)
        layer(torch.randn(4, 3)).sum().backward()
        meter.step(4)
        assert meter.fraction == 1
        with pytest.raises(BudgetSpent):
            layer(torch.randn(1, 3))  # a loop of one's own cannot go on either
    ledger = meter.ledger("budget")
    assert (ledger.items, ledger.answers) == (20, 16 + 16 + 4)  # answers have no limit
    assert (ledger.steps, ledger.limit_items) == (3, 20)
    assert ledger.limit_flops is None and ledger.total_flops == 20 * 2 * 2 * 3 * 5


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
    from steelyard.harness.models import registry
    from steelyard.harness.records.spec import RunSpec
    from steelyard.harness.training.train_data import train_data

    corpus = tasks.load("food101", world / "food101")
    spec = RunSpec(method, "food101", "tiny", "8e9", 0, backbone_options={"frozen": frozen})
    backbone = registry.build_untrained(spec, corpus, "cpu")
    data = train_data(backbone, corpus.name, corpus)
    meter = Meter(Budget("test", 8e9 if not frozen else 4e7), "cpu")
    _watched(meter, *backbone.metered_modules)
    module = methods.load(method)
    config = methods.configure(module, options)
    with total_counter() as counter, suppress(BudgetSpent), meter:
        module.train(backbone, data, meter, config, 0)
    executed = counter.get_total_flops() - meter.calibration
    assert meter.steps > 5
    assert meter.spent == pytest.approx(executed, rel=0.05)


def test_a_measuring_pass_leaves_nothing_in_memory() -> None:
    # A sigmoid keeps its own output; weights and inputs both need gradients, so three passes.
    module = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    kept: list[weakref.ref[torch.Tensor]] = []
    module[1].register_forward_hook(lambda *call: kept.append(weakref.ref(call[-1])))
    measure(module, (torch.ones(3, 4, requires_grad=True),), {})
    gc.collect()
    assert kept and not any(reference() is not None for reference in kept)
