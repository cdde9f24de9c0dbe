"""Engines that start workers: on this machine, on Slurm, on Ray.

A worker is ``steelyard work PLAN``. It knows no engine: it takes the cells of the plan that nobody
holds, one by one, until none is left. So a launch needs no living parent, and two engines may work
on one plan.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Resources:
    """Machines and time that workers get."""

    workers: int
    gpus: int = 0
    """GPUs of each worker."""
    cpus: int = 1
    """CPU cores of each worker."""
    memory_gb: float | None = None
    """Memory of each worker; None leaves it to the engine."""
    minutes: int | None = None
    """Time after which the engine ends a worker; None leaves it to the engine."""
    site: Mapping[str, str] = field(default_factory=dict)
    """Values of the user's cluster, such as ``partition`` and ``account``."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Workers that were started."""

    engine: str
    ids: tuple[str, ...]
    """Identifiers of the workers in the engine's own terms."""
    is_attached: bool = False
    """Whether the workers end with this process."""


class Engine(Protocol):
    """Starts workers on a plan, says how they are, and ends them."""

    def start(self, plan: Path, runs: Path, resources: Resources) -> Launch:
        """Start workers on the cells of a plan file and return at once."""
        ...

    def states(self, launch: Launch) -> Mapping[str, str]:
        """Return the state of each worker in the engine's own word, as far as it is known."""
        ...

    def stop(self, launch: Launch) -> None:
        """End the workers; what they hold is continued by others."""
        ...


LOGS = "logs"
"""Folder below that of the runs for what workers print."""
ENGINES = {
    name: f"steelyard.harness.engines.{name}:{name.capitalize()}"
    for name in ("local", "slurm", "ray")
}
"""Class of each engine, which is imported when it is needed."""
ENDED = ("COMPLETED", "FINISHED", "FAILED", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY",
         "PREEMPTED", "TIMEOUT")  # fmt: skip
"""Begins of the states of workers that are not begun again."""


def find(name: str) -> Engine:
    """Return an engine by name."""
    engine: Engine = resolve_name(ENGINES[name])()
    return engine


def worker_command(plan: Path, runs: Path, resources: Resources) -> tuple[str, ...]:
    """Return the command of a worker, in this Python, from any folder of any machine."""
    # ``-P`` keeps modules of the working directory out.
    python = (sys.executable, "-P", "-c", "from steelyard.harness.cli.main import main; main()")
    # A worker that asked for no GPU may see those of others.
    device = () if resources.gpus else ("--device", "cpu")
    return (*python, "work", str(plan.resolve()), "--runs", str(runs.resolve()), *device)
