"""Frozen vision towers: no dropout and no backward pass, and features computed once an image."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny_vlms
import torch
import vlm_toys
from torch import Tensor

from steelyard.harness.budget.meter import Budget, Meter
from steelyard.harness.models.frozen_tower import FeatureStore, fingerprints
from steelyard.harness.models.pgd import frozen_weights
from steelyard.harness.models.vlm import Vlm, vision_modules

Build = Callable[..., Vlm]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    root = tmp_path_factory.mktemp("towers")
    return lambda family, **options: vlm_toys.build(family, root, **options)


def tower_calls(model: Vlm) -> list[int]:
    """Return a list that grows by one for each pass of the tower, also of copies made later."""
    calls: list[int] = []
    vision_modules(model.base)[0].register_forward_hook(lambda *call: calls.append(1))
    return calls


@pytest.mark.parametrize("tune", ["lora", "full"])
@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
def test_features_are_computed_once_whatever_asks_for_them(
    build: Build, family: str, tune: str
) -> None:
    without = build(family, tune=tune, feature_cache_gb=0)
    model = build(family, tune=tune)
    batch = vlm_toys.batch(model, 3)
    expected = without.predict(batch)
    calls = tower_calls(model)
    torch.testing.assert_close(model.predict(batch), expected, rtol=1e-4, atol=1e-4)
    passes = len(calls)
    assert passes
    again = model.encode(batch).image
    assert torch.equal(again, model.encode(batch).image)
    plain = model.base(**model.prompts.plain(batch)).logits
    torch.testing.assert_close(
        plain, without.base(**model.prompts.plain(batch)).logits, rtol=1e-4, atol=1e-4
    )
    assert model.continuations(batch, 3) == without.continuations(batch, 3)
    assert torch.equal(copy.deepcopy(model).encode(batch).image, again)
    assert len(calls) == passes, "nothing was computed again"


def test_the_meter_charges_features_when_they_are_computed(build: Build) -> None:
    model = build("llava", tune="lora")
    batch = vlm_toys.batch(model, 4)
    meter = Meter(Budget("test", 1e12), "cpu")
    meter.watch(vision_modules(model.base)[0])
    spent = []
    with meter:
        for _ in range(3):
            model.encode(batch)
            spent.append(meter.spent)
    assert 0 < spent[0] == spent[1] == spent[2]


def test_an_image_twice_in_a_batch_is_one_image(build: Build) -> None:
    model = build("qwen2_vl", tune="lora")
    first, second = vlm_toys.turns(2)
    inputs = [turn.inputs for turn in (first, second, first, first)]
    calls = tower_calls(model)
    latents = model.encode(model.collate(inputs, ["yes"] * 4))
    assert len(calls) == 2
    assert torch.equal(latents.image[0], latents.image[2])
    assert not torch.equal(latents.image[0], latents.image[1])


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
def test_an_attack_differentiates_the_tower_and_leaves_no_features(
    build: Build, family: str
) -> None:
    model = build(family, tune="lora")
    batch = vlm_toys.batch(model, 2)
    calls = tower_calls(model)
    with frozen_weights(model):
        for _ in range(2):
            pixels = batch.pixels.clone().requires_grad_()
            loss = model.loss(model.predict(replace(batch, pixels=pixels)), batch).sum()
            (gradient,) = torch.autograd.grad(loss, pixels)
            assert gradient.abs().max() > 0
    assert len(calls) == 2
    tower: Any = vision_modules(model.base)[0]
    assert tower.feature_store.size == 0


@pytest.mark.parametrize("vision", ["frozen", "trained"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_tower_learns_only_if_it_is_trained(build: Build, family: str, vision: str) -> None:
    model = build(family, tune="full", vision=vision)
    batch = vlm_toys.batch(model, 3)
    tower = vision_modules(model.base)[0]
    model.model.train()  # as trainers do, past the backbone's own method
    assert tower.training is (vision == "trained")
    calls = tower_calls(model)
    for _ in range(2):
        model.loss(model.predict(batch), batch).mean().backward()
    gradients = [p.grad for p in tower.parameters()]
    assert (
        all(g is None for g in gradients)
        if vision == "frozen"
        else any(g is not None and bool(g.any()) for g in gradients)
    )
    assert len(calls) == (3 if vision == "frozen" else 2)  # images once each, or batches


def features(size: int) -> dict[str, list[Tensor]]:
    return {"pooler_output": [torch.zeros(size)]}


def test_the_store_keeps_what_is_used_and_then_what_is_new() -> None:
    store = FeatureStore(limit=3 * 40)
    for key in (b"1", b"2", b"3"):
        store.add(key, features(10))
    assert store.get(b"1") and store.get(b"3")
    for once in range(50):  # as attacked images
        store.add(f"attacked {once}".encode(), features(10))
    assert store.size == 120
    assert store.get(b"1") and store.get(b"3") and not store.get(b"2")
    assert store.get(b"attacked 49") and not store.get(b"attacked 48")
    store.add(b"large", features(31))  # larger than the limit: it must not stay
    assert store.size <= 120 and not store.get(b"large")


def test_the_fingerprint_is_of_content_and_place() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1, 3, 8, 8, generator=generator).repeat(4, 1, 1, 1)
    rows[1, 0, 0, 0] += 1e-6
    rows[2, 0, 0, :2] = rows[2, 0, 0, [1, 0]]
    one, nudged, exchanged, equal = fingerprints(rows).tolist()
    assert one == equal and len({one, nudged, exchanged}) == 3
    halves = fingerprints(rows.bfloat16()).tolist()
    assert halves[0] == halves[3] != halves[2]
