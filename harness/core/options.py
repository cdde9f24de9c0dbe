"""options."""

from collections.abc import Sequence
from typing import Any

from steelyard.harness.core.errors import UserError


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts with values read as numbers, booleans or text."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"'{pair}': write KEY=VALUE.")
        found[key] = parse_value(value)
    return found


def parse_value(text: str) -> str | int | float | bool:
    """A number, ``true`` / ``false``, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` or ``0-4``."""
    try:
        if "-" in text:
            low, high = map(int, text.split("-"))
            return tuple(range(low, high + 1))
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"Seeds '{text}': write 0,1,2 or 0-4.") from None
