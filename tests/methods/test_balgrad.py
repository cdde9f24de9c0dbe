"""BalGrad: the one-backward form against explicit gradient projection, in float64."""

import math
from typing import Literal

import pytest
import torch
from synthetic_study import MLPBackbone, batch_of, fit_method, train_data
from torch import Tensor

from steelyard.harness.core.examples import MODALITIES, Modality
from steelyard.harness.models.backbone import Batch, Latents, Recipe
from steelyard.methods import Option, balgrad
from steelyard.methods._shared.divergences import kullback_leibler
from steelyard.methods._shared.gradients import block_gradients, carry, projection_weight, reweight

ROWS, INPUTS, WIDTH, CLASSES = 12, 6, 8, 4
TRAINED = 3e6
Projection = Literal["P1", "P2", "P3", "none"]


def explicit_update(task: Tensor, unimodal: Tensor, kl: Tensor) -> Tensor:
    """BalGrad's update as the paper draws it: task gradient made orthogonal to KL on conflict."""
    product = task.dot(kl)
    orthogonal = task - product / kl.dot(kl) * kl if product < 0 else task
    return orthogonal + unimodal + kl


def small(multi_label: bool = False, head: Literal["additive", "concat"] = "concat") -> MLPBackbone:
    backbone = MLPBackbone(
        3,
        inputs=INPUTS,
        width=WIDTH,
        classes=CLASSES,
        head=head,
        multi_label=multi_label,
        recipe=Recipe(learning_rate=3e-3, batch_size=ROWS),
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(2.0)
    return backbone.double()


def batch(seed: int, multi_label: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(ROWS, 2, INPUTS, generator=generator, dtype=torch.float64)
    if multi_label:
        return batch_of(values, (torch.rand(ROWS, CLASSES, generator=generator) < 0.4).double())
    return batch_of(values, torch.randint(CLASSES, (ROWS,), generator=generator))


def case(seed: int, multi_label: bool = False) -> tuple[MLPBackbone, Batch]:
    """Untrained for even seeds, where KL and task agree; trained for odd ones: conflict."""
    backbone, data = small(multi_label), batch(seed, multi_label)
    if seed % 2:
        items = train_data(data.pixels, data.targets, CLASSES, multi_label)
        fit_method(backbone, items, "joint_unimodal", {}, seed=0, flops=TRAINED)
    return backbone, data


def loss_of(
    backbone: MLPBackbone, data: Batch, config: balgrad.Config
) -> tuple[Tensor, dict[str, Tensor | float]]:
    scope = balgrad.probe_scope(backbone, config.projection)
    return balgrad.balanced_loss(backbone, data, scope, config)


def five_gradients(
    backbone: MLPBackbone, data: Batch, config: balgrad.Config
) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor], dict[Modality, Tensor]]:
    """Task, unimodal and R1-weighted KL gradient of each modality, one loss at a time."""
    scope = balgrad.probe_scope(backbone, config.projection)
    latents = backbone.encode(data)
    logits = backbone.unimodal(latents)
    task = backbone.loss(backbone.predict(data), data).mean()
    image, text = backbone.loss(logits.image, data).mean(), backbone.loss(logits.text, data).mean()
    multi = backbone.multi_label
    kl_image = kullback_leibler(logits.text.detach(), logits.image, multi).mean()
    kl_text = kullback_leibler(logits.image.detach(), logits.text, multi).mean()
    weight_image = 2 * image.item() / (image.item() + text.item())
    weight_text = 2 * text.item() / (image.item() + text.item())
    g_image, g_text = block_gradients(image, scope), block_gradients(text, scope)
    g_kl_image, g_kl_text = block_gradients(kl_image, scope), block_gradients(kl_text, scope)
    unimodal = {
        modality: config.unimodal * (g_image[modality] + g_text[modality])
        for modality in MODALITIES
    }
    kl = {
        modality: config.kl
        * (weight_image * g_kl_image[modality] + weight_text * g_kl_text[modality])
        for modality in MODALITIES
    }
    return block_gradients(task, scope), unimodal, kl


