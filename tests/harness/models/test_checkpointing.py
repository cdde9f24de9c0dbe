"""Checkpointing recomputes what is trained, once, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import tiny_vlms
import torch
import vlm_toys
from torch.utils.checkpoint import set_checkpoint_early_stop

from steelyard import methods
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.models.vlm import Vlm, vision_modules

Build = Callable[..., Vlm]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    root = tmp_path_factory.mktemp("checkpointed")
    return lambda family, **options: vlm_toys.build(family, root, **options)


@pytest.fixture(autouse=True)
def whole_recomputation() -> Iterator[None]:
    """Torch otherwise stops a recomputation before its last products, which nothing needs."""
    with set_checkpoint_early_stop(False):
        yield


def meters(model: Vlm) -> dict[str, Meter]:
    """Return meters of the decoder's layers, and of the tower."""
    layers, tower = model.language_model.layers, vision_modules(model.base)[0]
    counted = {}
    for name, modules in {"layers": list(layers), "tower": [tower]}.items():
        counted[name] = Meter(Budget("test", 1e15), "cpu")
        for module in modules:
            counted[name].watch(module)
    return counted


def cost(meter: Meter) -> tuple[float, float]:
    flops = meter.ledger("finished").flops
    return flops.get("forward", 0.0), flops.get("backward", 0.0)


@pytest.mark.parametrize(
    ("family", "precision"),
    [*((family, "fp32") for family in tiny_vlms.FAMILIES), ("qwen2_5_vl", "bf16")],
)
def test_a_step_costs_one_more_forward_pass_of_the_decoder_and_the_tower_none_back(
    build: Build, family: str, precision: str
) -> None:
    backward, gradients = {}, {}
    for checkpointing in (False, True):
        model = build(family, tune="lora", checkpointing=checkpointing, precision=precision)
        batch = vlm_toys.batch(model, 3)
        counted = meters(model)
        with counted["layers"], counted["tower"]:
            model.loss(model.predict(batch), batch).mean().backward()
        forward, backward[checkpointing] = cost(counted["layers"])
        assert cost(counted["tower"])[0] > 0 == cost(counted["tower"])[1]
        gradients[checkpointing] = [p.grad for p in model.parameters() if p.requires_grad]
    assert backward[True] == backward[False] + forward
    for plain, recomputed in zip(gradients[False], gradients[True], strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("name", ["sft", "modality_dropout", "grpo", "dpo"])
def test_and_so_does_a_run_of_a_method_on_either_trainer(build: Build, name: str) -> None:
    backward = {}
    for checkpointing in (False, True):
        model = build("qwen2_vl", tune="lora", checkpointing=checkpointing)
        counted = meters(model)
        whole = vlm_toys.watched(model, 1e15)
        whole.budget = Budget("test", items=16)
        method, data = methods.load(name), vlm_toys.train_data(model, 16)
        with counted["layers"], counted["tower"], whole, suppress(BudgetSpent):
            method.train(model, data, whole, methods.configure(method, {}, "vlm"), 0)
        assert whole.steps
        forward, backward[checkpointing] = cost(counted["layers"])
        assert cost(counted["tower"])[1] == 0
        assert not vision_modules(model.base)[0].training
        hooks = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        assert not any(m._forward_hooks for m in hooks)
    assert forward * 0.3 < backward[True] - backward[False] <= forward
    if name in ("sft", "modality_dropout"):  # others have passes without a backward one
        assert backward[True] == backward[False] + forward


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_tower_that_learns_is_recomputed_too(build: Build, family: str) -> None:
    backward = {}
    for checkpointing in (False, True):
        model = build(family, tune="full", vision="trained", checkpointing=checkpointing)
        batch = vlm_toys.batch(model, 2)
        counted = meters(model)
        with counted["tower"]:
            model.loss(model.predict(batch), batch).mean().backward()
        backward[checkpointing] = cost(counted["tower"])[1]
    assert backward[True] > 1.2 * backward[False] > 0
