"""Attack by the scored model itself: small, against the correct answer, seeded, not charged."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
import vlm_toys
from PIL import Image

from steelyard import tasks
from steelyard.harness.budget.flops import total_counter
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.harness.evaluation.adversarial import STEPS, WhiteBox, white_box
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import classifier, classifier_config
from steelyard.harness.models.classifier import Classifier
from steelyard.harness.records.budget import Budget
from steelyard.tasks.corruptions import ATTACK_LEVELS

CLASSES = ("apple_pie", "bibimbap", "churros")


def corpus_at(root: Path, size: int = 12) -> Corpus:
    """Items whose colour tells the class; some lack a side."""
    root.mkdir(parents=True, exist_ok=True)
    examples = []
    for number in range(size):
        path = root / f"{number}.png"
        colour = [90, 90, 90]
        colour[number % 3] = 140 + number
        Image.new("RGB", (12, 12), tuple(colour)).save(path)
        image = None if number == 5 else path
        examples.append(Example(f"{number:02}", image, f"dish {number}", (number % 3,)))
    return Corpus("food101", root, CLASSES, False, {"train": (), "test": tuple(examples)}, "r1")


def made(multi_label: bool = False, **options: Any) -> Classifier:
    config = classifier_config.configure("tiny", options)
    return classifier.build("tiny", config, CLASSES, multi_label, ["dish 1"], seed=1).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus_at(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Corpus) -> Classifier:
    """Knows the class by the colour."""
    model = made()
    batch = model.collate(*asked(data)[:2])
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(15):
        loss = model.loss(model.predict(batch), batch).mean()
        loss = loss + model.loss(model.unimodal(model.encode(batch)).image, batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def asked(corpus: Corpus) -> tuple[list[Inputs], list[tuple[int, ...]], list[dict[str, Any]]]:
    """Return the items' inputs, their classes and their rows."""
    inputs, labels, docs = [], [], []
    for example in corpus.splits["test"]:
        image = Image.open(example.image).convert("RGB") if example.image else None
        inputs.append(Inputs(image, example.text))
        labels.append(example.labels)
        docs.append({"id": example.id, "labels": list(example.labels)})
    return inputs, labels, docs


def box(model: Any, severity: int = 3, task: str = "food101") -> WhiteBox:
    return WhiteBox(model, task, severity, Meter(Budget("attack", math.inf), "cpu"))


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_pixels_stay_near_and_valid_and_the_loss_rises(
    trained: Classifier, data: Corpus, severity: int
) -> None:
    inputs, labels, docs = asked(data)
    clean = trained.collate(inputs, labels)
    pixels = box(trained, severity).pixels(inputs, docs)
    bounds = trained.pixel_range(clean)
    levels = ((pixels - clean.pixels) / (bounds.high - bounds.low) * 255).abs()
    present = clean.has_image
    assert levels[present].max().item() == pytest.approx(ATTACK_LEVELS[severity - 1], abs=1e-3)
    assert bool((pixels[present] >= bounds.low).all() and (pixels[present] <= bounds.high).all())
    with torch.no_grad():
        before, after = (
            trained.scored_loss(replace(clean, pixels=p)) for p in (clean.pixels, pixels)
        )
    assert bool((after > before)[present].all())
    assert torch.equal(after[~present], before[~present])


def test_scores_fall_with_severity_and_the_image_is_all_that_changes(
    trained: Classifier, data: Corpus
) -> None:
    def accuracy(variant: str) -> float:
        return evaluate(trained, tasks.parse_variant(variant), data).scores[0].value

    scores = [accuracy(f"food101@image-adversarial:{severity}") for severity in (1, 5)]
    assert accuracy("food101") >= 11 / 12
    assert scores[1] < 0.5 and scores[1] < scores[0]


def test_the_scored_readout_is_attacked(trained: Classifier, data: Corpus) -> None:
    """Attack an entry at its image head, and not one that ignores the image."""
    inputs, labels, docs = asked(data)
    batch = trained.collate(inputs, labels)
    losses = {}
    try:
        for readout in ("fused", "image", "ensemble", "text", "prior"):
            trained.readout = readout  # type: ignore[assignment]
            right = trained.answer(inputs, CLASSES).gather(1, batch.targets[:, None])[:, 0]
            with torch.no_grad():
                torch.testing.assert_close(trained.scored_loss(batch), -right.log())
            pixels = box(trained, 5).pixels(inputs, docs)
            after = trained.answer(inputs, CLASSES, pixels).gather(1, batch.targets[:, None])[:, 0]
            losses[readout] = float((right - after).mean())
    finally:
        trained.readout = "fused"
    assert min(losses["fused"], losses["image"], losses["ensemble"]) > 0.05
    assert losses["text"] == losses["prior"] == 0.0


def test_several_classes_an_item(data: Corpus) -> None:
    model = made(multi_label=True)
    inputs, labels, docs = asked(data)
    batch = model.collate(inputs, labels)
    pixels = box(model, 5).pixels(inputs, docs)
    with torch.no_grad():
        before, after = model.scored_loss(batch), model.scored_loss(replace(batch, pixels=pixels))
    assert bool((after > before)[batch.has_image].all())


