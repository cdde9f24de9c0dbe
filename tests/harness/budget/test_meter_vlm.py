"""Meter of vision-language models: exact for all ways of running one, few measurements."""

import copy
from pathlib import Path

import pytest
import torch
import vlm_toys
from torch import Tensor, nn

from steelyard import methods
from steelyard.harness.budget.flops import FlopCache, measure, total_counter
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.models.vlm import Vlm


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlms")


def steps(model: Vlm, meter: Meter, count: int = 4) -> None:
    """Training passes over batches of several sizes and lengths."""
    for step in range(count):
        batch = vlm_toys.batch(model, 3 + step % 3, seed=step)
        torch.autograd.backward(model.loss(model.predict(batch), batch).mean())
        model.zero_grad()
        meter.step(len(batch.targets))


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_vl"])
@pytest.mark.parametrize(
    "options",
    [
        {"tune": "full"},
        {"tune": "lora", "vision": "trained"},
        {"tune": "full", "checkpointing": True},
        {"tune": "lora", "precision": "bf16"},
    ],
    ids=["full", "lora-vision", "checkpointed", "lora-bf16"],
)
def test_training_passes_cost_what_torch_counts(
    family: str, options: dict[str, methods.Option], root: Path
) -> None:
    model = vlm_toys.build(family, root, **options)
    meter = vlm_toys.watched(model, 1e15)
    half = options.get("precision") == "bf16"
    with (
        total_counter() as counter,
        meter,
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        steps(model, meter)
    assert meter.spent == pytest.approx(counter.get_total_flops() - meter.calibration, rel=0.01)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_generation_costs_what_torch_counts_and_few_lengths_are_measured(
    family: str, root: Path
) -> None:
    model = vlm_toys.build(family, root)
    meter = vlm_toys.watched(model, 1e15)
    batches = [vlm_toys.batch(model, 2 + seed % 4, seed) for seed in range(10)]
    unmetered = vlm_toys.build(family, root)
    expected = [unmetered.continuations(batch, 12) for batch in batches]
    with total_counter() as counter, meter:
        answers = [model.continuations(batch, 12) for batch in batches[:5]]
        first = meter.calibration
        answers += [model.continuations(batch, 12) for batch in batches[5:]]
    assert answers == expected, "measuring must not write into the key-value cache in use"
    executed = counter.get_total_flops() - meter.calibration
    assert meter.spent == pytest.approx(executed, rel=0.01)
    assert meter.calibration - first < 0.1 * executed, "by then most sizes can be predicted"


def test_a_budget_stops_inside_generation(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    batch = vlm_toys.batch(model, 4)
    unlimited = vlm_toys.watched(model, 1e15)
    with unlimited:
        model.continuations(batch, 12)
    model = vlm_toys.build("llava", root)
    meter = vlm_toys.watched(model, 0.9 * unlimited.spent)
    with meter, pytest.raises(BudgetSpent):
        model.continuations(batch, 12)
    assert 0.8 * unlimited.spent < meter.spent <= 0.9 * unlimited.spent
    assert model.training


def test_a_reference_without_adapter_or_gradient_and_a_deep_copy(root: Path) -> None:
    model = vlm_toys.build("llava", root, tune="lora", feature_cache_gb=0)
    meter = vlm_toys.watched(model, 1e15)
    batch = vlm_toys.batch(model, 4)
    twin = copy.deepcopy(model)
    with total_counter() as counter, meter, meter.phase("reference"):
        with torch.no_grad(), model.model.disable_adapter():
            model.predict(batch)
        plain = meter.spent
        with torch.no_grad():
            model.predict(batch)
            twin.predict(batch)
    assert meter.spent - plain > 2.01 * plain, "the adapter's own products are counted"
    assert meter.spent == pytest.approx(counter.get_total_flops() - meter.calibration, rel=0.01)
    assert set(meter.ledger("finished").flops) == {"reference"}


def test_measuring_does_not_change_the_gradient(root: Path) -> None:
    gradients = []
    for metered in (False, True):
        model = vlm_toys.build("llava", root, precision="bf16", tune="lora")
        meter = vlm_toys.watched(model, 1e15)
        batch = vlm_toys.batch(model, 4)
        with meter if metered else copy.copy(meter), torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(model.predict(batch), batch).mean()
        torch.autograd.backward(loss)
        parts = [p.grad for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat([gradient.flatten() for gradient in parts]))
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


def test_a_backward_pass_into_the_last_block_is_charged_that_block(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    meter = vlm_toys.watched(model, 1e15)
    batch = vlm_toys.batch(model, 4)
    last = list(model.embedding("text").parameters())
    with meter:
        loss = model.loss(model.predict(batch), batch).mean()
        with total_counter() as counter:
            torch.autograd.grad(loss, last, retain_graph=True)
        part = meter.ledger("finished").flops["backward"]
        assert part == pytest.approx(counter.get_total_flops(), rel=0.05)
        with total_counter() as counter:
            torch.autograd.backward(loss)
    complete = meter.ledger("finished").flops["backward"] - part
    assert complete == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert part < 0.7 * complete


def test_a_loss_on_an_earlier_output_is_charged_too() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.one(x)
            return {"last": self.two(hidden).detach(), "hidden": hidden}

    module = Twice()
    meter = Meter(Budget("test", 1e9), "cpu")
    meter.watch(module)
    with meter:
        module(torch.randn(3, 4))["hidden"].sum().backward()
    assert meter.ledger("finished").flops == {"forward": 2 * 96, "backward": 96}


def test_lengths_between_and_beyond_measured_ones_are_predicted_exactly() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    cache = FlopCache()
    sizes = [(2, 3), (3, 5), (2, 6), (7, 4), (5, 9), (1, 8), (3, 40), (2, 30)]
    inputs = [torch.randn(rows, length, 8) for rows, length in sizes]
    costs = [cache.of(layer, (x,), {}) for x in inputs]
    spent = cache.calibration
    assert costs == [measure(layer, (x,), {}) for x in inputs]
    measured = [costs[i].forward + costs[i].backward for i in (0, 1, 2, 6)]
    assert spent == sum(measured), "three sizes and the one far beyond them"


def test_what_is_no_line_is_measured_at_every_size() -> None:
    class Cubic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            square = x @ x.mT
            return square @ square

    cache = FlopCache()
    inputs = [torch.randn(2, length, 4) for length in (3, 5, 9, 12, 17, 23, 40)]
    module = Cubic()
    costs = [cache.of(module, (x,), {}).forward for x in inputs]
    assert costs == [2 * 2 * (n * n * 4 + n**3) for n in (3, 5, 9, 12, 17, 23, 40)]
