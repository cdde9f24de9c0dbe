"""Small questions about noise pictures, and tiny random models that learn them, for tests."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import tiny_vlms
from PIL import Image

from steelyard import methods
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import Example, Inputs, Turn
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData, vlm_data

QUESTIONS = (
    ("is there a banana in the image ?", ("yes", "no")),
    ("what color is the fish ?", ("red", "green", "blue", "yellow")),
    ("how many objects are there in this image ?", ("one", "two", "three")),
    ("is the cup red , and is it on the dish ?", ("yes", "no")),
)
SUFFIX = " answer the question using a single word or phrase ."


def build(family: str, root: Path, **options: methods.Option) -> Vlm:
    """A random model of a family in training mode; its checkpoint is made below ``root`` once."""
    folder = root / family
    if not folder.exists():
        tiny_vlms.make(family, folder)
    chosen = {"tune": "full", "batch_size": 8, "learning_rate": 1e-3, **options}
    return vlm_build.build(str(folder), vlm_config.configure(str(folder), chosen), seed=0)


def turns(count: int, seed: int = 0) -> list[Turn]:
    """Closed questions of four lengths, each about a picture of its own."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        question, choices = QUESTIONS[rng.integers(len(QUESTIONS))]
        picture = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        inputs = Inputs(picture, question, question + SUFFIX)
        made.append(Turn(inputs, choices[rng.integers(len(choices))], choices))
    return made


def batch(model: Vlm, count: int, seed: int = 0) -> Batch:
    """The first questions with their answers, collated."""
    asked = turns(count, seed)
    return model.collate([turn.inputs for turn in asked], [turn.answer for turn in asked])


def train_data(model: Vlm, count: int = 48) -> TrainData:
    """Training data of such questions."""
    asked = turns(count)
    examples = tuple(
        Example(
            str(row), Path(f"{row}.png"), turn.inputs.evidence, (), (turn.answer,), turn.choices
        )
        for row, turn in enumerate(asked)
    )
    return vlm_data(model, examples, lambda example: asked[int(example.id)])


def watched(model: Vlm, flops: float) -> Meter:
    """A meter on the model."""
    meter = Meter(Budget("test", flops))
    for module in model.metered_modules:
        meter.watch(module)
    return meter


def train(model: Vlm, name: str, flops: float, **options: methods.Option) -> Meter:
    """Train by a method within a budget; the meter that followed it."""
    method = methods.load(name)
    meter = watched(model, flops)
    data = train_data(model)
    with meter, suppress(BudgetSpent):
        method.train(model, data, meter, methods.configure(method, options, "vlm"), 0)
    return meter
