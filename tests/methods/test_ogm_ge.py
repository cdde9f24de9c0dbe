"""OGM-GE: coefficients, scores and noise by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic_study
import torch
from synthetic_study import MLPBackbone, batch_of, fit_method

from steelyard import tasks
from steelyard.harness.budget.meter import Budget, Meter
from steelyard.harness.models import registry
from steelyard.harness.models.backbone import Latents, Recipe
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.training.fit import fit
from steelyard.harness.training.train_data import train_data
from steelyard.methods import ogm_ge

INPUTS, WIDTH, CLASSES = 6, 8, 3


def small(multi_label: bool = False) -> MLPBackbone:
    recipe = Recipe(learning_rate=3e-3, batch_size=12)
    return MLPBackbone(
        3, inputs=INPUTS, width=WIDTH, classes=CLASSES, multi_label=multi_label, recipe=recipe
    ).double()


def test_coefficients_by_hand() -> None:
    # ρ_image = 2: the image is slowed by 1 - tanh(0.5 * 2), the text not at all.
    assert ogm_ge.coefficients(0.8, 0.4, alpha=0.5) == {"image": 1 - math.tanh(1.0), "text": 1.0}
    assert ogm_ge.coefficients(0.4, 0.8, alpha=0.5) == {"image": 1.0, "text": 1 - math.tanh(1.0)}
    assert ogm_ge.coefficients(0.8, 0.4, alpha=0.0) == {"image": 1.0, "text": 1.0}


def test_scores_split_the_bias_of_an_additive_head() -> None:
    backbone = small()
    parts = Latents(*torch.randn(2, 5, CLASSES, dtype=torch.float64))
    data = batch_of(torch.zeros(5, 2, INPUTS), torch.tensor([0, 1, 2, 1, 0]))
    for score, part in zip(
        ogm_ge.scores(backbone, parts, data), (parts.image, parts.text), strict=True
    ):
        logits = part + backbone.bias.detach() / 2
        by_hand = [float(row.softmax(0)[y]) for row, y in zip(logits, data.targets, strict=True)]
        assert score == pytest.approx(sum(by_hand) / 5, rel=1e-12)


def test_multi_label_score_is_the_geometric_mean_over_labels() -> None:
    backbone = small(multi_label=True)
    torch.nn.init.zeros_(backbone.bias)
    image = torch.tensor([[math.log(3.0), 0.0, math.log(3.0)]], dtype=torch.float64)
    data = batch_of(torch.zeros(1, 2, INPUTS), torch.tensor([[1.0, 0, 0]], dtype=torch.float64))
    image_score, text_score = ogm_ge.scores(backbone, Latents(image, torch.zeros_like(image)), data)
    assert image_score == pytest.approx((0.75 * 0.5 * 0.25) ** (1 / 3))
    assert text_score == pytest.approx(0.5)


def test_modulation_scales_and_adds_noise_of_the_gradients_spread() -> None:
    parameter = torch.nn.Parameter(torch.zeros(40_000))
    gradient = 3.0 + 0.5 * torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    parameter.grad = gradient.clone()
    ogm_ge.modulate(parameter, 0.25, None)
    torch.testing.assert_close(parameter.grad, 0.25 * gradient)
    parameter.grad = gradient.clone()
    ogm_ge.modulate(parameter, 0.25, torch.Generator().manual_seed(1))
    noise = parameter.grad - 0.25 * gradient
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert abs(noise.mean().item()) < 4 * 0.5 / 200


def test_one_element_and_missing_gradients_are_left_defined() -> None:
    single, absent = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(2))
    single.grad = torch.tensor([4.0])
    ogm_ge.modulate(single, 0.5, torch.Generator().manual_seed(0))
    ogm_ge.modulate(absent, 0.5, torch.Generator().manual_seed(0))
    assert single.grad.tolist() == [2.0]
    assert absent.grad is None


@pytest.mark.parametrize("fusion", ["concat", "additive"])
def test_a_step_scales_encoders_and_embeddings_and_leaves_the_head(
    fusion: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tasks.load("food101", world / "food101")
    spec = RunSpec("ogm_ge", "food101", "tiny", "XS", 0, backbone_options={"fusion": fusion})
    model = registry.build_untrained(spec, corpus, "cpu")
    steps: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    def gradients() -> dict[str, torch.Tensor]:
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def spy(*arguments: Any, after_backward: Callable[[], None], **rest: Any) -> None:
        def modulated() -> None:
            plain = gradients()
            after_backward()
            steps.append((plain, gradients()))

        fit(*arguments, after_backward=modulated, **rest)

    monkeypatch.setattr(ogm_ge, "fit", spy)
    data = train_data(model, "food101", corpus)
    with Meter(Budget("x", flops=1e12, items=model.recipe.batch_size), "cpu") as meter:
        ogm_ge.train(model, data, meter, ogm_ge.Config(noise=False), 0)
    logged = meter.diagnostics
    factors = {"image": logged["coefficient_image"], "text": logged["coefficient_text"]}
    assert min(factors.values()) < 0.6 and max(factors.values()) == 1.0
    ((plain, modulated),) = steps
    scaled = set()
    for name, gradient in plain.items():
        modality = name.partition("_")[0] if "_encoder." in name or "_embedding." in name else ""
        scaled.add(modality)
        torch.testing.assert_close(modulated[name], factors.get(modality, 1.0) * gradient)
    assert scaled == {"image", "text", ""}, "a head has gradients of its own"


def trained(name: str, options: dict[str, str | int | float | bool]) -> MLPBackbone:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(60, 2, INPUTS, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (60,), generator=generator)
    data = synthetic_study.train_data(values, targets, CLASSES, multi_label=False)
    backbone = small()
    fit_method(backbone, data, name, options, seed=0, flops=1e6)
    return backbone


def test_without_modulation_it_is_joint_training_bit_for_bit() -> None:
    joint, bare = trained("joint", {}), trained("ogm_ge", {"alpha": 0.0, "noise": False})
    for name, value in joint.state_dict().items():
        assert torch.equal(value, bare.state_dict()[name]), name


def test_training_is_repeatable_and_noise_changes_it() -> None:
    def weight(**options: str | int | float | bool) -> torch.Tensor:
        return trained("ogm_ge", options).embedding("image").weight

    assert torch.equal(weight(), weight())
    assert not torch.equal(weight(), weight(noise=False))
    assert not torch.equal(weight(noise=False), weight(noise=False, alpha=0.0))
