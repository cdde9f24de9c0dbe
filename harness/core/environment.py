"""The machine that a run is on: its name and the memory in use."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steelyard.harness.core.files import digest


def reset_peak(device: str) -> None:
    """Start measuring peak memory anew."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not permitted: the peak is then that of the process so far


def peak_bytes(device: str) -> int:
    """Peak memory of the device, or of the process on a CPU."""
    import resource

    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: str) -> str:
    """The name of a GPU; of a CPU its architecture and the threads in use."""

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} thread(s))"


LAYOUT = 2
"""Version of the layout of the source folders; records without it were made with layout 1."""
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


@cache
def code() -> dict[str, Any]:
    """Hash the installed package's source, with commit and dirty flag when in a checkout.

    ``layout`` says how the source is laid out: 1 had flat folders, 2 has nested packages.
    """
    root = Path(__file__).resolve().parents[2]
    names = ("harness", "methods", "tasks", "leaderboards")
    paths = sorted(
        path
        for name in names
        for pattern in ("*.py", "*.yaml")
        for path in (root / name).rglob(pattern)
    )
    parts = (
        part for path in paths for part in (str(path.relative_to(root)).encode(), path.read_bytes())
    )
    source: dict[str, Any] = {
        "source": digest(parts),
        "layout": LAYOUT,
        "commit": None,
        "dirty": None,
    }
    # Only our own checkout counts: an environment may lie inside another project's repository.
    if (root / "pyproject.toml").is_file() and (root / ".git").exists():
        source["commit"] = _git(root, "rev-parse", "HEAD")
        source["dirty"] = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return source


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


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
