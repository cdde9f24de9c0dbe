"""Training data as a method sees it: shuffled batches by named seed, and class counts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.backbone import Batch
from steelyard.harness.data import Example
from steelyard.harness.seeds import seed_for


@dataclass(frozen=True, slots=True)
class TrainData:
    """The training split. A method never sees validation or test items."""

    examples: tuple[Example, ...]
    gather: Callable[[Sequence[int]], Batch]
    """Model-ready batch of the examples at these positions."""
    classes: int
    multi_label: bool
    seed: int

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, size: int, *names: object) -> Iterator[Batch]:
        """Endless batches, reshuffled each epoch; equal names give the equal order."""
        generator = np.random.default_rng(seed_for(self.seed, "batches", *names))
        size = min(size, len(self.examples))
        while True:
            order = generator.permutation(len(self.examples))
            for start in range(0, len(order) - size + 1, size):
                yield self.gather(order[start : start + size].tolist())

    def class_counts(self) -> NDArray[np.int64]:
        """Training items that carry each class: [C]."""
        flat = [label for example in self.examples for label in example.labels]
        return np.bincount(flat, minlength=self.classes)