def test_a_frozen_encoder_is_attacked_through(data: Corpus) -> None:
    model = made(frozen=True)
    inputs, labels, docs = asked(data)
    attack = box(model, 5)
    pixels = attack.pixels(inputs, docs)
    assert pixels.dim() == 4
    with pytest.raises(UserError, match="frozen encoders"):
        model.pixel_range(model.collate(inputs, labels))
    clean = model.answer(inputs, CLASSES)
    again = model.answer(inputs, CLASSES, model.collate(inputs, raw=True).pixels)
    torch.testing.assert_close(again, clean, atol=1e-5, rtol=1e-4)  # batched against one by one
    right = torch.tensor(labels)
    drop = clean.gather(1, right) - model.answer(inputs, CLASSES, pixels).gather(1, right)
    assert float(drop.mean()) > 0


def test_one_start_an_item_whatever_the_batch_and_the_process(
    trained: Classifier, data: Corpus
) -> None:
    inputs, _, docs = asked(data)
    attack = box(trained)
    together = attack._noise(attack._batch(inputs, docs), [doc["id"] for doc in docs])
    for row in (0, 7):
        alone = attack._noise(attack._batch(inputs[row : row + 1], docs), [docs[row]["id"]])
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(together[0], together[1])
    assert -1 <= together.min() < -0.99 and 0.99 < together.max() <= 1
    assert float(together[0].flatten()[0]) == pytest.approx(FIRST, abs=1e-6)
    full = attack.pixels(inputs, docs)
    part = attack.pixels(inputs[3:5], docs[3:5])
    differing = (full[3:5] - part).abs() > 1e-3  # a gradient near zero has no sign
    assert differing.float().mean() < 0.01


FIRST = 0.24064934
"""The first number of the noise of item 00 under severity 3, from another process."""


def test_its_cost_is_what_torch_counts_and_on_no_other_meter(
    trained: Classifier, data: Corpus
) -> None:
    training = Meter(Budget("training", 1.0), "cpu")  # would stop anything
    handles = [handle for module in trained.metered_modules for handle in training.watch(module)]
    inputs, _, docs = asked(data)
    variant = tasks.parse_variant("food101@image-adversarial:2")
    try:
        with white_box(trained, variant) as attack:
            assert attack is not None
            attack.pixels(inputs, docs)  # prices are known from here on
            once = attack.cost["flops"]
            with total_counter() as counter:
                attack.pixels(inputs, docs)
            assert attack.cost["flops"] == 2 * once
            assert once == pytest.approx(counter.get_total_flops(), rel=1e-6)
            trained.answer(inputs, CLASSES)
            assert attack.cost["flops"] == 2 * once  # answering is not attacking
        assert attack.cost["steps"] == STEPS and attack.cost["epsilon"] == 4 / 255
        assert attack.cost["seconds"] > 0
    finally:
        for handle in handles:
            handle.remove()
    assert training.spent == 0
    assert all(not module._forward_hooks for module in trained.metered_modules)


def test_other_variants_have_no_attack(trained: Classifier, data: Corpus) -> None:
    assert evaluate(trained, tasks.parse_variant("food101@image-noise:1"), data).attack is None
    result = evaluate(trained, tasks.parse_variant("food101@image-adversarial:1+text-blank"), data)
    assert result.attack is not None and result.attack["flops"] > 0


@pytest.mark.parametrize("family", tiny_vlms.cells())
def test_every_family_of_models_is_attacked(family: str, tmp_path: Path) -> None:
    model = vlm_toys.build(family, tmp_path).eval()
    turns = vlm_toys.turns(3)
    inputs = [turn.inputs for turn in turns]
    inputs[1] = Inputs(None, inputs[1].text, inputs[1].prompt)  # rows are not items
    docs = [{"id": str(n), "answers": [turn.answer]} for n, turn in enumerate(turns)]
    batch = model.collate(inputs, [turn.answer for turn in turns])
    attack = box(model, 5, "vqa")
    pixels = attack.pixels(inputs, docs)
    bounds = model.pixel_range(batch)
    assert pixels.shape == batch.pixels.shape
    low = torch.maximum(batch.pixels - 32 / 255 * (bounds.high - bounds.low), bounds.low)
    assert bool((pixels >= low - 1e-5).all() and (pixels <= bounds.high + 1e-5).all())
    with torch.no_grad():
        before, after = model.scored_loss(batch), model.scored_loss(replace(batch, pixels=pixels))
    assert after[0] > before[0] and after[2] > before[2]
    assert after[1].item() == pytest.approx(before[1].item(), abs=1e-5)
    ids = [doc["id"] for doc in docs]
    alone = attack._noise(attack._batch(inputs[2:], docs[2:]), ids[2:])
    rows = len(alone) if alone.dim() == 2 else 1
    noise = attack._noise(batch, ids)[-rows:]
    shared = tuple(slice(0, size) for size in alone.shape)
    assert torch.equal(noise[shared], alone)
    answers = model.generate(inputs, 4, pixels)
    assert len(answers) == 3
    assert model.answer(inputs, ("yes", "no"), pixels).shape == (3, 2)


def test_nothing_to_see_is_nothing_to_attack(tmp_path: Path) -> None:
    model = vlm_toys.build("llava", tmp_path).eval()
    blind = [Inputs(None, "is there a cup", "is there a cup ?")]
    attack = box(model, 3, "vqa")
    assert len(attack.pixels(blind, [{"id": "0", "answers": ["yes"]}])) == 0
    assert attack.cost["flops"] == 0


def test_lmms_evals_own_tasks_are_refused() -> None:
    from steelyard.tasks._lmms import stock

    name = f"{stock.PREFIX}ai2d"
    with pytest.raises(
        UserError, match="an attack needs right answers, and lmms-eval's tasks declare none"
    ):
        tasks.parse_variant(f"{name}@image-adversarial")
