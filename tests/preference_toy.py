"""A world small enough to train a vision-language model on within seconds, for preference tests.

One coloured square a picture; bananas are mostly yellow, cups of any colour. The model made here
answers "what color is the cup" by looking, and about bananas leans on what is usual.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import tiny_vlms
import torch
from PIL import Image

from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import Example, Inputs, Turn
from steelyard.harness.models import vlm_build
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.training.train_data import TrainData, vlm_data

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}
COLOURS["yellow"] = (230, 220, 50)
USUAL = 0.95  # share of yellow bananas
SIDE, SQUARE, NOISE = 32, 12, 80  # noisy enough that a model stays unsure for a while


def examples(count: int, seed: int) -> tuple[Example, ...]:
    """Closed questions about colours; the facts say where the square is."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        kind = ("banana", "cup")[draw.integers(2)]
        usual = kind == "banana" and draw.random() < USUAL
        colour = "yellow" if usual else list(COLOURS)[draw.integers(4)]
        place = tuple(str(draw.integers(SIDE - SQUARE)) for _ in range(2))
        made.append(
            Example(
                f"{seed}-{number}",
                Path(f"{number}.png"),
                f"what color is the {kind}?",
                (),
                (colour,),
                tuple(COLOURS),
                kind,
                facts={"place": place},
            )
        )
    return tuple(made)


def picture(example: Example) -> Image.Image:
    """The square on grey, with pixel noise."""
    noise = np.random.default_rng(int(example.id.split("-")[1]))
    pixels = np.full((SIDE, SIDE, 3), 120.0)
    x, y = (int(place) for place in example.facts["place"])
    pixels[y : y + SQUARE, x : x + SQUARE] = COLOURS[example.answers[0]]
    pixels += noise.normal(0, NOISE, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def turn(example: Example) -> Turn:
    """The example as a question and its answer."""
    inputs = Inputs(picture(example), example.text, example.text or "")
    return Turn(inputs, example.answers[0], example.choices)


def data(backbone: Vlm, count: int, seed: int) -> TrainData:
    """Training data for the backbone."""
    return vlm_data(backbone, examples(count, seed), turn)


def load(folder: Path, tune: str = "full", **options: Any) -> Vlm:
    """A backbone that starts from a checkpoint folder; small batches, quick learning."""
    settings = {"learning_rate": 1e-3, "batch_size": 16, "vision": "frozen", **options}
    config = VlmConfig(str(folder), tune=tune, **settings)  # type: ignore[arg-type]
    return vlm_build.build("toy", config, seed=0)


@cache
def random_base() -> Path:
    """A random checkpoint."""
    return tiny_vlms.make("llava", Path(mkdtemp(prefix="toy-random-")))


@cache
def trained_base(steps: int = 60) -> Path:
    """A checkpoint that has begun to see colours: right nine times in ten, unsure of it."""
    from transformers import AutoModelForImageTextToText

    model = load(random_base(), vision="trained")
    torch.manual_seed(0)
    # Small weights, because a random checkpoint's large ones do not train well.
    config = model.base.config
    model.model = AutoModelForImageTextToText.from_config(config)
    optimiser = torch.optim.AdamW(model.model.parameters(), lr=3e-3)
    for step, batch in enumerate(data(model, 600, seed=0).batches(64, 0, "base")):
        if step == steps:
            break
        loss = model.loss(model.predict(batch), batch).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    folder = Path(mkdtemp(prefix="toy-trained-"))
    ends = {"eos_token_id": model.eos_id, "pad_token_id": 0}
    model.model.generation_config.update(**ends)
    model.model.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    return folder


def metered(backbone: Any, flops: float) -> Meter:
    """A meter that watches the backbone."""
    meter = Meter(Budget("test", flops))
    for module in backbone.metered_modules:
        meter.watch(module)
    return meter


def run(method: Any, backbone: Any, pool: TrainData, config: Any, flops: float) -> Meter:
    """Train with a method until the budget is spent."""
    meter = metered(backbone, flops)
    torch.manual_seed(0)
    with meter, suppress(BudgetSpent):
        method.train(backbone, pool, meter, config, 0)
    return meter


def likelihood(backbone: Vlm, items: TrainData) -> float:
    """Mean probability of the right answers."""
    batch = items.gather(range(len(items)))
    with torch.no_grad():
        mean = backbone.loss(backbone.predict(batch), batch)
    return float((-mean * (batch.targets >= 0).sum(1)).exp().mean())


def accuracy(backbone: Vlm, items: Sequence[Example]) -> float:
    """Share of greedy answers that are right."""
    answers = backbone.generate([turn(item).inputs for item in items], 4)
    return float(np.mean([a == i.answers[0] for a, i in zip(answers, items, strict=True)]))
