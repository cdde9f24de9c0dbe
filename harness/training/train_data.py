"""Training data as a method sees it: shuffled batches by named seed, and class counts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steelyard import tasks
from steelyard.harness.core.examples import Corpus, Example, Turn
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.classifier import Classifier
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_prompts import EncodedItem
from steelyard.tasks._shared.images import store_of

IN_MEMORY_BYTES = 1 << 30  # training tensors larger than this are prepared batch by batch
CHUNK = 64
LENGTH_BUCKET = 8  # token lengths are cut to a multiple of this, so that few shapes occur


@dataclass(frozen=True, slots=True)
class TrainData:
    """The training split. A method never sees validation or test items."""

    examples: tuple[Example, ...]
    gather: Callable[[Sequence[int]], Batch]
    """Model-ready batch of the examples at these positions."""
    turn: Callable[[int], Turn]
    """The example at this position as a question and its answer, image decoded."""
    classes: int
    multi_label: bool

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, size: int, seed: int, stage: str) -> Iterator[Batch]:
        """Endless batches, reshuffled each epoch; equal seed and stage give the equal order."""
        generator = np.random.default_rng(seed_for(seed, "batches", stage))
        size = min(size, len(self.examples))
        while True:
            order = generator.permutation(len(self.examples))
            for start in range(0, len(order) - size + 1, size):
                yield self.gather(order[start : start + size].tolist())

    def class_counts(self) -> NDArray[np.int64]:
        """Training items that carry each class: [C]."""
        flat = [label for example in self.examples for label in example.labels]
        return np.bincount(np.array(flat, dtype=np.int64), minlength=self.classes)


def _classifier_data(
    backbone: Classifier, examples: tuple[Example, ...], turn: Callable[[Example], Turn]
) -> TrainData:
    """Training data for a classifier: held as tensors when they fit, else collated on demand."""

    def collate(positions: Sequence[int]) -> Batch:
        chosen = [examples[position] for position in positions]
        inputs = [turn(example).inputs for example in chosen]
        return backbone.collate(inputs, [example.labels for example in chosen])

    def at(position: int) -> Turn:
        return turn(examples[position])

    first = collate(range(min(CHUNK, len(examples))))
    size = first.pixels[0].nbytes * len(examples)
    if size > IN_MEMORY_BYTES:
        return TrainData(examples, collate, at, len(backbone.classes), backbone.multi_label)
    rest = range(CHUNK, len(examples), CHUNK)
    chunks = [first, *(collate(range(s, min(s + CHUNK, len(examples)))) for s in rest)]
    whole = _joined(chunks)

    def rows(positions: Sequence[int]) -> Batch:
        return _rows(whole, positions)

    return TrainData(examples, rows, at, len(backbone.classes), backbone.multi_label)


def _joined(chunks: Sequence[Batch]) -> Batch:
    from torch.nn.functional import pad

    length = max(chunk.mask.shape[1] for chunk in chunks)
    widened = [
        replace(
            chunk,
            tokens=pad(chunk.tokens, (0, length - chunk.mask.shape[1])) if length else chunk.tokens,
            mask=pad(chunk.mask, (0, length - chunk.mask.shape[1])),
        )
        for chunk in chunks
    ]
    return Batch(
        pixels=torch.cat([chunk.pixels for chunk in widened]),
        has_image=torch.cat([chunk.has_image for chunk in widened]),
        tokens=torch.cat([chunk.tokens for chunk in widened]),
        mask=torch.cat([chunk.mask for chunk in widened]),
        has_text=torch.cat([chunk.has_text for chunk in widened]),
        targets=torch.cat([chunk.targets for chunk in widened]),
    )


def _rows(whole: Batch, rows: Sequence[int]) -> Batch:
    """The rows of a batch, token columns cut to the longest text among them."""
    mask = whole.mask[rows]
    tokens = whole.tokens[rows]
    if mask.shape[1]:
        longest = int(mask.sum(1).max())
        length = min(mask.shape[1], -(-max(longest, 1) // LENGTH_BUCKET) * LENGTH_BUCKET)
        mask, tokens = mask[:, :length], tokens[:, :length]
    return Batch(
        pixels=whole.pixels[rows],
        has_image=whole.has_image[rows],
        tokens=tokens,
        mask=mask,
        has_text=whole.has_text[rows],
        targets=whole.targets[rows],
    )


def vlm_data(
    backbone: Vlm, examples: tuple[Example, ...], turn: Callable[[Example], Turn]
) -> TrainData:
    """Training data of a vlm: processed once where that fits in memory, else on demand."""

    def at(position: int) -> Turn:
        return turn(examples[position])

    def encode_items(positions: Sequence[int]) -> list[EncodedItem]:
        turns = [at(position) for position in positions]
        return backbone.prompts.encode_items([t.inputs for t in turns], [t.answer for t in turns])

    kept = pieces(range(min(CHUNK, len(examples)))) if examples else []  # a set for scoring alone
    if kept and sum(map(_bytes, kept)) / len(kept) * len(examples) > IN_MEMORY_BYTES:
        return TrainData(
            examples, lambda rows: backbone.prompts.assemble(pieces(rows), backbone.device), at,
            0, False,
        )  # fmt: skip
    for start in range(CHUNK, len(examples), CHUNK):
        kept += pieces(range(start, min(start + CHUNK, len(examples))))

    def gather(positions: Sequence[int]) -> Batch:
        return backbone.prompts.assemble([kept[row] for row in positions], backbone.device)

    return TrainData(examples, gather, at, 0, False)


def _bytes(piece: EncodedItem) -> int:
    return sum(tensor.nbytes for tensor in (piece.picture or {}).values())


def train_data(backbone: Classifier | Vlm, task: str, corpus: Corpus) -> TrainData:
    """The training split of a task's data, ready for this backbone; empty where there is none."""
    images = store_of(corpus.root, "train")

    def turn(example: Example) -> Turn:
        image = images.get(example.image)[0] if example.image else None
        return tasks.turn(task, corpus, example, image)

    examples = corpus.splits.get("train", ())
    if isinstance(backbone, Classifier):
        return _classifier_data(backbone, examples, turn)
    return vlm_data(backbone, examples, turn)
