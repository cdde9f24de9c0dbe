"""Backbones that answer by a rule and the items they are asked, for tests of evaluation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.harness.evaluation.evaluate import evaluate

CLASSES = {
    "food101": ("apple_pie", "bibimbap", "churros", "donuts"),
    "hateful_memes": ("not_hateful", "hateful"),
    "mm_imdb": ("Drama", "Comedy", "War"),
}
Answer = Callable[[Inputs], list[float]]


class Stub(torch.nn.Module):
    """A backbone that answers by a rule; a module, since lmms-eval deletes those."""

    def __init__(self, corpus: Corpus, rule: Answer) -> None:
        super().__init__()
        self.name = "stub"
        self.classes = corpus.classes
        self.rule = rule
        self.batches: list[int] = []

    def answer(self, inputs: Sequence[Inputs], choices: Sequence[str]) -> torch.Tensor:
        self.batches.append(len(inputs))
        return torch.tensor([self.rule(item) for item in inputs])

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        return [self.classes[int(row.argmax())] for row in self.answer(inputs, self.classes)]

    def count_tokens(self, text: str) -> int:
        return 1


def corpus_at(root: Path, task: str = "food101", size: int = 20) -> Corpus:
    """Items whose text and red channel both carry the first label."""
    root.mkdir(parents=True, exist_ok=True)
    classes = CLASSES[task]
    examples = []
    for number in range(size):
        label = number % len(classes)
        path = root / f"{number}.png"
        Image.new("RGB", (6, 6), (label * 40, number, 0)).save(path)
        labels = (label, 2) if task == "mm_imdb" and label == 0 else (label,)
        examples.append(Example(f"{size - number:03}", path, f"{label} words {number}", labels))
    splits = {"train": (), "val": (), "test": tuple(examples)}
    return Corpus(task, root, classes, task == "mm_imdb", splits, "r1")


def peaked(label: int, count: int) -> list[float]:
    return [0.97 if index == label else 0.03 / (count - 1) for index in range(count)]


def reader(corpus: Corpus) -> Stub:
    """Knows the answer from the text; without text it takes the last class."""
    count = len(corpus.classes)

    def rule(item: Inputs) -> list[float]:
        return peaked(int((item.evidence or str(count - 1)).split()[0]), count)

    return Stub(corpus, rule)


def viewer(corpus: Corpus) -> Stub:
    """Knows the answer from the image; without image it takes the last class."""
    count = len(corpus.classes)

    def rule(item: Inputs) -> list[float]:
        seen = item.image.getpixel((0, 0))[0] // 40 if item.image else count
        return peaked(min(seen, count - 1), count)

    return Stub(corpus, rule)


def run(stub: Stub, corpus: Corpus, variant: str = "", **options: Any) -> Any:
    return evaluate(stub, tasks.parse_variant(corpus.name + variant), corpus, **options)
