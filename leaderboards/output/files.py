"""Writing of report files."""

from collections.abc import Mapping
from pathlib import Path

from steelyard.harness.core.files import write_atomic
from steelyard.leaderboards.output.escape import escape_formulas


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name, each atomically, and return their paths; CSV formulas are escaped.

    Raises:
        UserError: a file cannot be written.
    """
    return [
        write_atomic(folder / name, escape_formulas(data) if name.endswith(".csv") else data)
        for name, data in contents.items()
    ]
