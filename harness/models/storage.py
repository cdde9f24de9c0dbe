"""Folder of a saved backbone, its description written last; errors of foreign checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import explain_write_errors, write_json
from steelyard.harness.core.readers import read_object


@contextmanager
def describe_last(path: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the folder of ``path`` for the weights, then write the description to ``path``.

    A folder without description does not load, so an interrupted save is never read.

    Raises:
        UserError: the disk is full or the folder is not writable.
    """
    from safetensors import SafetensorError

    with explain_write_errors(path.parent, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path.parent
    write_json(path, description)


@contextmanager
def explain_load_errors(message: str, advice: str) -> Iterator[None]:
    """Turn any failure of a library on a foreign checkpoint into a UserError of one line.

    The line is ``message``, the first sentence of the library, ``advice``.
    """
    try:
        yield
    except UserError:
        raise
    # Libraries raise what they like: a missing package, a wrong shape, an error of a template.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # Libraries explain over many lines; the first names the fault, unless it announces a list.
        summary = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).replace("\t", "").strip()
        stop = "" if summary.endswith((".", "!", "?")) else "."
        raise UserError(f"{message}: {summary}{stop} {advice}") from error


def read_description(path: Path, kind: str) -> dict[str, Any]:
    """Read the description of a saved backbone; UserError if there is none."""
    if not path.is_file():
        raise UserError(f"No {kind} at {path.parent}: {path.name} is missing.")
    return read_object(path)
