"""AMBER: objects a caption invents, and yes-no questions of existence, attributes and relations.

Both halves of the benchmark on the same images, with the score that combines them. Each half is
also a task, ``amber_generative`` and ``amber_discriminative``, which needs only its queries.
"""

from collections.abc import Sequence
from pathlib import Path

from steelyard.harness.core.examples import Corpus
from steelyard.tasks import metrics
from steelyard.tasks._shared import amber_files

HALVES = ("generative", "discriminative")


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read AMBER's folder: all its queries, ``annotations.json``, ``relation.json``, safe words."""
    return amber_files.load("amber", root, HALVES, max_bad)


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    """Score one answer by the metrics of its half, and by AMBER's score of both.

    In percent the score is (100 - CHAIR + F1) / 2.
    """
    fractions = amber_files.fractions(doc, results[0])
    good = "f1" in fractions
    # Only questions have an F1.
    term = (good, *fractions["f1" if good else "chair"])
    return {**fractions, "score": term, "item": metrics.answer_item(doc, results[0])}
