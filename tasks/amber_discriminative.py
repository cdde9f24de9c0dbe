"""AMBER's discriminative half: yes-no questions of existence, attributes and relations."""

from pathlib import Path

from steelyard.harness.core.examples import Corpus
from steelyard.tasks._shared import amber_files
from steelyard.tasks._shared.amber_files import doc_to_target, doc_to_text, process_results

__all__ = ["doc_to_target", "doc_to_text", "load", "process_results"]


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read the discriminative queries of AMBER's folder with its annotations.

    Raises:
        UserError: as ``amber_files.load``.
    """
    return amber_files.load("amber_discriminative", root, ("discriminative",), max_bad)
