"""Profile one model on one task: cached answers, a progress bar and the stored table."""

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard import tasks
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import digest, file_hash, write_items
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.reliance.answer_cache import AnswerCache
from steelyard.harness.reliance.ask import ProfileSettings, ask, count_queries

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

ANSWERS_FOLDER = "asked"
"""Folder beside a profile with all answers and the tables made of them."""
SAMPLE = 64
"""Number of values per tensor that identify weights: training changes nearly all values."""


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
    parts = (fingerprint(backbone), corpus.revision, *rules)
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
    """Hash names, shapes and a sample of the values of all weights, and the readout."""
    from steelyard.harness.models.classifier import Classifier

    parts = [backbone.readout.encode()] if isinstance(backbone, Classifier) else []
    for name, tensor in backbone.state_dict().items():
        flat = tensor.detach().flatten()
        # Spread over the tensor: some rows, such as embeddings of unused words, never change.
        sample = flat[:: max(1, len(flat) // SAMPLE)].float().cpu()
        parts += [f"{name}{tuple(tensor.shape)}".encode(), sample.numpy().tobytes()]
    return digest(parts)
