"""Where a result comes from: code, packages, device, data and weights, each by hash or version."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steelyard.harness import card
from steelyard.harness.data import Corpus

PACKAGES = (
    "steelyard",
    "torch",
    "torchvision",
    "transformers",
    "lmms-eval",
    "trl",
    "peft",
    "tokenizers",
    "numpy",
    "pandas",
    "pillow",
    "scikit-learn",
)


def digest(parts: Iterable[bytes]) -> str:
    """Sixteen hex digits of the parts in order."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()


def file_hash(path: Path) -> str:
    """Hash of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def weights_hash(folder: Path) -> str | None:
    """Hash of saved weights: of one file its own, of shards that of their hashes, None of none."""
    hashes = [file_hash(path) for path in sorted(folder.rglob("*.safetensors"))]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.blake2b("".join(hashes).encode(), digest_size=8).hexdigest()


@cache
def code() -> dict[str, Any]:
    """Hash of the installed package's source, and commit and dirty flag when in a checkout."""
    here = Path(__file__).resolve().parent
    folders = [here.parent / name for name in ("harness", "methods", "tasks", "leaderboards")]
    files = sorted(
        path for folder in folders for path in folder.iterdir() if path.suffix in (".py", ".yaml")
    )
    names_and_contents = (
        part
        for path in files
        for part in (f"{path.parent.name}/{path.name}".encode(), path.read_bytes())
    )
    found: dict[str, Any] = {"source": digest(names_and_contents), "commit": None, "dirty": None}
    # Only our own checkout counts: an environment may lie inside another project's repository.
    if (here.parent / "pyproject.toml").is_file() and (here.parent / ".git").exists():
        found["commit"] = _git(here.parent, "rev-parse", "HEAD")
        found["dirty"] = bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no"))
    return found


@cache
def packages() -> dict[str, str]:
    """Versions of the packages that can change a number."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(corpus: Corpus, task_files: Iterable[Path], split: str) -> dict[str, Any]:
    """Code, environment, data and task of a run; the run adds its weights."""
    return {
        "code": code(),
        "packages": packages(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **describe_task(corpus, task_files, split),
    }


def describe_task(corpus: Corpus, task_files: Iterable[Path], split: str) -> dict[str, Any]:
    """The data of one task and the hash of the files that define it."""
    return {
        "data": {
            "name": corpus.name,
            "revision": corpus.revision,
            "card": card.identity(card.core(corpus)),
            "classes": len(corpus.classes),
            "notes": dict(corpus.notes),
            "sizes": {name: len(examples) for name, examples in sorted(corpus.splits.items())},
            "skipped": len(corpus.skipped),
            "items": digest(example.id.encode() for example in corpus.splits[split]),
            "split": split,
        },
        "task": digest(path.read_bytes() for path in task_files),
    }


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
