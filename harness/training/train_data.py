"""Training data as a method sees it: shuffled batches by named seed, and class counts."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import pad

from steelyard import tasks
from steelyard.harness.budget.flops import measure, total_counter
from steelyard.harness.core.errors import ItemError, UserError
from steelyard.harness.core.examples import Corpus, Example, Turn
from steelyard.harness.core.progress import no_progress
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.data.images import store_of
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.classifier import Classifier
from steelyard.harness.models.encoders import Encoder
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_prompts import EncodedItem, PromptEncoder
from steelyard.harness.training.item_store import ItemStore

IN_MEMORY_BYTES = 1 << 30  # training tensors larger than this are prepared batch by batch
CHUNK = 64
AHEAD = 2  # batches that are decoded and processed before their turn
LENGTH_BUCKET = 8  # token lengths are cut to a multiple of this, so that few shapes occur


@dataclass(frozen=True, slots=True)
class TrainData:
    """Training split of a data set. A method never sees validation or test items."""

    examples: tuple[Example, ...]
    gather: Callable[[Sequence[int]], Batch]
    """Returns the model-ready batch of the examples at these positions."""
    turn: Callable[[int], Turn]
    """Returns the example at this position as question and answer, image decoded."""
    classes: int
    multi_label: bool
    expect: Callable[[Sequence[int]], None] = no_progress
    """Begins to decode and process the examples at these positions."""

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, size: int, seed: int, stage: str, first: int = 0) -> Iterator[Batch]:
        """Yield batches without end, in the order of ``positions``."""
        return map(self.gather, self.positions(size, seed, stage, first))

    def positions(self, size: int, seed: int, stage: str, first: int = 0) -> Iterator[list[int]]:
        """Yield the positions of each batch without end; seed and stage decide their order.

        They are reshuffled each epoch. A batch is at most as long as the data. ``first`` is the
        number of the batch to begin with.
        """
        upcoming: deque[list[int]] = deque()
        for batch in islice(self._order(size, seed, stage), first, None):
            self.expect(batch)
            upcoming.append(batch)
            if len(upcoming) > AHEAD:
                yield upcoming.popleft()

    def _order(self, size: int, seed: int, stage: str) -> Iterator[list[int]]:
        generator = np.random.default_rng(seed_for(seed, "batches", stage))
        size = min(size, len(self.examples))
        while True:
            order = generator.permutation(len(self.examples))
            # An incomplete last batch is dropped: all steps cost the same.
            for start in range(0, len(order) - size + 1, size):
                yield order[start : start + size].tolist()

    def class_counts(self) -> NDArray[np.int64]:
        """Count the training items of each class: [C]."""
        flat = [label for example in self.examples for label in example.labels]
        return np.bincount(np.array(flat, dtype=np.int64), minlength=self.classes)


def train_data(backbone: Classifier | Vlm, task: str, corpus: Corpus) -> TrainData:
    """Prepare the training split of a task's data for this backbone; it may be empty."""
    images = store_of(corpus.root, "train")

    def turn(example: Example) -> Turn:
        image = images.get(example.image)[0] if example.image else None
        return tasks.training_turn(task, corpus, example, image)

    examples = corpus.splits.get("train", ())
    if isinstance(backbone, Classifier):
        return classifier_data(backbone, examples, turn)
    return vlm_data(backbone, examples, turn)


def classifier_data(
    backbone: Classifier, examples: tuple[Example, ...], turn: Callable[[Example], Turn]
) -> TrainData:
    """Prepare data for a classifier: tensors in memory if they fit, else collated on demand."""

    def collate(positions: Sequence[int]) -> Batch:
        batch = [examples[position] for position in positions]
        inputs = [turn(example).inputs for example in batch]
        return backbone.collate(inputs, [example.labels for example in batch])

    data = TrainData(
        examples,
        collate,
        lambda position: turn(examples[position]),
        len(backbone.classes),
        backbone.multi_label,
    )
    # The first chunk shows how large the full split is.
    first = collate(range(min(CHUNK, len(examples))))
    if first.pixels[0].nbytes * len(examples) > IN_MEMORY_BYTES:
        return data
    starts = range(CHUNK, len(examples), CHUNK)
    joined = _join([first, *(collate(range(s, min(s + CHUNK, len(examples)))) for s in starts)])
    return replace(data, gather=lambda positions: _select(joined, positions))


