"""White-box attacks on the image: one PGD, to mine training pairs and to score models under it.

``image-adversarial`` (``tasks.corruptions``) is made here, by the model that is scored: its image
is moved, within a few grey levels, to where the right answer is least likely. What that costs is
counted on a meter of its own and stands beside the score; no run's ledger pays for it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from steelyard import tasks
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.pgd import ascend, frozen_weights, noisy_start
from steelyard.harness.records.budget import Budget
from steelyard.tasks.corruptions import ATTACK_LEVELS

if TYPE_CHECKING:
    from torch import nn

    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

STEPS = 10
"""Of the attack on what is scored."""
REACH = 2.5
"""All its steps together over the largest change: enough to cross from any start to the far side,
which is 2 away, and to turn back a little."""


@dataclass(frozen=True, slots=True)
class WhiteBox:
    """The attack of one severity on everything that is scored under one variant."""

    backbone: Backbone
    task: str
    severity: int
    meter: Meter

    def pixels(self, inputs: Sequence[Inputs], docs: Sequence[Mapping[str, Any]]) -> Tensor:
        """What the model is to see in place of a batch's images, in its processor's units.

        Each item starts from noise that its id seeds. The rest is arithmetic on whole batches, so
        two batch sizes agree up to rounding.
        """
        batch = self._batch(inputs, docs)
        if not bool(batch.has_image.any()):
            return batch.pixels
        epsilon = ATTACK_LEVELS[self.severity - 1] / 255
        noise = self._noise(batch, [str(doc["id"]) for doc in docs])
        start = noisy_start(self.backbone, batch, epsilon, noise)
        step, loss = REACH * epsilon / STEPS, self.backbone.scored_loss
        with frozen_weights(self.backbone, training=False), self.meter:
            return ascend(self.backbone, batch, start, epsilon, step, STEPS, loss)

    @property
    def cost(self) -> dict[str, float]:
        """What was done so far, for the record."""
        ledger = self.meter.ledger("finished")
        return {
            "flops": ledger.total_flops,
            "seconds": ledger.total_seconds,
            "epsilon": ATTACK_LEVELS[self.severity - 1] / 255,
            "steps": STEPS,
        }

    def _batch(self, inputs: Sequence[Inputs], docs: Sequence[Mapping[str, Any]]) -> Batch:
        """The items with their right answers."""
        if self.backbone.kind == "classifier":
            classifier = cast("Classifier", self.backbone)
            return classifier.collate(inputs, [doc["labels"] for doc in docs], raw=True)
        right = tasks.module(self.task).doc_to_target
        return cast("Vlm", self.backbone).collate(inputs, [right(doc) for doc in docs])

    def _noise(self, batch: Batch, ids: Sequence[str]) -> Tensor:
        """Uniform in [-1, 1], of the pixels' shape; each image's part by its item's id alone."""
        grids = batch.extra.get("image_grid_thw")
        if self.backbone.kind == "vlm":  # a row an image and not a row an item
            ids = [id_ for id_, here in zip(ids, batch.has_image.tolist(), strict=True) if here]
        rows = [1] * len(ids) if grids is None else grids.prod(1).tolist()
        parts = []
        for id_, count in zip(ids, rows, strict=True):
            seed = seed_for("corruption", "image-adversarial", self.severity, id_)
            shape = (count, *batch.pixels.shape[1:])
            parts.append(np.random.default_rng(seed).random(shape, dtype=np.float32))
        return (torch.from_numpy(np.concatenate(parts)) * 2 - 1).to(batch.pixels)


@contextmanager
def white_box(backbone: Backbone, variant: tasks.Variant) -> Iterator[WhiteBox | None]:
    """The attack that a variant asks for, or None; inside, the passes it makes are counted."""
    if variant.attack is None:
        yield None
        return
    device = str(next(iter(backbone.parameters())).device)
    meter = Meter(Budget("attack", math.inf), device)
    handles = [handle for module in _passed(backbone) for handle in meter.watch(module)]
    try:
        yield WhiteBox(backbone, variant.task, variant.attack, meter)
    finally:
        for handle in handles:
            handle.remove()


def _passed(backbone: Backbone) -> "list[nn.Module]":
    """The modules an attack passes through; a frozen encoder is no part of training's meter."""
    if backbone.kind == "vlm":
        return list(cast("Vlm", backbone).metered_modules)
    classifier = cast("Classifier", backbone)
    return list(dict.fromkeys((*classifier.metered_modules, classifier.image_encoder)))
