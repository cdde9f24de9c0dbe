"""Synthetic study: accuracy lost to the Bayes classifier as shared information becomes unique.

Five classes, uniform. Modality m is N(0, I) in ten dimensions, plus the class index in every
dimension if it has the label of this item; a fixed U(0, 1) matrix maps it to 100 dimensions. An
item is shared (both modalities have the label), unique to the image or unique to the text. The
fraction unique to the text stays 0.2 while the image's grows from 0.2 to 0.8.
This follows the published description of MCR's synthetic data, whose sizes are not published.

    python tests/bench/synthetic_study.py FOLDER

trains the methods of the package at one FLOP budget and writes ``synthetic_study.csv`` and
``.png``. The Bayes classifier falls along the axis too, so the gap to it is shown, not accuracy.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from steelyard import methods
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import MODALITIES, Example, Inputs, Modality, Turn
from steelyard.harness.core.options import Option
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Batch, Latents, Readout, Recipe
from steelyard.harness.training.train_data import TrainData

if TYPE_CHECKING:
    import pandas as pd

CLASSES, NOISE_DIMENSIONS, INPUTS = 5, 10, 100
TRAIN_ITEMS, TEST_ITEMS = 1000, 4000
TEXT_ONLY = 0.2
IMAGE_ONLY = (0.2, 0.4, 0.6, 0.8)
SEEDS = range(5)
FLOPS = 3e10  # some 480 steps of joint training, sixty epochs at batch 125
ENTRIES: dict[str, tuple[str, dict[str, Option]]] = {
    "joint": ("joint", {}),
    "joint + unimodal": ("joint_unimodal", {}),
    "OGM-GE": ("ogm_ge", {}),
    "MCR": ("mcr", {}),
    "MCR, no permutation": ("mcr", {"mipd": 0.0}),
    "MCR, light contrast": ("mcr", {"contrastive": 0.1, "unimodal": 0.1}),
    "MCR, light contrast, no permutation": (
        "mcr",
        {"contrastive": 0.1, "unimodal": 0.1, "mipd": 0.0},
    ),
}


class LabelFractions(NamedTuple):
    """Fractions of items by the modality that has the label; they sum to one."""

    image: float
    text: float

    @property
    def both(self) -> float:
        """Fraction of items whose label is in both modalities."""
        return max(0.0, 1.0 - self.image - self.text)


class StudySample(NamedTuple):
    """Items of the generator, before the fixed matrices."""

    image: NDArray[np.float64]
    """[N, 10]"""
    text: NDArray[np.float64]
    """[N, 10]"""
    labels: NDArray[np.int64]
    """[N]"""


def draw(fractions: LabelFractions, items: int, generator: np.random.Generator) -> StudySample:
    """Draw items of the generative model."""
    labels = generator.integers(CLASSES, size=items)
    kind = generator.choice(3, size=items, p=[fractions.both, fractions.image, fractions.text])
    noise = generator.normal(size=(2, items, NOISE_DIMENSIONS))
    image = noise[0] + np.where(kind != 2, labels, 0)[:, None]
    text = noise[1] + np.where(kind != 1, labels, 0)[:, None]
    return StudySample(image, text, labels)


def bayes_accuracy(sample: StudySample, fractions: LabelFractions) -> float:
    """Return the accuracy of the exact posterior; the fixed matrices lose nothing."""

    def likelihood(modality: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density ratio of a modality with each class to pure noise: [N, C]."""
        classes = np.arange(CLASSES, dtype=np.float64)
        ratio: NDArray[np.float64] = classes * modality.sum(1, keepdims=True)
        return ratio - NOISE_DIMENSIONS * classes**2 / 2

    image, text = likelihood(sample.image), likelihood(sample.text)
    with np.errstate(divide="ignore"):
        weights = np.log([fractions.both, fractions.image, fractions.text])
    posterior = np.logaddexp.reduce(
        [weights[0] + image + text, weights[1] + image, weights[2] + text]
    )
    return float(np.mean(posterior.argmax(1) == sample.labels))