def feature_cost(backbone: Classifier, examples: Sequence[Example]) -> float:
    """Return the FLOPs of encoding every training item once with frozen encoders.

    Charged to each run in full, also when the features were still in memory from another run.
    """
    costs: dict[tuple[str, int], float] = {}  # of one item, by modality and size

    def cost(encoder: Encoder, item: Image.Image | str) -> float:
        inputs, _ = encoder.prepare([item])
        # FLOPs depend on the size of an input, not on its values.
        key = (encoder.modality, inputs[0].numel())
        if key not in costs:
            costs[key] = measure(encoder, [t.to(backbone.device) for t in inputs], {}).forward
        return costs[key]

    images = sum(example.image is not None for example in examples)
    texts = [example.text for example in examples if example.text]
    # Processors give all images one size: one image is enough.
    image_flops = images * cost(backbone.image_encoder, Image.new("RGB", (64, 64)))
    return image_flops + sum(cost(backbone.text_encoder, text) for text in texts)


def step_cost(backbone: Classifier) -> float:
    """Return the FLOPs of one plain step on features of frozen encoders."""
    size, classes = backbone.recipe.batch_size, len(backbone.classes)
    widths = (backbone.image_encoder.width, backbone.text_encoder.width)
    pixels, tokens = (torch.zeros(size, width) for width in widths)
    present = torch.ones(size, dtype=torch.bool)
    targets = (
        torch.zeros(size, classes) if backbone.multi_label else torch.zeros(size, dtype=torch.int64)
    )
    batch = Batch(pixels, present, tokens, torch.empty(size, 0), present, targets)
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    with total_counter() as counter:
        batch = batch.map(lambda tensor: tensor.to(backbone.device))
        loss = backbone.loss(backbone.predict(batch), batch).mean()
        torch.autograd.grad(loss, trained, allow_unused=True)
    return float(counter.get_total_flops())


def _join(chunks: Sequence[Batch]) -> Batch:
    """Concatenate batches, their token columns padded to the longest."""
    length = max(chunk.mask.shape[1] for chunk in chunks)
    padded = []
    for chunk in chunks:
        widen = (0, length - chunk.mask.shape[1])
        # Frozen encoders leave features [B, width] in place of tokens, and a mask of no column.
        tokens = pad(chunk.tokens, widen) if length else chunk.tokens
        padded.append(replace(chunk, tokens=tokens, mask=pad(chunk.mask, widen)))
    names = [field.name for field in fields(Batch) if field.name != "extra"]
    columns: dict[str, Any] = {n: torch.cat([getattr(b, n) for b in padded]) for n in names}
    return Batch(**columns)


def _select(batch: Batch, rows: Sequence[int]) -> Batch:
    """Select rows of a batch, token columns cut to the longest text among them."""
    batch = batch.map(lambda tensor: tensor[rows])
    if not batch.mask.shape[1]:
        return batch
    longest = int(batch.mask.sum(1).max())
    # One bucket at least: a batch without texts still has a token column.
    length = -(-max(longest, 1) // LENGTH_BUCKET) * LENGTH_BUCKET
    return replace(batch, tokens=batch.tokens[:, :length], mask=batch.mask[:, :length])


def vlm_data(
    backbone: Vlm, examples: tuple[Example, ...], turn: Callable[[Example], Turn]
) -> TrainData:
    """Prepare data for a vlm: processed once if it fits in memory, else by an ``ItemStore``."""
    assemble, device = backbone.prompts.assemble, backbone.device

    def encode(prompts: PromptEncoder, positions: Sequence[int]) -> list[EncodedItem]:
        turns = [turn(examples[position]) for position in positions]
        inputs, answers = [t.inputs for t in turns], [t.answer for t in turns]
        try:
            return prompts.encode_items(inputs, answers)
        except ItemError as error:
            example = examples[positions[error.row]]
            image = f" ({example.image})" if example.image else ""
            raise UserError(f"Item {example.id}{image}: {error}") from error

    # A set that only scores has no training items.
    items = encode(backbone.prompts, range(min(CHUNK, len(examples)))) if examples else []
    size = sum(t.nbytes for item in items for t in (item.picture or {}).values())
    get: Callable[[Sequence[int]], list[EncodedItem]]
    expect: Callable[[Sequence[int]], None] = no_progress
    if items and size / len(items) * len(examples) > IN_MEMORY_BYTES:
        config = backbone.config
        store = ItemStore(backbone, encode, config.workers, config.pixel_cache_gb * 1e9)
        get, expect = store.get, store.expect
    else:
        for start in range(CHUNK, len(examples), CHUNK):
            items += encode(backbone.prompts, range(start, min(start + CHUNK, len(examples))))
        get = lambda rows: [items[row] for row in rows]  # noqa: E731
    return TrainData(
        examples,
        lambda rows: assemble(get(rows), device),
        lambda position: turn(examples[position]),
        0,
        False,
        expect,
    )
