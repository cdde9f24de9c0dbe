"""Modality dropout and unimodal losses on a vision-language model: blanked modalities."""

from pathlib import Path

import pytest
import torch
import vlm_toys
from torch import Tensor

from steelyard import methods
from steelyard.harness.models.backbone import Latents
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_layout import Layout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlms")


def visible_modalities(
    model: Vlm, monkeypatch: pytest.MonkeyPatch, **options: methods.Option
) -> tuple[Tensor, Tensor]:
    """Rows of all fused passes of a run that kept their image, and that kept their text."""
    image, text, fuse = [], [], model.fuse

    def spy(parts: Latents) -> Tensor:
        assert isinstance(parts.context, Layout)
        image.append(parts.context.image_visible)
        text.append(parts.context.text_visible)
        return fuse(parts)

    monkeypatch.setattr(model, "fuse", spy)
    vlm_toys.train(model, "modality_dropout", 5e9, **options)
    return torch.cat(image), torch.cat(text)


def test_a_third_of_items_lacks_each_modality_and_none_lacks_both(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, text = visible_modalities(vlm_toys.build("llava", root), monkeypatch)
    assert len(image) > 400
    error = 4 * (2 / 9 / len(image)) ** 0.5  # four standard errors of a fraction of 1/3
    assert abs((~image).float().mean().item() - 1 / 3) < error
    assert abs((~text).float().mean().item() - 1 / 3) < error
    assert bool((image | text).all())


def test_at_rate_zero_it_is_joint_training_bit_for_bit(root: Path) -> None:
    weights = []
    for name, options in (("joint", {}), ("modality_dropout", {"rate": 0.0})):
        model = vlm_toys.build("llava", root)
        method = methods.load(name)
        data, meter = vlm_toys.train_data(model), vlm_toys.watched(model, 5e8)
        with meter, pytest.raises(vlm_toys.BudgetSpent):
            method.train(model, data, meter, method.Config(**options), 0)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_a_loss_of_the_text_alone_lowers_the_loss_without_image(root: Path) -> None:
    """After training with and without the losses of each modality alone."""

    def text_only_loss(flops: float, **options: methods.Option) -> float:
        model = vlm_toys.build("llava", root)
        vlm_toys.train(model, "modality_dropout", flops, **options)
        batch = vlm_toys.batch(model, 24)
        with torch.no_grad():
            alone = model.unimodal(model.encode(batch)).text
            return model.loss(alone, batch).mean().item()

    bare, dropped = text_only_loss(3e9, rate=0.0), text_only_loss(3e9)
    # With two more passes a step, for about as many steps.
    weighted = text_only_loss(7e9, rate=0.0, unimodal=1.0)
    assert max(weighted, dropped) < 0.8 * bare


def test_the_logged_text_loss_is_that_of_prompts_without_an_image(root: Path) -> None:
    model = vlm_toys.build("llava", root, batch_size=48)
    data = vlm_toys.train_data(model)
    batch = data.gather(range(48))
    answers = [data.turn(row).answer for row in range(48)]
    inputs = [data.turn(row).inputs for row in range(48)]
    with torch.no_grad():
        without_image = [type(item)(None, item.text, item.prompt) for item in inputs]
        expected = (
            model.loss(model.predict(model.collate(without_image, answers)), batch).mean().item()
        )
    meter = vlm_toys.train(model, "balgrad", 1.6e9)
    assert meter.steps == 1
    assert meter.diagnostics["loss_text"] == pytest.approx(expected, rel=1e-4)