def joined(blocks: dict[Modality, Tensor]) -> Tensor:
    return torch.cat([blocks[modality] for modality in MODALITIES])


def off(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("kl_to_heads", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_one_backward_is_the_projected_update_over_all_parameters(
    seed: int, kl_to_heads: bool, multi_label: bool
) -> None:
    backbone, data = case(seed, multi_label)
    config = balgrad.Config(projection="P1", kl=0.7, unimodal=0.5, kl_to_heads=kl_to_heads)
    loss, _ = loss_of(backbone, data, config)
    got = joined(block_gradients(loss, balgrad.probe_scope(backbone, "P1")))
    task, unimodal, kl = (joined(blocks) for blocks in five_gradients(backbone, data, config))
    assert off(got, explicit_update(task, unimodal, kl)) < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_one_backward_is_the_projected_update_modality_by_modality(seed: int) -> None:
    backbone, data = case(seed)
    config = balgrad.Config(projection="P3")
    loss, _ = loss_of(backbone, data, config)
    got = block_gradients(loss, balgrad.probe_scope(backbone, "P3"))
    task, unimodal, kl = five_gradients(backbone, data, config)
    for modality in MODALITIES:
        assert (
            off(got[modality], explicit_update(task[modality], unimodal[modality], kl[modality]))
            < 1e-9
        )


@pytest.mark.parametrize("seed", range(4))
def test_lambda_exceeds_one_exactly_on_conflict(seed: int) -> None:
    (backbone, data), config = case(seed), balgrad.Config(projection="P1")
    task, _, kl = five_gradients(backbone, data, config)
    values = loss_of(backbone, data, config)[1]
    conflict = bool(joined(task).dot(joined(kl)) < 0)
    assert conflict == (seed % 2 == 1)
    assert (float(values["lambda"]) > 1.0) == conflict
    assert float(values["conflict"]) == conflict


def test_embedding_scope_gives_its_lambda_to_the_whole_update() -> None:
    (backbone, data), config = case(1), balgrad.Config(projection="P2")
    task, _, kl = (joined(blocks) for blocks in five_gradients(backbone, data, config))
    loss, values = loss_of(backbone, data, config)
    expected = 1 - float(task.dot(kl) / kl.dot(kl))
    assert 1.0 < expected < config.lambda_cap
    assert float(values["lambda"]) == pytest.approx(expected, rel=1e-12)
    config = balgrad.Config(projection="P1")
    g_task, g_unimodal, g_kl = (joined(x) for x in five_gradients(backbone, data, config))
    got = joined(block_gradients(loss, balgrad.probe_scope(backbone, "P1")))
    assert off(got, g_task + g_unimodal + expected * g_kl) < 1e-9


def test_projection_by_hand() -> None:
    kl = torch.tensor([2.0, 0.0])
    # <(-1, 3), (2, 0)> = -2 and |(2, 0)|² = 4: λ = 1.5; what is left of the task is (0, 3).
    task, none = torch.tensor([-1.0, 3.0]), torch.zeros(2)
    assert projection_weight(task, kl, cap=10).item() == 1.5
    assert explicit_update(task, none, kl).tolist() == [2.0, 3.0]
    assert (explicit_update(task, none, kl) - kl).dot(kl).item() == 0.0
    # Without conflict nothing is removed.
    assert projection_weight(-task, kl, cap=10).item() == 1.0
    assert explicit_update(-task, none, kl).tolist() == [3.0, -3.0]


def test_projected_task_gradient_is_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    task, kl = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    task = task - 0.5 * kl
    assert task.dot(kl) < 0
    orthogonal = explicit_update(task, torch.zeros_like(task), kl) - kl
    assert abs(float(orthogonal.dot(kl))) < 1e-13
    assert abs(float((task + (projection_weight(task, kl, 99.0) - 1) * kl).dot(kl))) < 1e-13


def test_lambda_is_capped_and_one_without_a_kl_direction() -> None:
    task = torch.tensor([-1000.0, 1.0])
    assert projection_weight(task, torch.tensor([1.0, 0.0]), cap=10.0).item() == 10.0
    assert projection_weight(task, torch.zeros(2), cap=10.0).item() == 1.0
    assert projection_weight(task, torch.tensor([1e-9, 0.0]), cap=10.0).item() == 1.0
    half = torch.tensor([-300.0, 0.0], dtype=torch.float16)
    assert projection_weight(half, -half, cap=10.0).item() == 2.0


def test_lambda_of_a_run_is_capped_at_ten_by_default() -> None:
    """The weaker the KL, the larger λ would be without a cap; the update is that of λ = 10."""
    (backbone, data), config = case(1), balgrad.Config(projection="P1", kl=1e-3)
    task, unimodal, kl = (joined(blocks) for blocks in five_gradients(backbone, data, config))
    assert 1 - float(task.dot(kl) / kl.dot(kl)) > 100
    loss, values = loss_of(backbone, data, config)
    assert float(values["lambda"]) == 10.0
    update = joined(block_gradients(loss, balgrad.probe_scope(backbone, "P1")))
    assert off(update, task + unimodal + 10 * kl) < 1e-9


def test_weights_by_hand() -> None:
    def pair(image: float, text: float) -> list[float]:
        weights = reweight(torch.tensor(image), torch.tensor(text))
        assert float(weights[0] + weights[1]) == 2.0
        return [value.item() for value in weights]

    assert pair(3.0, 1.0) == [1.5, 0.5]
    assert pair(0.0, 0.0) == [1.0, 1.0]
    assert pair(0.0, 2.0) == [0.0, 2.0]


def test_weighting_rules_by_hand() -> None:
    modalities = Latents(torch.tensor([0.5, 1.5]), torch.tensor([3.0, 3.0]))  # losses of two items
    blocks: dict[Modality, Tensor] = {
        "image": torch.tensor([3.0, 4.0]),
        "text": torch.tensor([0.0, 1]),
    }
    image, text = (math.exp(-0.5) + math.exp(-1.5)) / 2, math.exp(-3.0)
    expected = {
        "R1": 2 * 1.0 / 4.0,
        "R2": 2 * text / (image + text),
        "R6": 2 * 1.0 / 6.0,
        "equal": 1.0,
    }
    for weighting, weight in expected.items():
        got = balgrad.modality_weights(modalities, blocks, weighting)  # type: ignore[arg-type]
        assert [float(g) for g in got] == pytest.approx([weight, 2 - weight])


def mirrored(backbone: MLPBackbone) -> MLPBackbone:
    """Network with exchanged modalities."""
    mirror = small()
    swap = {"image": "text", "text": "image"}
    mirror.load_state_dict(
        {
            ".".join(swap.get(part, part) for part in name.split(".")): value
            for name, value in backbone.state_dict().items()
        }
    )
    return mirror


@pytest.mark.parametrize("heads", ["separate", "shared"])
@pytest.mark.parametrize("projection", ["P1", "P2", "P3", "none"])
@pytest.mark.parametrize("weighting", ["R1", "R2", "R6", "equal"])
def test_swapping_the_modalities_swaps_the_weights(
    weighting: Literal["R1", "R2", "R6", "equal"],
    projection: Projection,
    heads: Literal["separate", "shared"],
) -> None:
    config = balgrad.Config(weighting=weighting, projection=projection, heads=heads)
    data = batch(1)
    swapped = batch_of(data.pixels.flip(1), data.targets)
    loss, values = loss_of(small(), data, config)
    mirror_loss, mirror_values = loss_of(mirrored(small()), swapped, config)
    assert loss.item() == pytest.approx(mirror_loss.item(), rel=1e-12)
    assert values.keys() == mirror_values.keys() and ("conflict" in values) == (
        projection != "none"
    )
    swap = {"weight_image": "weight_text", "kl_image": "kl_text", "loss_image": "loss_text"}
    swap |= {text: image for image, text in swap.items()}
    for name, value in values.items():
        assert float(value) == pytest.approx(float(mirror_values[swap.get(name, name)]), rel=1e-12)
    assert float(values["weight_image"]) + float(values["weight_text"]) == pytest.approx(2.0)


@pytest.mark.parametrize("projection", ["P1", "P2", "P3", "none"])
@pytest.mark.parametrize("weighting", ["R1", "R6"])
def test_equal_predictions_leave_no_kl_and_no_nan(
    weighting: Literal["R1", "R6"], projection: Projection
) -> None:
    backbone = small()
    for parameter in backbone.heads.parameters():
        torch.nn.init.zeros_(parameter)
    config = balgrad.Config(weighting=weighting, projection=projection)
    loss, values = loss_of(backbone, batch(0), config)
    torch.autograd.backward(loss)
    assert float(values["kl_image"]) == 0.0 and float(values["lambda"]) == 1.0
    assert all(bool(p.grad.isfinite().all()) for p in backbone.parameters() if p.grad is not None)


@pytest.mark.parametrize("kl_to_heads", [False, True])
def test_heads_get_the_kl_gradient_only_on_request(kl_to_heads: bool) -> None:
    backbone, data = small(), batch(0)
    config = balgrad.Config(weighting="equal", projection="none", kl_to_heads=kl_to_heads)
    head = list(backbone.heads.parameters())
    gradients = torch.autograd.grad(loss_of(backbone, data, config)[0], head)
    logits = backbone.unimodal(backbone.encode(data))
    plain = backbone.loss(logits.image, data).mean() + backbone.loss(logits.text, data).mean()
    if kl_to_heads:
        plain = plain + kullback_leibler(logits.text.detach(), logits.image, False).mean()
        plain = plain + kullback_leibler(logits.image.detach(), logits.text, False).mean()
    for gradient, expected in zip(gradients, torch.autograd.grad(plain, head), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_shared_heads_read_the_fused_classifier_with_the_other_modality_blanked() -> None:
    backbone, data = small(head="additive"), batch(0)
    latents = backbone.encode(data)
    logits = balgrad.unimodal_logits(backbone, latents, "shared")
    parts = backbone.contribute(latents)
    torch.testing.assert_close(logits.image, parts.image + backbone.bias)
    torch.testing.assert_close(logits.text, parts.text + backbone.bias)


def test_carry_has_the_value_and_only_the_given_gradient() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = torch.tensor([3.0], requires_grad=True)
    at = Latents(2 * x, 5 * y)
    gradient = Latents(torch.tensor([10.0, 20.0]), torch.tensor([30.0]))
    value = (at.image.sum() * at.text.sum()) ** 2
    carried = carry(value, at, gradient)
    torch.autograd.backward(carried)
    assert carried.item() == value.item()
    assert x.grad is not None and x.grad.tolist() == [20.0, 40.0]
    assert y.grad is not None and y.grad.tolist() == [150.0]


@pytest.mark.parametrize(
    "options",
    [{}, {"projection": "P1"}, {"projection": "P3", "heads": "shared", "weighting": "R6"}],
)
def test_training_within_a_budget_logs_its_weights(options: dict[str, Option]) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(60, 2, INPUTS, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (60,), generator=generator)
    data = train_data(values, targets, CLASSES, multi_label=False)
    meter = fit_method(small(), data, "balgrad", options, seed=0, flops=2e6)
    logged = meter.diagnostics
    assert 1.0 <= logged["lambda"] <= 10.0 and 0.0 <= logged["conflict"] <= 1.0
    assert logged["weight_image"] + logged["weight_text"] == pytest.approx(2.0)
    assert meter.steps > 10


def test_without_kl_it_is_joint_training_with_unimodal_heads() -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(60, 2, INPUTS, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (60,), generator=generator)
    data = train_data(values, targets, CLASSES, multi_label=False)
    without_kl, unimodal = small(), small()
    fit_method(without_kl, data, "balgrad", {"kl": 0.0}, seed=0, flops=2e6)
    fit_method(unimodal, data, "joint_unimodal", {}, seed=0, flops=2e6)
    for name, value in without_kl.state_dict().items():
        assert torch.equal(value, unimodal.state_dict()[name]), name
