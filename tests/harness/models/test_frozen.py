"""Frozen encoders: features of the item alone, a cost by hand, shares of what it leaves."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Command
from PIL import Image

from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Inputs, Modality
from steelyard.harness.models import classifier, classifier_config, encoders
from steelyard.harness.models.classifier import Classifier
from steelyard.harness.training.train_data import feature_cost, step_cost

TEXTS = ["grandma's apple pie with a crumb topping and cream", "bus", "tea"]
CLASSES = ("pie", "bus", "tea")


def make(seed: int = 1) -> Classifier:
    config = classifier_config.configure("tiny", {"frozen": True})
    return classifier.build("tiny", config, CLASSES, False, TEXTS, seed)


def photos() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (60, 50, 3), np.uint8)) for _ in TEXTS]


def test_features_do_not_depend_on_company_or_on_what_was_asked_before() -> None:
    together, apart = make(), make()
    texts, _ = together.text_encoder.features(TEXTS)
    images, _ = together.image_encoder.features(photos())
    for row in (2, 0, 1):
        (text,), _ = apart.text_encoder.features([TEXTS[row]])
        (image,), _ = apart.image_encoder.features([photos()[row]])
        assert torch.equal(text, texts[row]) and torch.equal(image, images[row])


def test_equal_bytes_of_another_shape_are_another_image() -> None:
    encoder = make().image_encoder
    wide = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3))
    tall = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 4, 3))
    first, second = encoder.features([wide, tall])[0]
    assert not torch.equal(first, second)


def test_absent_items_are_zeros_and_marked() -> None:
    model = make()
    model.image_encoder.forward = None  # type: ignore[assignment, method-assign]
    batch = model.collate([Inputs(None, "tea"), Inputs(None, None)])
    assert batch.has_image.tolist() == [False, False]
    assert batch.has_text.tolist() == [True, False]
    assert not batch.pixels.any() and batch.tokens[0].any() and not batch.tokens[1].any()


def test_frozen_random_encoders_come_back_as_they_were(tmp_path: Path) -> None:
    model = make().eval()
    items = [Inputs(image, text) for image, text in zip(photos(), TEXTS, strict=True)]
    classifier.save(model, tmp_path)
    answer = classifier.load(tmp_path).answer(items, CLASSES)
    assert torch.equal(answer, model.answer(items, CLASSES))


def test_initial_weights_are_equal_whether_an_encoder_is_loaded_or_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[str] = []

    def load(source: str, modality: Modality, max_tokens: int) -> encoders.Encoder:
        loads.append(source)
        return encoders.tiny_image_encoder(48, 64, 2)  # its weights are drawn at random

    monkeypatch.setattr(encoders, "load_encoder", load)
    empty = functools.cache(encoders._shared_encoder.__wrapped__)
    monkeypatch.setattr(encoders, "_shared_encoder", empty)
    config = classifier_config.configure("folder+tiny", {"frozen": True})
    first, second = (classifier.build("x", config, CLASSES, False, TEXTS, seed=1) for _ in range(2))
    assert loads == ["folder"] and first.image_encoder is second.image_encoder
    assert torch.equal(first.image_embedding.weight, second.image_embedding.weight)


def test_feature_cost_by_hand() -> None:
    def layer(length: int) -> int:
        linear = 4 * 64 * 64 + 2 * 64 * 128  # query, key, value, output; two of the perceptron
        return 2 * length * linear + 2 * 2 * length * length * 64  # and two products of attention

    # 48 pixels are 4 x 4 patches of 12 x 12 x 3; with the class token 17 positions, two layers.
    image = 2 * 16 * 64 * (12 * 12 * 3) + 2 * layer(17)
    # Unknown words are one token each: with [CLS] 6 and 9, padded to 8 and 16. One layer, then
    # BERT's own pooling of the first position.
    texts = layer(8) + layer(16) + 2 * (2 * 64 * 64)
    photo = Path("photo.jpg")
    rows = ((photo, "a b c d e"), (None, "a b c d e f g h"), (photo, None))
    examples = tuple(Example(str(i), *row, (0,)) for i, row in enumerate(rows))
    assert feature_cost(make(), examples) == 2 * image + texts


def test_cost_of_a_step_on_features_by_hand() -> None:
    """Forward, weight gradients and input gradients; the embeddings' inputs need none."""
    model = make()
    embedding, contribution, output = 2 * 64 * 64, 2 * 64 * 64, 2 * 64 * len(CLASSES)
    expected = 2 * 2 * embedding + 2 * 3 * contribution + 3 * output
    assert step_cost(model) == model.recipe.batch_size * expected


def test_seconds_of_features_count_whether_they_were_in_memory() -> None:
    encoder = make().image_encoder
    encoder.features(photos())
    first = encoder.seconds
    assert first > 0
    encoder.features(photos())
    assert encoder.seconds == pytest.approx(2 * first)


def test_seconds_of_a_fixed_cost_count_and_leave_the_schedule_to_the_rest() -> None:
    meter = Meter(Budget("test", 100.0, seconds=1000.0), "cpu")
    with meter:
        with meter.phase("features"):
            meter.charge(60.0, seconds=999.0)
        assert meter.fraction < 0.5  # of the second that is left
        with pytest.raises(BudgetSpent, match="s used"), meter.phase("features"):
            meter.charge(1.0, seconds=2.0)
    assert meter.ledger("budget").seconds["features"] == pytest.approx(1001.0, abs=0.5)


def test_a_budget_too_small_for_features_is_refused_before_anything_is_encoded(
    world: Path, tmp_path: Path, steelyard: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    monkeypatch.setattr(encoders.Encoder, "features", lambda self, items: encoded.append(1))
    words = ["run", "joint", "--data-root", str(world / "food101"), "--backbone-set", "frozen=true"]
    words += ["--runs", str(tmp_path), "--jobs", "0", "--device", "cpu", "--budget", "1e8"]
    for dry in ([], ["--dry-run"]):
        done = steelyard(*words, *dry)
        assert done.code == 2 and "Traceback" not in done.stderr
        assert re.search(
            r"features of \d+ training items need \S+ FLOPs, one step \S+, and the budget is 1e",
            done.stderr,
        )
    assert not encoded


def test_shares_of_a_budget_are_of_what_a_fixed_cost_leaves() -> None:
    layer = torch.nn.Linear(5, 1, bias=False)
    meter = Meter(Budget("test", 100.0), "cpu")
    meter.watch(layer)
    with meter:
        with meter.phase("features"):
            meter.charge(60.0)
        assert meter.spent == 60 and meter.fraction == 0.0
        for fraction in (0.25, 0.5, 0.75, 1.0):
            meter.afford_step()  # a step is worth 10, not 60 and 10
            with torch.no_grad():
                layer(torch.ones(1, 5))
            meter.step(1)
            assert meter.fraction == pytest.approx(fraction)
        with pytest.raises(BudgetSpent):
            meter.afford_step()
    assert meter.ledger("budget").flops == {"features": 60.0, "forward": 40.0}


def test_a_fixed_cost_that_is_the_whole_budget_leaves_nothing() -> None:
    meter = Meter(Budget("test", 60.0), "cpu")
    with meter:
        meter.charge(60.0)
        assert meter.fraction == 1.0


def test_a_library_that_an_encoder_needs_and_lacks_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import transformers

    def lacks(*args: object, **kwargs: object) -> None:
        raise ImportError("TimmWrapperModel requires the timm library\nbut it was not found")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lacks)
    with pytest.raises(UserError, match="requires the timm library") as caught:
        encoders.load_encoder(str(tmp_path), "image", 0)
    assert "\n" not in str(caught.value)
