"""Effects of methods on a model of the generated world, as differences paired by seed.

By default one seed of what has no lighter test elsewhere; among the heavy tests three seeds.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from steelyard import methods, tasks
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import Inputs
from steelyard.harness.data.images import open_image
from steelyard.harness.models import registry
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.training.train_data import train_data
from steelyard.tasks.world import build

FLOPS = 1.2e11  # some three hundred steps

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Study:
    """Data and seeds."""

    root: Path
    seeds: tuple[int, ...]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("behaviour") / "food101"
    build.write(build.WorldSpec("food101", train=2000, test=400, seed=1), root)
    return root


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((0,), id="one-seed"),
        pytest.param((0, 1, 2), id="three-seeds", marks=pytest.mark.heavy),
    ],
)
def study(root: Path, request: pytest.FixtureRequest) -> Study:
    return Study(root, request.param)


@cache
def outcome(
    study: Study, name: str, seed: int, options: tuple[tuple[str, methods.Option], ...] = ()
) -> dict[str, float]:
    """Accuracy clean, without text and without image, and the method's logged values."""
    corpus = tasks.load("food101", study.root)
    spec = RunSpec(name, "food101", "tiny", "S", seed)
    model = registry.build_untrained(spec, corpus, "cpu")
    meter = Meter(Budget("test", FLOPS), "cpu")
    for module in model.metered_modules:
        meter.watch(module)
    method = methods.load(name)
    config = methods.configure(method, dict(options))
    torch.manual_seed(seed)
    with meter, suppress(BudgetSpent):
        method.train(
            model,
            train_data(model, corpus.name, corpus),
            meter,
            config,
            spec.seed_for("method"),
        )
    examples = corpus.splits["test"]
    images = [open_image(example.image) for example in examples if example.image]
    labels = torch.tensor([example.labels[0] for example in examples])
    texts = [example.text for example in examples]

    def accuracy(inputs: list[Inputs]) -> float:
        return float((model.answer(inputs, corpus.classes).argmax(1) == labels).float().mean())

    return {
        "clean": accuracy([Inputs(i, t) for i, t in zip(images, texts, strict=True)]),
        "no_text": accuracy([Inputs(i, None) for i in images]),
        "no_image": accuracy([Inputs(None, t) for t in texts]),
        **meter.diagnostics,
    }


def gains(study: Study, name: str, control: str, value: str) -> list[float]:
    """Paired differences by seed."""
    return [
        outcome(study, name, seed)[value] - outcome(study, control, seed)[value]
        for seed in study.seeds
    ]


def test_joint_training_under_uses_the_image(study: Study) -> None:
    """Without text, a joint model is far worse than a model of the image alone."""
    differences = gains(study, "image_only", "joint", "no_text")
    assert min(differences) > 0.15, differences


@pytest.mark.heavy  # training on the text alone takes the most steps
def test_joint_training_is_better_than_the_text_alone(study: Study) -> None:
    """Joint training does use the image, though too little."""
    assert np.mean(gains(study, "joint", "text_only", "clean")) > 0


@pytest.mark.parametrize(
    "name", ["joint_unimodal", "balgrad", pytest.param("late_ensemble", marks=pytest.mark.heavy)]
)
def test_training_each_modality_recovers_the_image(study: Study, name: str) -> None:
    differences = gains(study, name, "joint", "no_text")
    assert min(differences) > 0 and np.mean(differences) > 0.04, differences


def test_modality_dropout_helps_without_text(study: Study) -> None:
    differences = gains(study, "modality_dropout", "joint", "no_text")
    assert np.mean(differences) > 0.02, differences


@pytest.mark.heavy
def test_the_permutation_game_raises_what_it_says_it_raises(study: Study) -> None:
    """With the paper's sign permuting a modality costs more; with the opposite sign less.

    Tested on the sum and on the weaker modality; the leading one may lose what the other gains,
    since both explain the same labels.
    """
    base = (("game", "collaborative"), ("contrastive", 0.0), ("unimodal", 0.0))
    for seed in study.seeds[:2]:
        up = outcome(study, "mcr", seed, (*base, ("mipd", 1.0)))
        down = outcome(study, "mcr", seed, (*base, ("mipd", -1.0)))
        assert up["J_image"] > down["J_image"] + 0.02
        assert up["J_image"] + up["J_text"] > down["J_image"] + down["J_text"] + 0.02


def test_dominant_modality_is_slowed(study: Study) -> None:
    """OGM-GE slows the leading modality: here the text, which is learnt first."""
    logged = outcome(study, "ogm_ge", 0)
    assert logged["coefficient_text"] < logged["coefficient_image"]
