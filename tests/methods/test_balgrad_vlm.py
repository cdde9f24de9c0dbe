"""BalGrad on a vision-language model with shared parameters: weights, λ and the update."""

from pathlib import Path

import pytest
import torch
import vlm_toys
from torch import Tensor

from steelyard import methods
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.methods import balgrad
from steelyard.methods._shared.gradients import flat_gradient


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlms")


def config(**options: methods.Option) -> balgrad.Config:
    configured = methods.configure(methods.load("balgrad"), options, "vlm")
    assert isinstance(configured, balgrad.Config)
    return configured


def trainable(model: Vlm) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parts(model: Vlm, batch: Batch, teacher: str = "other") -> dict[str, Tensor]:
    """Losses of the method, written out."""
    latents = model.encode(batch)
    fused = model.fuse(latents)
    image = model.fuse(model.blank(latents, "text"))
    text = model.fuse(model.blank(latents, "image"))
    p, q = image.log_softmax(1), text.log_softmax(1)
    of_image, of_text = (q, p) if teacher == "other" else 2 * (fused.log_softmax(1),)
    return {
        "task": model.loss(fused, batch).mean(),
        "L_image": model.loss(image, batch).mean(),
        "L_text": model.loss(text, batch).mean(),
        "K_image": (of_image.detach().exp() * (of_image.detach() - p)).sum(1).mean(),
        "K_text": (of_text.detach().exp() * (of_text.detach() - q)).sum(1).mean(),
    }


def conflicting(model: Vlm, options: balgrad.Config) -> tuple[Batch, dict[str, Tensor | float]]:
    """Return a batch whose task gradient conflicts with the KL gradient."""
    for seed in range(30):
        batch = vlm_toys.batch(model, 3, seed)
        scope = balgrad.probe_scope(model, options.projection)
        _, values = balgrad.balanced_loss(model, batch, scope, options)
        if values["conflict"] == 1.0:
            return batch, values
    raise AssertionError("no conflict in thirty batches")


@pytest.mark.parametrize(
    "options",
    [
        config(projection="P1", kl=0.3, teacher="other", unimodal=1.0),
        config(projection="P2", kl=0.3),
        config(projection="P1", kl=0.3),
    ],
    ids=["classifier's losses", "defaults", "all parameters"],
)
def test_one_backward_is_the_projected_update(options: balgrad.Config, root: Path) -> None:
    model = vlm_toys.build("llava", root)
    batch, values = conflicting(model, options)
    scope = balgrad.probe_scope(model, options.projection)
    probe = list(scope["image"])
    losses = parts(model, batch, options.teacher)
    total = losses["L_image"] + losses["L_text"]
    w_image = (2 * losses["L_image"] / total).item()
    total = options.unimodal * total
    assert float(values["weight_image"]) == pytest.approx(w_image, rel=1e-4)
    assert float(values["weight_text"]) == pytest.approx(2 - w_image, rel=1e-4)
    kl = 0.3 * (w_image * losses["K_image"] + (2 - w_image) * losses["K_text"])
    task, against = flat_gradient(losses["task"], probe), flat_gradient(kl, probe)
    assert task @ against < 0
    expected = 1 - (task @ against) / (against @ against)
    assert 1.0 < float(values["lambda"]) < options.lambda_cap
    assert float(values["lambda"]) == pytest.approx(expected.item(), rel=1e-3)
    # On the probe the task's part along the KL gradient is gone; elsewhere λ is that of the probe.
    loss, _ = balgrad.balanced_loss(model, batch, scope, options)
    projected = task - (task @ against) / (against @ against) * against
    update = projected + flat_gradient(total, probe) + against
    torch.testing.assert_close(flat_gradient(loss, probe), update, rtol=1e-3, atol=1e-5)
    everywhere = flat_gradient(losses["task"] + total + expected.item() * kl, trainable(model))
    torch.testing.assert_close(
        flat_gradient(loss, trainable(model)), everywhere, rtol=1e-3, atol=1e-5
    )


