"""Bytes of live tensors: by part, of some steps of a run, and without what a host would hold."""

import pytest
import torch
from torch import nn

from steelyard.harness.budget.audit import Audit
from steelyard.harness.budget.live_bytes import LiveBytes
from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Batch
from steelyard.harness.records.budget import Budget

WEIGHTS, INPUT, OUTPUT = 4 * 100 * 200, 4 * 1000 * 100, 4 * 1000 * 200
"""Bytes of a layer of 100 x 200 weights, and of 1000 rows before and after it."""


def test_memory_of_a_step_is_what_it_makes_by_part() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(100, 200, bias=False), torch.nn.ReLU())
    rows = torch.ones(1000, 100)
    weights = 4 * 100 * 200
    optimiser = torch.optim.AdamW(model.parameters(), foreach=True)
    with LiveBytes(model) as forward:
        output = model(rows)
    # The input was there before; both layers' results are held.
    assert forward.peak == {"weights": weights, "activations": 2 * 4 * 1000 * 200}
    with LiveBytes(model) as step:
        torch.autograd.backward(output.mean())
        del output
        optimiser.step()
        second = [state["exp_avg_sq"] for state in optimiser.state.values()]
        assert [moment.nbytes for moment in second] == [weights]
        buffers = [torch.ones(10_000_000)]  # makes this the moment of most
    assert step.peak["gradients"] == step.peak["weights"] == weights
    # Two moments and a count of steps.
    assert step.peak["optimiser"] == 2 * weights + 4
    assert step.peak["activations"] == pytest.approx(buffers[0].nbytes, abs=100)


def test_steps_of_a_run_show_what_it_holds_from_before_them() -> None:
    layer, rows = nn.Linear(100, 200, bias=False), torch.ones(1000, 100)
    unread = torch.ones(10_000_000)
    memory = LiveBytes(layer, adopt=True)
    meter = Meter(Budget("test", flops=1e12), "cpu", Audit(7, memory))
    meter.watch(layer)

    def step() -> None:
        # The meter measures the first call of a kind by a copy, which is not the run's.
        torch.autograd.backward(layer(rows).mean())
        layer.zero_grad()
        meter.step(1)

    with meter:
        step()
        torch.ones(10_000_000).sum()  # no window is open
        step()
    # At the moment of most there are gradients of the output and of the weights.
    peak = meter.ledger("finished").peak_bytes
    assert peak == pytest.approx(2 * WEIGHTS + INPUT + OUTPUT, abs=100)
    assert peak < unread.nbytes


def test_passes_of_the_meter_are_left_out_of_all_steps_too() -> None:
    layer, rows = nn.Linear(100, 200, bias=False), torch.ones(1000, 100)
    memory = LiveBytes(layer)
    meter = Meter(Budget("test", flops=1e12), "cpu", Audit(memory=memory))
    meter.watch(layer)
    with memory, meter:
        torch.autograd.backward(layer(rows).mean())
        with meter.audit.unseen(), meter.audit.unseen():
            torch.ones(10_000_000)
        assert memory.most == pytest.approx(2 * WEIGHTS + OUTPUT, abs=100)
        last = torch.ones(10_000_000)
    assert memory.most == pytest.approx(2 * WEIGHTS + last.nbytes, abs=100)


def test_batches_that_a_host_holds_do_not_count_whenever_they_are_read() -> None:
    layer = nn.Linear(100, 200, bias=False)
    memory = LiveBytes(layer, adopt=True)

    def gather(rows: list[int]) -> Batch:
        pixels, one = torch.ones(len(rows), 100), torch.ones(len(rows))
        return Batch(pixels, one, one, one, one, one)

    read = memory.on_host(gather)
    before = read([0] * 1000)
    with memory:
        batches = before, read([0] * 1000)
        layer(batches[0].pixels).sum()
        assert memory.most == pytest.approx(WEIGHTS + OUTPUT, abs=100)
        layer(gather([0] * 1000).pixels).sum()
    assert memory.most == pytest.approx(WEIGHTS + OUTPUT + INPUT, abs=5000)


def test_tensors_without_a_storage_are_passed_over() -> None:
    layer = nn.Linear(100, 200, bias=False)
    with LiveBytes(layer, adopt=True) as memory:
        torch.eye(100).to_sparse() @ layer.weight.T
    assert memory.most > WEIGHTS
