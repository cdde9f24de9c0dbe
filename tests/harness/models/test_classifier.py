"""Classifier: equal logits by every path, one meaning of missing, reload."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models import classifier, classifier_config, registry
from steelyard.harness.models.backbone import Latents
from steelyard.harness.models.classifier import Classifier

TEXTS = ["grandma's apple pie", "blue bus on the road", "a cup of tea"]
CLASSES = ("pie", "bus", "tea")


def make(multi_label: bool = False, **options: str | int | float | bool) -> Classifier:
    config = classifier_config.configure("tiny", options)
    return classifier.build("tiny", config, CLASSES, multi_label, TEXTS, seed=1)


def items() -> list[Inputs]:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (60, 50, 3), np.uint8)) for _ in TEXTS]
    return [Inputs(image, text) for image, text in zip(images, TEXTS, strict=True)]


@pytest.mark.parametrize("fusion", ["additive", "concat"])
def test_permuting_latents_equals_permuting_contributions(fusion: str) -> None:
    model = make(fusion=fusion).eval()
    latents = model.encode(model.collate(items()))
    order = torch.tensor([2, 0, 1])
    parts = model.contribute(latents)
    by_parts = model.fuse(Latents(parts.image[order], parts.text))
    by_latents = model.fuse(model.contribute(Latents(latents.image[order], latents.text)))
    assert torch.allclose(by_parts, by_latents, atol=1e-6)
    assert torch.equal(model.fuse(parts), model.predict(model.collate(items())))


def test_an_additive_head_is_linear_in_each_modality() -> None:
    model = make(fusion="additive").eval()
    parts = model.contribute(model.encode(model.collate(items())))
    zero = torch.zeros_like(parts.image)
    both = model.fuse(parts) + model.fuse(Latents(zero, zero))
    assert torch.allclose(
        both,
        model.fuse(Latents(parts.image, zero)) + model.fuse(Latents(zero, parts.text)),
        atol=1e-6,
    )


@pytest.mark.parametrize("modality", ["image", "text"])
def test_missing_in_the_input_is_the_same_as_blanking_the_latent(modality: str) -> None:
    model = make(missing="learnt").eval()
    with torch.no_grad():
        model.missing[modality].normal_()
    complete = items()
    missing = [
        Inputs(None, i.text) if modality == "image" else Inputs(i.image, None) for i in complete
    ]
    blanked = model.blank(model.encode(model.collate(complete)), modality)  # type: ignore[arg-type]
    assert torch.allclose(
        model.fuse(model.contribute(blanked)), model.predict(model.collate(missing))
    )
    mixed = [missing[0], complete[1], missing[2]]
    alone = [model.predict(model.collate([item])) for item in mixed]
    # Rows are padded alike within a bucket, so batching must not change a row.
    assert torch.allclose(torch.cat(alone), model.predict(model.collate(mixed)), atol=1e-5)


def test_empty_text_counts_as_missing() -> None:
    model = make()
    assert model.collate([Inputs(None, "")]).has_text.tolist() == [False]


def test_equal_seeds_give_equal_weights_and_the_global_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = make().state_dict(), make().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("readout", ["fused", "image", "text", "ensemble", "prior"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_saved_classifier_answers_the_same(
    tmp_path: Path, readout: str, multi_label: bool
) -> None:
    model = make(multi_label, missing="learnt")
    model.readout = readout  # type: ignore[assignment]
    model.set_prior(np.array([0.2, 0.3, 0.5]))
    classifier.save(model, tmp_path)
    inputs = [*items(), Inputs(None, "tea"), Inputs(items()[0].image, None), Inputs(None, None)]
    answer = model.answer(inputs, CLASSES)
    assert torch.equal(answer, classifier.load(tmp_path).answer(inputs, CLASSES))
    assert bool(((answer >= 0) & (answer <= 1)).all())
    if not multi_label:
        assert torch.allclose(answer.sum(1), torch.ones(len(inputs)))


def test_the_ensemble_lets_only_present_modalities_vote() -> None:
    model = make().eval()
    model.readout = "ensemble"
    both = model.answer(items(), CLASSES)
    no_image = model.answer([replace(item, image=None) for item in items()], CLASSES)
    no_text = model.answer([replace(item, text=None) for item in items()], CLASSES)
    assert torch.allclose(both, (no_image + no_text) / 2, atol=1e-6)


def test_it_names_the_likeliest_class_and_refuses_other_choices() -> None:
    model = make()
    model.readout = "prior"
    model.set_prior(np.array([0.2, 0.3, 0.5]))
    assert model.generate([items()[0], Inputs(None, None)], max_tokens=1) == ["tea", "tea"]
    assert model.count_tokens("tea") == 1
    with pytest.raises(UserError, match="2 answers to choose among and has 3 classes"):
        model.answer(items(), CLASSES[:2])


def test_the_pixel_range_is_black_to_white_in_the_encoders_units() -> None:
    model = make()
    batch = model.collate(items())
    bounds = model.pixel_range(batch)
    processor = model.image_encoder.processor
    for channel, (mean, std) in enumerate(
        zip(processor.image_mean, processor.image_std, strict=True)
    ):
        assert bounds.low.flatten()[channel].item() == pytest.approx(-mean / std, rel=1e-5)
        assert bounds.high.flatten()[channel].item() == pytest.approx((1 - mean) / std, rel=1e-5)
    assert bool(((batch.pixels >= bounds.low) & (batch.pixels <= bounds.high)).all())
    gradient = torch.randn_like(batch.pixels)
    assert torch.equal(model.pixel_gradient(gradient), gradient)
    frozen = make(frozen=True)
    with pytest.raises(UserError, match="features and no pixels"):
        frozen.pixel_range(frozen.collate(items()))


def test_a_context_survives_an_exchange_and_a_blank() -> None:
    class Nothing:
        def select(self, rows: Tensor, image: Tensor, text: Tensor) -> "Nothing":
            return self

    model = make()
    latents = model.encode(model.collate(items()))
    assert latents.context is None
    tagged = Latents(latents.image, latents.text, Nothing())
    assert tagged.replace("image", latents.image).context is tagged.context
    assert model.blank(tagged, "text").context is tagged.context
    rows = torch.tensor([True, False, False])
    assert model.blank(tagged, "image", rows).context is tagged.context


def test_losses_by_hand() -> None:
    single, multi = make(), make(multi_label=True)
    logits = torch.tensor([[0.0, 0.0, float(np.log(2))]])
    batch = single.collate([items()[0]], [[2]])
    assert single.loss(logits, batch).item() == pytest.approx(-np.log(0.5))
    batch = multi.collate([items()[0]], [[2]])
    expected = (np.log(2) + np.log(2) - np.log(2 / 3)) / 3
    assert multi.loss(logits, batch).item() == pytest.approx(expected)


def test_frozen_encoders_give_their_features_once_and_do_not_train() -> None:
    model = make(frozen=True)
    first = model.collate(items())
    assert first.pixels.shape == (3, 64)
    model.image_encoder.forward = None  # type: ignore[assignment, method-assign]
    again = model.collate(items())  # from memory: the encoder is not called
    assert torch.equal(first.pixels, again.pixels)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and not any("encoder" in name for name in trained)


def test_wrong_options_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'fusion'"):
        classifier_config.configure("tiny", {"fusoin": "concat"})
    with pytest.raises(UserError, match="allowed are additive, concat"):
        classifier_config.configure("tiny", {"fusion": "sum"})
    with pytest.raises(UserError, match="Unknown backbone 'tinny'"):
        registry.configure("tinny", {})
    with pytest.raises(UserError, match="expected whole number"):
        classifier_config.configure("tiny", {"width": "wide"})


def test_an_encoder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    config = classifier_config.configure(f"{tmp_path / 'none'}+tiny", {})
    with pytest.raises(UserError, match="Could not load the image encoder"):
        classifier.build("x", config, CLASSES, False, TEXTS, 0)


def test_loading_a_folder_without_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classifier\.json is missing"):
        classifier.load(tmp_path)
