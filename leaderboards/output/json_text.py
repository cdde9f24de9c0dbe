"""JSON files of boards: a line an entry, floats at ten digits, the same on every machine."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def json_text(content: Mapping[str, Any]) -> str:
    """Top-level names on lines of their own, and so each member of a list among their values.

    ``json``'s own indentation is written by Python code and takes three times as long.

    Raises:
        ValueError: a number is not finite.
    """
    lines = [f"{_compact(name)}: {_value(value)}" for name, value in content.items()]
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def members(record: Any) -> dict[str, Any]:
    """A dataclass's fields by name, in order; what they hold is left as it is."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def exact(value: float) -> str:
    """Ten significant digits: more than any figure holds, fewer than two machines differ in."""
    return f"{value:.10g}"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        return "[\n  " + ",\n  ".join(map(_compact, value)) + "\n ]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(_plain(value), separators=(", ", ": "), allow_nan=False)


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, floats at ten significant digits."""
    if isinstance(value, float):
        return float(exact(value))
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return _plain(members(value)) if is_dataclass(value) else value
