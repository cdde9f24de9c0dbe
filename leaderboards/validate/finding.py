"""Findings of validation: one printable line each."""

from dataclasses import dataclass
from pathlib import Path

from steelyard.harness.core.characters import escaped


@dataclass(frozen=True, slots=True)
class Finding:
    """Error in a record or file."""

    path: Path
    message: str

    def __str__(self) -> str:
        # Records are strangers' files: their names must not steer a terminal.
        return f"{self.path}: {escaped(self.message)}"
