"""session."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard import tasks
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import digest, file_hash, write_items
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.reliance import ask
from steelyard.harness.reliance.answer_cache import Memory

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm


ASKED = "asked"
"""Folder beside a profile that holds all answers and the rows made of them."""


SAMPLE = 64
"""Values of each tensor that tell weights apart: training moves nearly all of them."""


@dataclass(frozen=True, slots=True)
class How:
    """How a model is asked."""

    split: str = "test"
    limit: int | None = 500
    draws: int = ask.DRAWS


def answers(
    backbone: "Classifier | Vlm", task: str, corpus: Corpus, out: Path, how: How, *, where: str
) -> "DataFrame":
    """A task's answers, with progress; those given before are taken from ``out``."""
    memory = Memory(memory_path(backbone, task, corpus, out))
    total = ask.questions(task, corpus, how.split, how.limit, how.draws, backbone.kind)
    with progress_bar() as bar:
        line = bar.add_task(where, total=total)
        rows = ask.ask(
            backbone,
            task,
            corpus,
            memory,
            split=how.split,
            limit=how.limit,
            draws=how.draws,
            tell=lambda more: bar.advance(line, more),
        )
    write_items(rows, out / ASKED / f"items-{task}.parquet")
    if not console.is_terminal:
        console.print(f"{where}: {total} questions")
    return rows


def memory_path(backbone: "Classifier | Vlm", task: str, corpus: Corpus, out: Path) -> Path:
    """File of the answers of these weights about this data."""
    rules = (file_hash(path) for path in tasks.files(task))
    parts = (fingerprint(backbone), corpus.revision, *rules)
    return out / ASKED / f"{task}-{digest(part.encode() for part in parts)}.jsonl"


def fingerprint(backbone: "Classifier | Vlm") -> str:
    """Hash of the names, shapes and a sample of the values of all weights, and of the readout."""
    from steelyard.harness.models.classifier import Classifier

    parts = [backbone.readout.encode()] if isinstance(backbone, Classifier) else []
    for name, tensor in backbone.state_dict().items():
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLE)].float().cpu()
        parts += [f"{name}{tuple(tensor.shape)}".encode(), sample.numpy().tobytes()]
    return digest(parts)
