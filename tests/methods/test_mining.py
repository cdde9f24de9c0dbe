"""Information gain, attacks and filters: hand-worked on a linear model, and on a trained one."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import preference_toy as toy
import pytest
import torch
from torch import Tensor, nn

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Modality
from steelyard.harness.models.backbone import Backbone, Batch, Latents, PixelRange, Recipe
from steelyard.harness.models.pgd import frozen_weights
from steelyard.harness.models.vlm import Vlm
from steelyard.methods._mbpo.mining import (
    affordable,
    attacked_pixels,
    best,
    find_faults,
    information_gain,
    perturb,
    repeats,
    select,
    uninformative_pixels,
)
from steelyard.methods._mbpo.options import MbpoOptions, parse_faults
from steelyard.methods._mbpo.vlm import VlmPolicy, answers_of, retarget

WEIGHT = torch.tensor([1.0, -2.0, 0.5])
LOW, HIGH = -1.0, 3.0  # so that a share of the range is not a number of pixel units
EPSILON, STEP = 0.1, 0.04


class Linear(nn.Module):
    """Two classes with logits (w x + t, 0) from pixels x [B, 3, 1, 1] and a text value t."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT.clone())
        self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.modes: list[bool] = []

    def train(self, mode: bool = True) -> "Linear":
        self.modes.append(mode)
        return super().train(mode)

    def encode(self, batch: Batch) -> Latents:
        return Latents(batch.pixels.flatten(1) @ self.weight, batch.tokens[:, 0].float())

    def contribute(self, latents: Latents) -> Latents:
        return latents

    def blank(self, latents: Latents, modality: Modality) -> Latents:
        return latents.replace(modality, torch.zeros_like(latents.of(modality)))

    def fuse(self, parts: Latents) -> Tensor:
        score = parts.image + parts.text
        return torch.stack([score, torch.zeros_like(score)], 1)

    def predict(self, batch: Batch) -> Tensor:
        return self.fuse(self.encode(batch))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(logits, batch.targets, reduction="none")

    def pixel_range(self, batch: Batch) -> PixelRange:
        return PixelRange(torch.tensor(LOW), torch.tensor(HIGH))

    def pixel_gradient(self, gradient: Tensor) -> Tensor:
        return gradient


def attacked(
    model: Any,
    batch: Batch,
    steps: int,
    generator: torch.Generator | None = None,
    epsilon: float = EPSILON,
    step: float = STEP,
    **options: Any,
) -> Tensor:
    """Pixels under the attack."""
    config = MbpoOptions(epsilon=epsilon, step=step, steps=steps, **options)
    return attacked_pixels(model, batch, config, generator)


def linear() -> Any:
    return cast(Backbone, Linear())


def batch_of(pixels: list[list[float]], targets: list[int], texts: list[int]) -> Batch:
    rows = len(pixels)
    return Batch(
        torch.tensor(pixels).view(rows, 3, 1, 1),
        torch.ones(rows, dtype=torch.bool),
        torch.tensor(texts).view(rows, 1),
        torch.ones(rows, 1, dtype=torch.int64),
        torch.ones(rows, dtype=torch.bool),
        torch.tensor(targets),
    )


@pytest.fixture
def batch() -> Batch:
    return batch_of([[0.0, 0.0, 0.0], [1.0, 2.9, -0.9]], [0, 1], [1, 0])


def test_information_gain_by_hand() -> None:
    """Scores w x + t: 2 + 1 for class 0 and -3 for class 1; without the image 1 and 0."""
    gains = information_gain(linear(), batch_of([[2.0, 0.0, 0.0], [0.0, 1.5, 0.0]], [0, 1], [1, 0]))
    score = torch.tensor([3.0, 3.0])  # of the right class
    without_image = torch.tensor([1.0, 0.0])
    expected = nn.functional.logsigmoid(score) - nn.functional.logsigmoid(without_image)
    torch.testing.assert_close(gains, expected)
    assert bool((gains > 0).all())


def test_information_gain_against_a_black_image(batch: Batch) -> None:
    black = replace(batch, pixels=torch.full_like(batch.pixels, LOW))
    model = linear()
    expected = model.loss(model.predict(black), batch) - model.loss(model.predict(batch), batch)
    torch.testing.assert_close(information_gain(model, batch, "black"), expected.detach())


