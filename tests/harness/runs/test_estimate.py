"""Estimates before a run: trials extrapolated, memory by parts, and what does not fit a card."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_vlms
import torch

from steelyard import tasks
from steelyard.harness.budget.live_bytes import LiveBytes
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import no_progress
from steelyard.harness.models import registry, vlm_config
from steelyard.harness.records.budget import Budget
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import by_shape, cards, run
from steelyard.harness.runs.estimate import Estimate, estimate
from steelyard.harness.runs.job import Job
from steelyard.harness.runs.trial import Images, Trial, extrapolate, plain_step, stored_cost
from steelyard.harness.training.train_data import train_data

FIRST = (
    Trial({"mine": 40.0, "forward": 20.0}, steps=2, items=8, memory={}),
    Trial({"mine": 40.0, "forward": 60.0}, steps=6, items=24, memory={}),
)
NONE = Images(items=1000, count=0, flops=0.0)


def test_the_line_through_two_trials_separates_a_step_from_what_is_spent_once() -> None:
    course = extrapolate(FIRST, FIRST, 1000, Budget("b", flops=1000), NONE, encoding=160)
    # (1000 - 160 - 40) / 10 a step
    assert (course.steps, course.items) == (80, 320)
    assert course.flops == {"mine": 40, "forward": 800, "features": 160}
    items = extrapolate(FIRST, FIRST, 1000, Budget("b", items=100), NONE, encoding=0)
    assert (items.steps, items.total) == (25, 290)


def test_later_passes_over_prepared_items_have_their_own_cost() -> None:
    later = (Trial({"forward": 12.0}, 2, 8, {}), Trial({"forward": 36.0}, 6, 24, {}))
    course = extrapolate(FIRST, later, 40, Budget("b", flops=1000), NONE, encoding=0)
    # 40 once, ten steps of 10 over the 40 items, and (1000 - 140) / 6 more
    assert course.steps == 10 + 143
    assert course.flops["forward"] == 100 + 6 * 143


@pytest.mark.parametrize(
    ("items", "count", "steps"),
    [
        (1000, 1000, 40),  # each step sees 4 new images at 3.5 FLOPs: 960 / (10 + 14)
        (100, 100, 61),  # 100 images once: (960 - 350) / 10
        (100, 50, 78),  # two items an image: (960 - 175) / 10
    ],
)
def test_images_of_a_frozen_tower_are_spent_once(items: int, count: int, steps: int) -> None:
    images = Images(items, count, flops=3.5)
    course = extrapolate(FIRST, FIRST, items, Budget("b", flops=1000.001), images, encoding=0)
    assert course.steps == steps
    assert course.flops["features"] == pytest.approx(3.5 * min(4 * steps, count))


def _estimate_and_run(world: Path, folder: Path, spec: RunSpec) -> tuple[Estimate, run.Record]:
    corpora = {"food101": tasks.load("food101", world / "food101")}
    spec = replace(spec, data={"revision": corpora["food101"].revision})
    jobs = [Job(replace(spec, seed=seed), spec.method, ("food101",)) for seed in (0, 1)]
    (guess,) = estimate(jobs, corpora, cards.CARDS["H100"], 0.5, "cpu", no_progress)
    return guess, run.run(jobs[0], corpora, folder, "cpu", no_progress)


@pytest.mark.parametrize("track", ["compute", "data"])
def test_an_estimate_is_the_ledgers(world: Path, tmp_path: Path, track: str) -> None:
    budget = "2e10" if track == "compute" else "1920"
    spec = RunSpec("unimodal_pretrained", "food101", "tiny", budget, 0, track=track)  # type: ignore[arg-type]
    guess, record = _estimate_and_run(world, tmp_path, spec)
    ledger = record.ledger
    assert guess.runs == 2
    assert guess.training.steps == pytest.approx(ledger.steps, rel=0.1)
    assert guess.training.total == pytest.approx(ledger.total_flops, rel=0.1)
    assert sum(guess.memory.values()) == pytest.approx(ledger.peak_bytes, rel=0.05)
    assert guess.passes == pytest.approx(ledger.items / 208, rel=0.1)
    assert guess.hours == pytest.approx(
        (guess.training.total + guess.evaluation["food101"]) / (0.5 * 67e12) / 3600
    )
    saved = sum(path.stat().st_size for path in tmp_path.rglob("weights/**/*.*"))
    assert guess.disk["weights"] == pytest.approx(saved, rel=0.05)


def test_what_does_not_fit_is_refused_in_one_line_with_a_remedy() -> None:
    memory = {"weights": 16e9, "activations": 30e9, "optimiser": 2e6}
    advice = {"activations": "--backbone-set micro_batch_size=1"}
    cards.check_fit(cards.CARDS["L40S"], "mcr on instruct", memory, advice)
    cards.check_fit(cards.CARDS["cpu"], "mcr on instruct", memory, advice)
    with pytest.raises(UserError) as error:
        cards.check_fit(cards.CARDS["A100-40"], "mcr on instruct", memory, advice)
    assert str(error.value) == (
        "mcr on instruct needs 46.0 GB of the 39 that A100-40 has for tensors (activations 30.0, "
        "weights 16.0): set --backbone-set micro_batch_size=1, or take a larger card."
    )
    with pytest.raises(UserError, match="Did you mean 'H100'"):
        cards.find("H10")


@pytest.mark.parametrize(("tune", "checkpointing"), [("lora", True), ("full", False)])
def test_a_step_by_shape_is_the_step_of_the_weights(
    world: Path, tmp_path: Path, tune: str, checkpointing: bool
) -> None:
    folder = tmp_path / "qwen2_5_vl"
    tiny_vlms.make("qwen2_5_vl", folder)
    options = {"tune": tune, "checkpointing": checkpointing, "precision": "fp32", "batch_size": 8}
    spec = RunSpec("joint", "instruct", str(folder), "S", 0, backbone_options=options)
    corpus = tasks.load("instruct", world / "instruct")
    corpus = replace(corpus, splits={"train": corpus.splits["train"][:8]})
    backbone = registry.build_untrained(spec, corpus, "cpu")
    data = train_data(backbone, "instruct", corpus)
    image = stored_cost(backbone, data)
    flops, _ = plain_step(backbone, data)
    activations = 0
    for batch in (data.gather(range(4)), data.gather(range(4, 8))):
        latents = backbone.encode(batch)  # outside: hashes of pixels are most of a toy's memory
        with LiveBytes(backbone) as memory:
            torch.autograd.backward(backbone.loss(backbone.fuse(latents), batch).mean())
        activations = max(activations, memory.peak["activations"])
        backbone.zero_grad()
    saved = [weight.nbytes for weight in backbone.parameters()]
    config = vlm_config.configure(str(folder), options)
    (folder / "model.safetensors").unlink()  # shapes suffice
    step = by_shape.plain_step(str(folder), config, "instruct", corpus)
    assert step.flops == pytest.approx(flops, rel=0.1)
    assert step.activations == pytest.approx(activations, rel=0.2)
    # A toy's merging layers, which see a fourth of the patches, are a third of its tower.
    assert step.image_flops == pytest.approx(image, rel=0.4)
    assert step.weights == sum(saved)
    trained = sum(weight.nbytes for weight in backbone.parameters() if weight.requires_grad)
    assert (step.trained, step.moments) == (trained, 2 * trained)
    assert step.saved == (trained if tune == "lora" else sum(saved))


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_activations_of_a_plain_step_are_those_of_its_dearest_batch(world: Path, tune: str) -> None:
    options = {"tune": tune, "batch_size": 2, "feature_cache_gb": 0.0}
    spec = RunSpec("joint", "instruct", "tiny-vlm", "S", 0, backbone_options=options)
    corpus = tasks.load("instruct", world / "instruct")
    corpus = replace(corpus, splits={"train": corpus.splits["train"][:8]})
    backbone = registry.build_untrained(spec, corpus, "cpu")
    data = train_data(backbone, "instruct", corpus)
    peaks = []
    for start in range(0, 8, 2):
        batch = data.gather(range(start, start + 2))
        with LiveBytes(backbone) as memory:
            torch.autograd.backward(backbone.loss(backbone.predict(batch), batch).mean())
        backbone.zero_grad()
        peaks.append(memory.most_of["activations"])
    assert plain_step(backbone, data)[1] == pytest.approx(max(peaks), rel=0.02)
    # The dearest moment of fine-tuning may be the optimiser's step; its pairs of rows are others.
    spec = replace(spec, method="sft", budget="8", track="data")
    plain = by_shape.PlainStep(1e12, 1e9, 1e9, 1e10, 1e8, 2e8, 1e10)
    course = by_shape.course(spec, plain, backbone, data, corpus.splits["train"])
    assert course.memory["activations"] == pytest.approx(1e9, rel=0.3)


def test_a_checkpoint_that_is_not_at_hand_is_one_line(world: Path) -> None:
    corpus = tasks.load("instruct", world / "instruct")
    config = vlm_config.configure("nobody/nothing", {})
    with pytest.raises(
        UserError, match="Could not load the processor of 'nobody/nothing'"
    ) as error:
        by_shape.plain_step("nobody/nothing", config, "instruct", corpus)
    assert "\n" not in str(error.value)
