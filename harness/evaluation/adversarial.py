"""White-box attack on the image of a scored item, by the scored model itself.

``image-adversarial`` (``tasks.corruptions``) is built here: the image is changed by a few grey
levels to where the correct answer is least probable. A separate meter counts the cost, which is
stored beside the score and charged to no run.
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
from steelyard.harness.core import ranks
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.pgd import ascend, frozen_weights, noisy_start
from steelyard.harness.records.budget import Budget
from steelyard.harness.records.record import merged
from steelyard.tasks.corruptions import ATTACK_LEVELS

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

STEPS = 10
REACH = 2.5
"""Sum of all steps, in units of epsilon: enough to cross from any start to the other end of the
range, which is 2 away, and to return a little."""


@dataclass(frozen=True, slots=True)
class WhiteBox:
    """Attack of one severity on all items that are scored under one variant."""

    backbone: Backbone
    task: str
    severity: int
    meter: Meter

    @property
    def epsilon(self) -> float:
        """Largest change, as a fraction of an image's range."""
        return ATTACK_LEVELS[self.severity - 1] / 255

    def pixels(self, inputs: Sequence[Inputs], docs: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return pixels that replace those of a batch's images, in the processor's units.

        Each item starts from noise that its id seeds. The rest is arithmetic on full batches, so
        two batch sizes agree up to rounding.
        """
        batch = self._batch(inputs, docs)
        if not bool(batch.has_image.any()):
            return batch.pixels
        noise = self._noise(batch, [str(doc["id"]) for doc in docs])
        start = noisy_start(self.backbone, batch, self.epsilon, noise)
        step, loss = REACH * self.epsilon / STEPS, self.backbone.scored_loss
        with frozen_weights(self.backbone, training=False), self.meter:
            return ascend(self.backbone, batch, start, self.epsilon, step, STEPS, loss)

    @property
    def cost(self) -> dict[str, float]:
        """Costs so far of all ranks, for the record."""
        ledger = merged(ranks.gather(self.meter.ledger("finished")))
        return {
            "flops": ledger.total_flops,
            "seconds": ledger.total_seconds,
            "epsilon": self.epsilon,
            "steps": STEPS,
        }

    def _batch(self, inputs: Sequence[Inputs], docs: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate the items with their correct answers."""
        if self.backbone.kind == "classifier":
            classifier = cast("Classifier", self.backbone)
            return classifier.collate(inputs, [doc["labels"] for doc in docs], raw=True)
        targets = [tasks.target(self.task, doc) for doc in docs]
        return cast("Vlm", self.backbone).collate(inputs, targets)

    def _noise(self, batch: Batch, ids: Sequence[str]) -> Tensor:
        """Draw uniform noise in [-1, 1] like the pixels; an image's part depends on its id only."""
        grids = batch.extra.get("image_grid_thw")
        if self.backbone.kind == "vlm":  # one row per image and not per item
            has_image = batch.has_image.tolist()
            ids = [id_ for id_, present in zip(ids, has_image, strict=True) if present]
        # Qwen-VL has a row per patch, others one per image.
        rows = [1] * len(ids) if grids is None else grids.prod(1).tolist()
        parts = []
        for id_, count in zip(ids, rows, strict=True):
            # By id, so that an item's noise does not depend on its batch.
            seed = seed_for("corruption", "image-adversarial", self.severity, id_)
            shape = (count, *batch.pixels.shape[1:])
            parts.append(np.random.default_rng(seed).random(shape, dtype=np.float32))
        return (torch.from_numpy(np.concatenate(parts)) * 2 - 1).to(batch.pixels)


@contextmanager
def white_box(backbone: Backbone, variant: tasks.Variant) -> Iterator[WhiteBox | None]:
    """Yield a variant's attack, or None; its passes are counted inside."""
    if variant.attack is None:
        yield None
        return
    modules = list(cast("Classifier | Vlm", backbone).metered_modules)
    if backbone.kind == "classifier":
        # Training's meter leaves out a frozen encoder, but the attack passes through it.
        modules = list(dict.fromkeys((*modules, cast("Classifier", backbone).image_encoder)))
    device = str(next(iter(backbone.parameters())).device)
    # Without a limit: it only counts.
    meter = Meter(Budget("attack", math.inf), device)
    handles = [handle for module in modules for handle in meter.watch(module)]
    try:
        yield WhiteBox(backbone, variant.task, variant.attack, meter)
    finally:
        for handle in handles:
            handle.remove()
