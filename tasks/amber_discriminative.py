"""AMBER's discriminative half: yes-no questions of existence, attributes and relations."""

from pathlib import Path

from steelyard.harness.core.examples import Corpus
from steelyard.tasks._shared import amber_files


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read the discriminative queries of AMBER's folder with its annotations."""
    return amber_files.load("amber_discriminative", root, ("discriminative",), max_bad)
