"""Start workers on a plan by an engine, and watch its runs until all are settled."""

import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from rich.live import Live

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import user_path
from steelyard.harness.core.options import Help, parse_pairs
from steelyard.harness.core.progress import LINE_SECONDS, console, echo
from steelyard.harness.core.readers import read_yaml
from steelyard.harness.engines import ENDED, Engine, Launch, Resources
from steelyard.harness.runs.plan import Plan
from steelyard.harness.runs.status import CellState, states, summary, view
from steelyard.harness.runs.work import DONE, FAILED, LATER

EngineName = Literal["local", "slurm", "ray"]
LOOK_SECONDS, LOOK_FRACTION = 2.0, 0.1
"""Least time between two looks at the runs, and largest fraction of the time that looks take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options of a command whose runs workers of an engine take."""

    on: Annotated[
        EngineName | None, Help("Where workers run: local is this machine, one process a worker")
    ] = None
    workers: Annotated[int, Help("Number of workers of --on")] = 1
    gpus: Annotated[int, Help("GPUs of a worker; without any it computes on the CPU")] = 0
    cpus: Annotated[int, Help("CPU cores of a worker")] = 1
    memory: Annotated[
        float | None, Help("Memory of a worker in GB", "the engine's", metavar="GB")
    ] = None
    minutes: Annotated[int | None, Help("Time limit of a worker", "the engine's")] = None
    site: Annotated[tuple[str, ...], Help(
        "Value of your cluster, such as partition=gpu; or in site.yaml of your configuration",
        metavar="KEY=VALUE")] = ()  # fmt: skip

    def resources(self) -> Resources:
        """Return machines and time of the workers, with the values of the user's own file.

        Raises:
            UserError: there is no engine for them.
        """
        if self.on is None:
            for option in fields(self):
                if getattr(self, option.name) != option.default:
                    raise UserError(f"--{option.name} goes with --on local, slurm or ray.")
            return Resources(0)
        if self.workers < 1 or min(self.gpus, self.cpus - 1) < 0:
            raise UserError("--workers and --cpus have to be 1 or more, --gpus 0 or more.")
        site = {**_own_site(self.on), **parse_pairs(self.site)}
        return Resources(self.workers, self.gpus, self.cpus, self.memory, self.minutes, site)


def _own_site(engine: str) -> Mapping[str, str]:
    """Read an engine's values from ``site.yaml`` in the user's configuration folder."""
    folder = user_path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    path = folder / "steelyard" / "site.yaml"
    if not path.is_file():
        return {}
    content = read_yaml(path)
    values = content.get(engine, {}) if isinstance(content, dict) else None
    if not isinstance(values, dict) or not all(isinstance(text, str) for text in values.values()):
        raise UserError(f"{path}: write KEY: VALUE pairs below the name of an engine.")
    return values


def run_on(engine: Engine, plan: Plan, file: Path, runs: Path, resources: Resources) -> int:
    """Start workers on the plan in a file and watch them; return the exit code.

    Where this process is interrupted workers that are attached to it end, and others go on.
    """
    launch = engine.start(file, runs, resources)
    look = f"steelyard status {shlex.quote(str(file))} --runs {shlex.quote(str(runs))}"
    echo(f"Started on {launch.engine}: {', '.join(launch.ids)}. To look at the runs: {look}")
    try:
        cells, words = _watch(engine, launch, plan, runs)
    except KeyboardInterrupt:
        if not launch.is_attached:
            echo(f"The workers go on. To look at the runs: {look}", error=True)
        raise
    finally:
        if launch.is_attached:
            engine.stop(launch)
    console.print(view(plan, cells))
    if not all(state.is_settled for state in cells.values()):
        for name, word in words.items():
            echo(f"worker {name}: {word}", error=True)
        echo("All workers have ended, and runs are left: the same command goes on.", error=True)
        return LATER
    return FAILED if any(state.state == "failed" for state in cells.values()) else DONE


def _watch(
    engine: Engine, launch: Launch, plan: Plan, runs: Path
) -> tuple[Mapping[int, CellState], Mapping[str, str]]:
    """Show the states of the runs until all are settled or all workers have ended; return both."""
    cells: dict[int, CellState] = {}
    line, printed = "", 0.0
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            start = time.monotonic()
            words = engine.states(launch)
            have_ended = all(word.startswith(ENDED) for word in words.values())
            cells = states(plan, range(len(plan.cells)), runs, cells)
            if have_ended or all(state.is_settled for state in cells.values()):
                return cells, words
            if console.is_terminal:
                live.update(view(plan, cells), refresh=True)
            elif summary(plan, cells) != line and start - printed > LINE_SECONDS:
                line, printed = summary(plan, cells), start
                console.print(line)
            spent = time.monotonic() - start
            time.sleep(max(LOOK_SECONDS, spent / LOOK_FRACTION))
