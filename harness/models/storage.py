"""Folders of models: description written last, hash of the content; errors of foreign ones."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import explain_write_errors, write_json
from steelyard.harness.core.folders import listing
from steelyard.harness.core.readers import read_json, read_object, read_text
from steelyard.harness.models.vlm_config import ADAPTER_BASE, ADAPTER_CONFIG

MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")
"""Endings of weights, settings, templates and words."""
STATE_FILES = ("trainer_state", "training_args", "optimizer", "scheduler", "readme", "license")
"""Beginnings of the names of files that decide no answer."""


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
def explain_load_errors(message: str, advice: str, source: str = "") -> Iterator[None]:
    """Turn any failure of a library on a foreign checkpoint into a UserError of one line.

    The line is ``message``, the fault of a broken file of the folder ``source``, else the first
    sentence of the library, and ``advice``.
    """
    try:
        yield
    except UserError:
        raise
    # Libraries raise what they like: a missing package, a wrong shape, an error of a template.
    except Exception as error:
        text = _broken_file(Path(source)) if source else ""
        lines = (text or str(error)).strip().splitlines() or [type(error).__name__]
        # Libraries explain over many lines; the first names the fault, unless it announces a list.
        summary = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).replace("\t", "").strip()
        stop = "" if summary.endswith((".", "!", "?")) else "."
        raise UserError(f"{message}: {summary}{stop} {advice}") from error


def folder_hash(folder: Path) -> str:
    """Hash the weights, settings, words and template in a model's folder: 32 hex digits.

    Equal models have equal hashes wherever they are.
    """
    paths = [
        path
        for path in listing(folder, *MODEL_FILES)
        if path.is_file() and not path.name.lower().startswith(STATE_FILES)
    ]
    stats = [(path, path.stat()) for path in paths]
    return _hash_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.cache  # a command asks several times, and a model may have many gigabytes
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path, _, _ in files:
        # Names too, or two files with exchanged contents would give the same hash.
        digest.update(path.name.encode(errors="surrogateescape"))
        if path.name == ADAPTER_CONFIG:
            settings = {**read_object(path), ADAPTER_BASE: ""}  # elsewhere it has another path
            digest.update(json.dumps(settings, sort_keys=True).encode())
            continue
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _broken_file(folder: Path) -> str:
    """Return the fault of the first file of a checkpoint that is no JSON, text or tensors."""
    from safetensors import SafetensorError, safe_open

    for path in listing(folder, ".json", ".jinja", ".safetensors") if folder.is_dir() else ():
        try:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".jinja":
                read_text(path)
            else:
                safe_open(path, "pt").__enter__()  # type: ignore[no-untyped-call]
        except UserError as error:
            return str(error)
        except (OSError, SafetensorError) as error:
            return f"{path}: {error}"
    return ""


def read_description(path: Path, kind: str) -> dict[str, Any]:
    """Read the description of a saved backbone; UserError if there is none."""
    if not path.is_file():
        raise UserError(f"No {kind} at {path.parent}: {path.name} is missing.")
    return read_object(path)
