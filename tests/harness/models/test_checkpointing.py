"""Checkpointing recomputes what is trained, once, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version

import numpy as np
import pytest
import tiny_vlms
import torch
import vlm_toys
from packaging.version import Version
from PIL import Image
from saved_tensors import SavedBytes
from torch.utils.checkpoint import set_checkpoint_early_stop

from steelyard import methods
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.pgd import ascend, frozen_weights
from steelyard.harness.models.vlm import Vlm, vision_modules

Build = Callable[..., Vlm]

outside_of_hooks = pytest.mark.skipif(
    Version(version("transformers")) < Version("5.20"),
    reason="a layer's hooks, by which it is counted here, do not see its recomputation",
)


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


@outside_of_hooks
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


@outside_of_hooks
@pytest.mark.parametrize("name", ["sft", "modality_dropout", "grpo", "dpo"])
def test_and_so_does_a_run_of_a_method_on_either_trainer(build: Build, name: str) -> None:
    backward = {}
    for checkpointing in (False, True):
        model = build("qwen2_vl", tune="lora", checkpointing=checkpointing)
        counted = meters(model)
        whole = vlm_toys.watched(model, 1e15)
        whole.budget = Budget("test", items=16)
        method, data = methods.load(name), vlm_toys.train_data(model, 16)
        # Little sampling, which has no backward pass and would hide the others' share.
        options: dict[str, methods.Option] = (
            {"resample": 0, "max_tokens": 4} if name == "grpo" else {}
        )
        with counted["layers"], counted["tower"], whole, suppress(BudgetSpent):
            method.train(model, data, whole, methods.configure(method, options, "vlm"), 0)
        assert whole.steps
        forward, backward[checkpointing] = cost(counted["layers"])
        assert cost(counted["tower"])[1] == 0
        assert not vision_modules(model.base)[0].training
        hooks = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        assert not any(m._forward_hooks for m in hooks)
    # Under LoRA a backward pass costs about one and a half forward ones.
    assert 0.55 < (backward[True] - backward[False]) / backward[False] < 0.8
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


def attack(model: Vlm, batch: Batch) -> torch.Tensor:
    with frozen_weights(model):
        return ascend(model, batch, batch.pixels, 8 / 255, 2 / 255, 2, model.scored_loss)


def photos(model: Vlm) -> Batch:
    """Collate images of unequal sizes, two at once where the family takes them, and none."""
    rng = np.random.default_rng(0)
    sizes = ((32, 32), (32, 64), (64, 32), (48, 48), (32, 32))
    images = [Image.fromarray(rng.integers(0, 255, (*s, 3), dtype=np.uint8)) for s in sizes]
    question = "what color is the fish ?"
    further = (images[4],) if model.image_capacity(2) == 2 else ()
    inputs = [
        Inputs(images[0], question, question),
        Inputs(images[1], question, question, further),
        Inputs(None, question, question),
        Inputs(images[2], question, question),
        Inputs(images[3], question, question),
    ]
    return model.collate(inputs, ["red", "green", "blue", "yellow", "red"])


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
def test_an_attack_is_the_same_in_any_micro_batch_and_under_checkpointing(
    build: Build, family: str
) -> None:
    model = build(family, tune="lora")
    batch = photos(model)
    expected = attack(model, batch)
    assert expected.shape == batch.pixels.shape and not torch.equal(expected, batch.pixels)
    for size, checkpointing in ((1, False), (2, False), (0, True), (2, True)):
        other = build(family, tune="lora", micro_batch_size=size, checkpointing=checkpointing)
        difference = (attack(other, batch) - expected).abs()
        # A gradient near zero may change its sign in another order of sums.
        assert (difference > 1e-5).float().mean() < 2e-3
        assert not any(module.training for module in vision_modules(other.base)[0].modules())
    parts = model.split(batch, 2)
    assert [len(part.tokens) for part in parts] == [2, 2, 1]
    logits = torch.cat([model.predict(part) for part in parts])
    torch.testing.assert_close(logits, model.predict(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_an_attack_holds_less_in_micro_batches_and_under_checkpointing(
    build: Build, family: str
) -> None:
    def held(**options: methods.Option) -> int:
        model = build(family, tune="lora", **options)
        batch = vlm_toys.batch(model, 4)
        saved = SavedBytes(model.parameters())
        saved.during(lambda: attack(model, batch))
        assert saved.now == 0
        return saved.most

    whole = held()
    assert held(checkpointing=True) < 0.7 * whole
    assert held(micro_batch_size=1) < 0.4 * whole
    dropout = build(family, tune="lora", checkpointing=True)
    for module in dropout.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    batch = vlm_toys.batch(dropout, 2)
    assert torch.equal(attack(dropout, batch), attack(dropout, batch)), "dropout is off"