def test_each_modality_has_a_lambda_on_the_shared_parameters(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    batch = vlm_toys.batch(model, 3, seed=1)
    options = config(projection="P3", weighting="equal")
    scope = balgrad.probe_scope(model, "P3")
    _, values = balgrad.balanced_loss(model, batch, scope, options)
    losses, scales = parts(model, batch, options.teacher), []
    task = flat_gradient(losses["task"], list(scope["text"]))
    for modality in MODALITIES:
        kl = flat_gradient(losses[f"K_{modality}"], list(scope["text"]))
        scales.append(max(1.0, (1 - (task @ kl) / (kl @ kl)).item()))
    assert float(values["lambda"]) == pytest.approx(sum(scales) / 2, rel=1e-3)


def test_the_rule_by_gradient_norms_evens_them_out(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    batch = vlm_toys.batch(model, 3)
    scope = balgrad.probe_scope(model, "P2")
    _, values = balgrad.balanced_loss(model, batch, scope, config(weighting="R6"))
    losses = parts(model, batch, teacher="fused")
    norms = [
        flat_gradient(losses[f"K_{modality}"], list(scope[modality])).norm().item()
        for modality in MODALITIES
    ]
    weighted = [float(values[f"weight_{modality}"]) for modality in MODALITIES]
    assert weighted[0] * norms[0] == pytest.approx(weighted[1] * norms[1], rel=1e-3)
    assert sum(weighted) == pytest.approx(2.0)


def test_a_probe_holds_each_parameter_once_and_never_a_frozen_one(root: Path) -> None:
    model = vlm_toys.build("llava", root, tune="lora")
    last = balgrad.probe_scope(model, "P2")["image"]
    all_parameters = balgrad.probe_scope(model, "P1")["text"]
    assert len(last) == 8 and len(all_parameters) == len(trainable(model)) == 16
    assert len({id(p) for p in all_parameters}) == len(all_parameters)
    frozen = vlm_toys.build("llava", root)
    model.embedding("text").requires_grad_(False)
    with pytest.raises(UserError, match="projection=none"):
        balgrad.probe_scope(model, "P2")
    assert balgrad.probe_scope(frozen.requires_grad_(False), "none")["image"] == ()


def test_a_kl_gradient_that_skips_the_model_is_refused(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    with pytest.raises(UserError, match="leave it true"):
        vlm_toys.train(model, "balgrad", 1e9, kl_to_heads=False)


def test_lambda_is_capped_at_ten_by_default(root: Path) -> None:
    """The weaker the KL, the larger λ would be without a cap."""
    model = vlm_toys.build("llava", root)
    _, values = conflicting(model, config(projection="P1", kl=1e-4))
    assert config().lambda_cap == 10.0 == float(values["lambda"])


def test_passes_of_weight_zero_are_not_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = vlm_toys.build("llava", root)
    batch, fuse, passes = vlm_toys.batch(model, 3), model.fuse, []
    monkeypatch.setattr(model, "fuse", lambda parts: passes.append(1) or fuse(parts))
    scope = balgrad.probe_scope(model, "P2")
    for options, count in ((config(kl=0.0), 1), (config(kl=0.0, unimodal=0.5), 3), (config(), 3)):
        passes.clear()
        balgrad.balanced_loss(model, batch, scope, options)
        assert len(passes) == count


@pytest.mark.parametrize("tune", ["full", pytest.param("lora", marks=pytest.mark.heavy)])
def test_training_draws_the_two_predictions_together(tune: str, root: Path) -> None:
    def divergence(kl: float) -> float:
        model = vlm_toys.build("llava", root, tune=tune)
        vlm_toys.train(model, "balgrad", 4e9, kl=kl, unimodal=0.0)
        with torch.no_grad():
            losses = parts(model, vlm_toys.batch(model, 24))
        return (losses["K_image"] + losses["K_text"]).item()

    # Adapters move a model less within the same budget.
    assert divergence(2.0) < {"full": 0.7, "lora": 0.85}[tune] * divergence(0.0)
