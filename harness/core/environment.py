"""Environment of a run: device, peak memory, hash of the source, versions of packages."""

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import digest


def pick_device(name: str) -> str:
    """Return the device of a name; ``auto`` is the first GPU, or the CPU.

    Raises:
        UserError: the device is not available.
    """
    # Before the import of torch, which takes seconds.
    if name == "cpu":
        return name
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    names = ["cuda", *(f"cuda:{index}" for index in range(gpus))] if gpus else []
    if name not in names:
        allowed = ", ".join(["cpu", *names])
        raise UserError(f"Device '{name}' is not available here; use {allowed} or auto.")
    return name


def require_package(name: str, extra: str, use: str) -> None:
    """Raise UserError if a package of an extra of steelyard is not installed."""
    if find_spec(name) is None:
        raise UserError(f"{use} needs {name}: pip install 'steelyard[{extra}]'.")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of torch or Python says that memory was short."""
    import torch

    # On a CPU torch raises a plain RuntimeError, in these words on Linux and Windows.
    texts = ("DefaultCPUAllocator", "not enough memory")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(text in str(error) for text in texts)


def free_memory() -> None:
    """Give the memory of tensors that nothing refers to back to the device."""
    import gc

    import torch

    gc.collect()  # an exception's frames may refer to one another
    torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    """Reset the peak memory of a GPU; of a CPU torch keeps none."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int:
    """Return the most bytes of tensors on a GPU since the reset; 0 on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0


def device_name(device: str) -> str:
    """Return the name of a GPU, or architecture and number of threads of a CPU."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} thread(s))"


LAYOUT = 2
"""Layout of the source: 1 had flat folders, 2 has nested packages. Records before it have none."""
PACKAGES = ("steelyard", "torch", "torchvision", "transformers", "lmms-eval", "trl", "peft",
            "tokenizers", "numpy", "pandas", "pillow", "scikit-learn")  # fmt: skip


@cache
def code() -> dict[str, Any]:
    """Hash the package: ``source``, ``layout``, and ``commit`` and ``dirty`` of git."""
    root = Path(__file__).resolve().parents[2]
    folders = ("harness", "methods", "tasks", "leaderboards")
    paths = (path for name in folders for path in (root / name).rglob("*"))
    parts: list[bytes] = []
    # The order of rglob depends on the file system.
    for path in sorted(path for path in paths if path.suffix in (".py", ".yaml")):
        parts += [str(path.relative_to(root)).encode(), path.read_bytes()]
    source = {"source": digest(parts), "layout": LAYOUT, "commit": None, "dirty": None}
    # Only a checkout of steelyard: an environment may be inside another project's repository.
    if (root / "pyproject.toml").is_file() and (root / ".git").exists():
        source["commit"] = _git(root, "rev-parse", "HEAD")
        # Runs inside the checkout are untracked files and change no code.
        source["dirty"] = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return source


@cache
def packages() -> dict[str, str]:
    """Return the installed versions of the packages that can change a number."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _git(folder: Path, *words: str) -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return None
