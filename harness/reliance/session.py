"""Profile one model on one task: cached answers, a progress bar and the stored table."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard import tasks
from steelyard.harness.core import folders
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import TemporaryFolder, digest, file_hash, write_items
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.reliance.answer_cache import AnswerCache
from steelyard.harness.reliance.ask import ProfileSettings, ask, count_queries

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

ANSWERS_FOLDER = "asked"
"""Folder beside a profile with all answers and the tables made of them."""
PATHS = ("source", "adapter", "image", "text")
"""Options of a backbone that say where its files are."""


def collect_answers(
    backbone: "Classifier | Vlm",
    task: str,
    corpus: Corpus,
    out: Path,
    settings: ProfileSettings,
    *,
    label: str,
) -> "DataFrame":
    """Return the table of ``ask`` for a task, written below ``out``; cached answers are reused.

    ``label`` is the progress bar's text.
    """
    # The cache belongs to these weights, this data and these scoring rules.
    rules = (file_hash(path) for path in tasks.files(task))
    parts = (fingerprint(backbone), corpus.revision, corpus.content, *rules)
    name = f"{task}-{digest(part.encode() for part in parts)}.jsonl"
    cache = AnswerCache(out / ANSWERS_FOLDER / name)
    total = count_queries(task, corpus, settings, backbone.kind)
    with progress_bar() as bar:
        line = bar.add_task(label, total=total)
        rows = ask(backbone, task, corpus, cache, settings, lambda count: bar.advance(line, count))
    write_items(rows, out / ANSWERS_FOLDER / f"items-{task}.parquet")
    if not console.is_terminal:
        console.print(f"{label}: {total} questions")
    return rows


def fingerprint(backbone: "Classifier | Vlm") -> str:
    """Hash what decides a model's answers: all weights, options, readout, words and template."""
    return digest(_contents(backbone))


def _contents(backbone: "Classifier | Vlm") -> Iterator[bytes]:
    import torch

    from steelyard.harness.models.classifier import Classifier

    # Equal files may be in several places.
    options = {k: v for k, v in asdict(backbone.config).items() if k not in PATHS}
    if isinstance(backbone, Classifier):
        processors = [backbone.image_encoder.processor, backbone.text_encoder.processor]
        yield f"{options}{backbone.classes}{backbone.readout}".encode()
    else:
        processors = [backbone.processor]
        yield f"{options}{backbone.base.generation_config}".encode()
    with TemporaryFolder() as folder:
        for processor in processors:
            processor.save_pretrained(folder)
            for path in folders.listing(Path(folder)):
                yield path.read_bytes()
    for name, tensor in backbone.state_dict().items():
        yield f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode()
        yield tensor.detach().flatten().contiguous().cpu().view(torch.uint8).numpy().tobytes()