class MLPBackbone(nn.Module):
    """Two perceptrons behind the Backbone protocol; both inputs travel in ``pixels`` [B, 2, P]."""

    kind: Literal["classifier", "vlm"] = "classifier"

    def __init__(
        self,
        seed: int,
        *,
        inputs: int = INPUTS,
        width: int = 100,
        classes: int = CLASSES,
        head: Literal["additive", "concat"] = "additive",
        multi_label: bool = False,
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        self.name, self.width = "mlp", width
        self.readout: Readout = "fused"
        self.classes = tuple(str(index) for index in range(classes))
        self.multi_label = multi_label
        self.recipe = recipe or Recipe(learning_rate=1e-3, weight_decay=1e-4, batch_size=125)
        hidden = classes if head == "additive" else width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoders = _twice(lambda: _encoder(inputs, width))
            self.embeddings = _twice(lambda: nn.Linear(width, width))
            self.heads = _twice(lambda: nn.Linear(width, classes))
            self.halves = _twice(lambda: nn.Linear(width, hidden, bias=False))
            self.bias = nn.Parameter(torch.randn(hidden) / 10)
            self.output = nn.Linear(width, classes) if head == "concat" else None

    @property
    def metered_modules(self) -> list[nn.Module]:
        """Return the modules with all matrix products."""
        groups = (self.encoders, self.embeddings, self.heads, self.halves)
        modules = [module for group in groups for module in group.values()]
        return modules if self.output is None else [*modules, self.output]

    def encode(self, batch: Batch) -> Latents:
        image, text = (self.encode_modality(batch, modality) for modality in MODALITIES)
        return Latents(image, text)

    def encode_modality(self, batch: Batch, modality: Modality) -> Tensor:
        values = batch.pixels[:, MODALITIES.index(modality)]
        latent: Tensor = self.embeddings[modality](self.encoders[modality](values))
        return latent

    def contribute(self, latents: Latents) -> Latents:
        return Latents(self.halves["image"](latents.image), self.halves["text"](latents.text))

    def fuse(self, parts: Latents) -> Tensor:
        total = parts.image + parts.text + self.bias
        return total if self.output is None else self.output(total.relu())

    def predict(self, batch: Batch) -> Tensor:
        return self.fuse(self.contribute(self.encode(batch)))

    def unimodal(self, latents: Latents) -> Latents:
        image, text = (self.unimodal_logits(latents.of(m), m) for m in MODALITIES)
        return Latents(image, text)

    def unimodal_logits(self, latent: Tensor, modality: Modality) -> Tensor:
        logits: Tensor = self.heads[modality](latent)
        return logits

    def blank(self, latents: Latents, modality: Modality, rows: Tensor | None = None) -> Latents:
        present = latents.of(modality)
        if rows is None:
            return latents.replace(modality, torch.zeros_like(present))
        return latents.replace(modality, present.masked_fill(rows[:, None], 0.0))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if not self.multi_label:
            return cross_entropy(logits, batch.targets, reduction="none")
        return binary_cross_entropy_with_logits(logits, batch.targets, reduction="none").mean(1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def modality_modules(self, modality: Modality) -> tuple[nn.Module, ...]:
        return self.encoders[modality], self.embeddings[modality]

    def embedding(self, modality: Modality) -> nn.Linear:
        layer = self.embeddings[modality]
        assert isinstance(layer, nn.Linear)
        return layer

    def set_prior(self, frequencies: NDArray[np.float64]) -> None:
        raise NotImplementedError("no method of the study answers with the prior")

    def collate(
        self, inputs: Sequence[Inputs], targets: Sequence[Sequence[int]] | None = None
    ) -> Batch:
        raise NotImplementedError("the study has vectors, not images and texts")

    def answer(self, inputs: Sequence[Inputs], choices: Sequence[str]) -> Tensor:
        raise NotImplementedError("the study scores tensors directly")


def _twice(build: Callable[[], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({modality: build() for modality in MODALITIES})


def _encoder(inputs: int, width: int) -> nn.Sequential:
    sizes = pairwise((inputs, width, width, width))
    return nn.Sequential(*(layer for size in sizes for layer in (nn.Linear(*size), nn.ReLU())))


def batch_of(values: Tensor, targets: Tensor) -> Batch:
    """Make a batch of both modalities' vectors [B, 2, P] and targets, with nothing missing."""
    rows = len(values)
    present = torch.ones(rows, dtype=torch.bool)
    empty = torch.zeros(rows, 0, dtype=torch.int64)
    return Batch(values, present, empty, empty, present, targets)


def train_data(values: Tensor, targets: Tensor, classes: int, multi_label: bool) -> TrainData:
    """Make training data of tensors [N, 2, P] and targets [N] or [N, C]."""
    if multi_label:
        indices = [tuple(np.flatnonzero(label).tolist()) for label in targets.tolist()]
    else:
        indices = [(int(label),) for label in targets.tolist()]
    examples = tuple(Example(str(row), None, None, labels) for row, labels in enumerate(indices))

    def gather(rows: Sequence[int]) -> Batch:
        return batch_of(values[list(rows)], targets[list(rows)])

    def turn(row: int) -> Turn:
        return Turn(Inputs(None, None), ", ".join(map(str, examples[row].labels)), ())

    return TrainData(examples, gather, turn, classes, multi_label)


class StudyWorld(NamedTuple):
    """Training data, test tensors and the Bayes classifier's score."""

    data: TrainData
    test: Batch
    bayes: float


def make_world(fractions: LabelFractions, seed: int) -> StudyWorld:
    """Sample matrices, training and test items; standardise by the training items."""
    generator = np.random.default_rng(seed_for("synthetic study", seed, fractions.image))
    matrices = generator.uniform(size=(2, NOISE_DIMENSIONS, INPUTS))
    train, test = (draw(fractions, items, generator) for items in (TRAIN_ITEMS, TEST_ITEMS))

    def lift(sample: StudySample) -> NDArray[np.float64]:
        return np.stack([sample.image @ matrices[0], sample.text @ matrices[1]], axis=1)

    lifted = lift(train)
    mean, spread = lifted.mean(axis=0), lifted.std(axis=0)

    def tensors(values: NDArray[np.float64]) -> Tensor:
        return torch.tensor((values - mean) / spread, dtype=torch.float32)

    data = train_data(tensors(lifted), torch.tensor(train.labels), CLASSES, multi_label=False)
    return StudyWorld(
        data,
        batch_of(tensors(lift(test)), torch.tensor(test.labels)),
        bayes_accuracy(test, fractions),
    )


def fit_method(
    backbone: MLPBackbone,
    data: TrainData,
    name: str,
    options: Mapping[str, Option],
    seed: int,
    flops: float,
) -> Meter:
    """Train a method of the package on a FLOP budget; return the meter with costs and log."""
    method = methods.load(name)
    meter = Meter(Budget("study", flops), "cpu")
    for module in backbone.metered_modules:
        meter.watch(module)
    with meter, suppress(BudgetSpent):
        method.train(backbone, data, meter, methods.configure(method, options), seed)
    return meter


@torch.no_grad()
def score(backbone: MLPBackbone, test: Batch) -> tuple[float, float]:
    """Return test accuracy and negative log likelihood."""
    logits = backbone.predict(test)
    accuracy = (logits.argmax(1) == test.targets).double().mean()
    return float(accuracy), float(backbone.loss(logits, test).double().mean())


def run(image_only: float, seed: int) -> list[dict[str, float | str]]:
    """Return one row per entry, all on the same data, initial weights and batch order."""
    world = make_world(LabelFractions(image_only, TEXT_ONLY), seed)
    rows: list[dict[str, float | str]] = []
    for label, (name, options) in ENTRIES.items():
        backbone = MLPBackbone(seed_for("synthetic study", seed, "weights"))
        meter = fit_method(backbone, world.data, name, options, seed, FLOPS)
        accuracy, nll = score(backbone, world.test)
        rows.append(
            {
                "entry": label,
                "image_only": image_only,
                "shared": round(1.0 - TEXT_ONLY - image_only, 6),
                "seed": seed,
                "accuracy": accuracy,
                "bayes": world.bayes,
                "gap": world.bayes - accuracy,
                "nll": nll,
                "steps": meter.steps,
                "flops": meter.spent,
            }
        )
    return rows


def plot(frame: "pd.DataFrame", path: Path) -> None:
    """Plot the mean gap to Bayes over seeds, one line per entry, bars of one standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for entry, group in frame.groupby("entry", sort=False):
        gaps = 100 * group.groupby("image_only")["gap"].agg(["mean", "sem"])
        axes.errorbar(gaps.index, gaps["mean"], yerr=gaps["sem"], label=entry, capsize=2)
    axes.set_xlabel(f"fraction of items with the label in the image only (text only: {TEXT_ONLY})")
    axes.set_ylabel("accuracy below Bayes, points")
    axes.set_title(f"Synthetic study, {frame['seed'].nunique()} seeds, {FLOPS:.0e} FLOPs a run")
    axes.legend()
    figure.savefig(path, dpi=120)


def main(folder: Path) -> None:
    """Run everything; write the table and the plot, print means and paired differences."""
    import pandas as pd

    torch.set_num_threads(1)
    rows = [row for image_only in IMAGE_ONLY for seed in SEEDS for row in run(image_only, seed)]
    frame = pd.DataFrame(rows)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "synthetic_study.csv", index=False)
    plot(frame, folder / "synthetic_study.png")
    gaps = 100 * frame.pivot_table(index=["image_only", "seed"], columns="entry", values="gap")
    print("Gap to Bayes in points, mean over seeds")
    print(gaps.groupby("image_only").mean().T.round(2).to_string())
    print("Gap minus that of joint training, paired by seed: mean and standard error")
    paired = gaps.sub(gaps["joint"], axis=0).groupby("image_only").agg(["mean", "sem"])
    print(paired.T.unstack().round(2).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
