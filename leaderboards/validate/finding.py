"""Findings of validation: one printable line each."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories of control and format characters and line separators."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Error in a record or file."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {''.join(map(_printable, self.message))}"


def is_invisible(character: str) -> bool:
    return unicodedata.category(character) in INVISIBLE


def _printable(character: str) -> str:
    # Records are strangers' files: their names must not steer a terminal.
    return f"\\u{ord(character):04x}" if is_invisible(character) else character