def test_noise_reference_fills_the_range_and_repeats_by_seed(batch: Batch) -> None:
    wide = replace(batch, pixels=torch.zeros(1, 3, 40, 40))

    def noise(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return uninformative_pixels(linear(), wide, "noise", generator)

    first = noise(1)
    assert torch.equal(first, noise(1)) and not torch.equal(first, noise(2))
    assert LOW <= first.min() < LOW + 0.1 and HIGH - 0.1 < first.max() <= HIGH


def test_attack_by_hand(batch: Batch) -> None:
    """Against class 0 pixels move along -sign(w), against class 1 along it, as far as allowed."""
    reach = EPSILON * (HIGH - LOW)  # 0.4
    moved = attacked(linear(), batch, 3, random_start=False)
    expected = torch.tensor(
        [[-reach, reach, -reach], [1 + reach, 2.9 - reach, -0.9 + reach]]
    ).view_as(moved)
    torch.testing.assert_close(moved, expected)
    single_step = attacked(linear(), batch, 1, random_start=False)
    torch.testing.assert_close(
        (single_step - batch.pixels).abs(), torch.full_like(single_step, 0.16)
    )


def test_attack_stays_within_the_range(batch: Batch) -> None:
    against = replace(batch, targets=1 - batch.targets)
    moved = attacked(linear(), against, 5)
    assert moved[1, 1] == HIGH and moved[1, 2] == LOW  # 2.9 + 0.4 and -0.9 - 0.4, clipped


def test_random_start_never_leaves_the_ball(batch: Batch) -> None:
    wide = replace(batch, pixels=torch.rand(2, 3, 1, 1))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        moved = attacked(linear(), wide, 1, generator)
        assert (moved - wide.pixels).abs().max() <= EPSILON * (HIGH - LOW) + 1e-6


def test_mining_leaves_the_model_as_it_was(batch: Batch) -> None:
    model = linear()
    attacked(model, batch, 2)
    assert model.weight.grad is None
    assert model.weight.requires_grad and not model.fixed.requires_grad
    assert model.modes == [False, True]
    with pytest.raises(RuntimeError), frozen_weights(model):
        assert not model.weight.requires_grad
        raise RuntimeError
    assert model.weight.requires_grad and model.training


def test_equal_frames_stay_equal(batch: Batch) -> None:
    """If the processor copies pixels, the attack and its random start keep copies equal."""

    class Copied(Linear):
        def pixel_gradient(self, gradient: Tensor) -> Tensor:
            mean = gradient[:, :2].mean(1, keepdim=True).expand(-1, 2, -1, -1)
            return torch.cat([mean, gradient[:, 2:]], 1)

    copied = replace(batch, pixels=torch.zeros(2, 3, 1, 1))
    generator = torch.Generator().manual_seed(0)
    moved = attacked(Copied(), copied, 3, generator)
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert not torch.equal(moved[:, 0], moved[:, 2])


def test_kinds_of_mining(batch: Batch) -> None:
    def pixels(mining: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return attacked(linear(), batch, 5, generator, mining=mining)

    noisy = pixels("noise")
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(noisy, perturb(linear(), batch, EPSILON, generator))
    assert not torch.equal(noisy, pixels("adversarial"))
    assert bool((pixels("blank") == LOW).all())


@pytest.mark.parametrize(
    ("rejected", "tokens", "gains", "finished", "faults"),
    [
        ("red", ([1], [2]), (0.1, 0.9), True, ()),
        ("blue", ([2], [2]), (0.1, 0.9), True, ("same",)),
        ("red", ([1], [2]), (0.1, 0.9), False, ("unfinished",)),
        ("red red red", ([1, 1, 1], [2, 3]), (0.1, 0.9), True, ("repetition",)),
        ("sorry, no", ([4, 5], [2]), (0.1, 0.9), True, ("refusal",)),
        ("a big red ball", ([1, 2, 3], [2]), (0.1, 0.9), True, ("length",)),
        ("", ([], [2]), (0.1, 0.9), True, ("length",)),
        ("red", ([1], [2]), (0.9, 0.9), True, ("grounded",)),
        ("blue", ([2, 2, 2], [2]), (1.0, 0.9), False,
         ("same", "unfinished", "repetition", "length", "grounded")),
    ],
)  # fmt: skip
def test_faults(
    rejected: str,
    tokens: tuple[list[int], list[int]],
    gains: tuple[float, float],
    finished: bool,
    faults: tuple[str, ...],
) -> None:
    assert find_faults(rejected, "blue", tokens, gains, finished) == faults


def test_repetition_of_blocks() -> None:
    assert repeats([9, 1, 2, 1, 2, 1, 2]) and repeats([5, 5, 5])
    assert not repeats([1, 2, 1, 2, 3]) and not repeats([5, 5]) and not repeats([])


def test_filters_are_named() -> None:
    assert parse_faults(" same , length") == {"same", "length"}
    assert parse_faults("") == frozenset()
    with pytest.raises(UserError, match="Did you mean 'refusal'"):
        parse_faults("refusals")


def test_best_of_each_subset() -> None:
    gains = [0.1, 5.0, 0.9, 6.0, 0.5, 7.0]
    subsets = ["a", "b", "a", "b", "a", "b"]
    assert best(gains, subsets, 0.5) == [2, 3, 4, 5]  # two of three each, in the order given
    assert best(gains, [""] * 6, 1 / 3) == [3, 5]


def test_answers_exchanged_in_a_batch(batch: Batch) -> None:
    exchanged = retarget(batch, [[5], [6, 7, 2]])
    assert exchanged.targets.tolist() == [[5, -100, -100], [6, 7, 2]]
    assert answers_of(exchanged) == [[5], [6, 7, 2]]


def test_mining_stops_at_its_share() -> None:
    meter = SimpleNamespace(fraction=0.0)
    backbone = SimpleNamespace(recipe=Recipe(batch_size=2))
    policy: Any = SimpleNamespace(meter=meter, backbone=backbone)

    def spend() -> Iterator[list[int]]:
        for chunk in affordable(policy, 0.3, range(10)):
            meter.fraction += 0.2
            yield list(chunk)

    assert list(spend()) == [[0, 1], [2, 3]]
    meter.fraction = 0.9  # at least one chunk, however little is left
    assert list(spend()) == [[0, 1]]


@pytest.fixture(scope="module")
def model() -> Vlm:
    return toy.load(toy.trained_base())


def test_attack_on_a_trained_model_beats_noise(model: Vlm) -> None:
    """Exact bound in grey levels; noise of the same size has no effect."""
    batch = toy.data(model, 48, seed=5).gather(range(48))
    generator = torch.Generator().manual_seed(0)
    moved = attacked(model, batch, 5, generator, 16 / 255, 4 / 255)
    noisy = perturb(model, batch, 16 / 255, torch.Generator().manual_seed(0))
    bounds = model.pixel_range(batch)
    levels = (moved - batch.pixels).abs() / (bounds.high - bounds.low) * 255
    assert levels.max().item() == pytest.approx(16, abs=1e-3)
    assert bool((moved >= bounds.low).all()) and bool((moved <= bounds.high).all())
    nll = {
        name: model.loss(model.predict(replace(batch, pixels=pixels)), batch).mean().item()
        for name, pixels in {"clean": batch.pixels, "noise": noisy, "attack": moved}.items()
    }
    assert nll["attack"] > nll["clean"] + 0.2
    assert abs(nll["noise"] - nll["clean"]) < 0.02


def test_batched_attack_is_each_item_alone(model: Vlm) -> None:
    pool = toy.data(model, 3, seed=6)
    options = {"epsilon": 8 / 255, "step": 2 / 255, "random_start": False}
    together = attacked(model, pool.gather(range(3)), 3, **options)
    for row in range(3):
        alone = attacked(model, pool.gather([row]), 3, **options)
        differing = (alone[0] - together[row]).abs() > 1e-4  # a gradient near zero has no sign
        assert differing.float().mean() < 0.01


def test_selected_items_need_their_image(model: Vlm) -> None:
    """Selected items have higher gain than the others of their subset."""
    pool = toy.data(model, 64, seed=7)
    meter = toy.metered(model, 1e12)
    options = MbpoOptions(group=2, mine_limit=48, mine_share=0.5)
    with meter:
        selected = select(VlmPolicy(model, pool, meter, options, 1))
        candidates = select(VlmPolicy(model, pool, meter, replace(options, iig=False), 1))
    assert len(candidates) == 48 and set(selected) < set(candidates)
    gains = dict(enumerate(information_gain(model, pool.gather(range(64))).tolist()))
    for subset in ("banana", "cup"):
        members = [i for i in candidates if pool.examples[i].subset == subset]
        inside = [gains[i] for i in members if i in selected]
        outside = [gains[i] for i in members if i not in selected]
        assert len(inside) == -(-len(members) // 2)
        assert min(inside) >= max(outside) - 1e-5
    assert meter.diagnostics["gain_q10"] < meter.diagnostics["gain_q90"]
