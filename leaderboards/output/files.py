"""Writing of report files, and the numbers in them: ten significant digits on every machine."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from steelyard.harness.core.characters import visible
from steelyard.harness.core.files import write_atomic
from steelyard.leaderboards.output.escape import escape_formulas


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name, each atomically, and return their paths.

    Raises:
        UserError: a file cannot be written.
    """
    return [write_atomic(folder / name, data) for name, data in contents.items()]


def json_text(content: Mapping[str, Any]) -> str:
    """Return JSON of dataclasses, mappings, lists and numbers, a line per item of a list.

    ``json``'s own indentation is Python code and takes three times as long.

    Raises:
        ValueError: a number is not finite.
    """
    lines = []
    for name, value in _plain(content).items():
        if isinstance(value, list) and value:
            items = (json.dumps(item, allow_nan=False) for item in value)
            text = "[\n  " + ",\n  ".join(items) + "\n ]"
        else:
            text = json.dumps(value, allow_nan=False)
        lines.append(f"{json.dumps(name)}: {text}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return CSV of rows, the header first; formulas are escaped."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return escape_formulas(visible(out.getvalue()).encode()).decode()


def members(record: Any) -> dict[str, Any]:
    """Return a dataclass's fields by name, in order, without copying; those with a repr alone."""
    return {name: getattr(record, name) for name in _exported(record.__class__)}


@cache
def _exported(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.repr)


def exact(value: float) -> str:
    """Format with ten significant digits: more than a figure needs, equal on two machines."""
    return f"{value:.10g}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(exact(value))
    if value is None or isinstance(value, (str, int)):  # most values: no slower test for them
        return value
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return _plain(members(value)) if is_dataclass(value) else value
