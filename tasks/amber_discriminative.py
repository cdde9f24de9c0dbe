"""AMBER's discriminative half: yes-no questions of existence, attributes and relations."""

from pathlib import Path

from steelyard.harness.data import Corpus
from steelyard.tasks import _amber
from steelyard.tasks._amber import doc_to_target, doc_to_text, process_results

__all__ = ["doc_to_target", "doc_to_text", "load", "process_results"]


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read the discriminative queries of AMBER's folder with its annotations.

    Raises:
        UserError: as ``_amber.load``.
    """
    return _amber.load("amber_discriminative", root, ("discriminative",), max_bad)
