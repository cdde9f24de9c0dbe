"""AMBER: objects a caption invents, and yes-no questions of existence, attributes and relations.

Both halves of the benchmark on the same pictures, with the score that joins them. Either half is a
task of its own, ``amber_generative`` and ``amber_discriminative``: it needs only its own queries.
"""

from collections.abc import Sequence
from pathlib import Path

from steelyard.harness.core.examples import Corpus
from steelyard.tasks import metrics
from steelyard.tasks._shared import amber_files
from steelyard.tasks._shared.amber_files import doc_to_target, doc_to_text

__all__ = ["doc_to_target", "doc_to_text", "load", "process_results"]
HALVES = ("generative", "discriminative")


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read AMBER's folder: all its queries, ``annotations.json``, ``relation.json``, safe words.

    Raises:
        UserError: as ``amber_files.load``.
    """
    return amber_files.load("amber", root, HALVES, max_bad)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer by the metrics of its half, and by the score of both.

    The score is half of F1 and of what CHAIR leaves: (100 - CHAIR + F1) / 2 in percent.
    """
    parts = amber_files.shares(doc, results[0])
    good = "f1" in parts
    term = (good, *parts["f1" if good else "chair"])
    return {**parts, "score": term, "item": metrics.answered(doc, results[0])}
