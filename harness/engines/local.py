"""Workers on this machine: each a process of its own, on GPUs of its own.

engine = Local()
launch = engine.start(Path("plan.json"), Path("runs"), Resources(workers=8, gpus=1))
while any(not state.startswith(ENDED) for state in engine.states(launch).values()): ...
"""

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.engines import LOGS, Launch, Resources, worker_command

MOST_DEATHS = 10
"""Workers in the place of one that may die before it is not replaced any more."""
END_SECONDS = 30.0
"""Time that workers have to end by themselves."""
EXIT_CODES = (0, 1, 2, 75)
"""Of a worker that ended by itself; it would end so again."""


@dataclass(slots=True)
class LocalWorker:
    """Process with what starts another one in its place."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    process: "subprocess.Popen[bytes]"
    deaths: int = 0


class Local:
    """Engine of this machine; a worker that dies is replaced when its state is asked for."""

    def __init__(self) -> None:
        self._workers: dict[str, LocalWorker] = {}

    def start(self, plan: Path, runs: Path, resources: Resources) -> Launch:
        """Start a process for each worker.

        Raises:
            UserError: there are fewer GPUs, or an option is only for clusters.
        """
        if resources.site or resources.memory_gb is not None:
            raise UserError("--site and --memory are for clusters: leave them out with --on local.")
        gpus = _gpus() if resources.gpus else []
        if (count := resources.workers * resources.gpus) > len(gpus):
            raise UserError(
                f"{resources.workers} workers with {resources.gpus} GPUs each need {count}, and "
                f"there are {len(gpus)} here: give fewer --workers or --gpus."
            )
        command = worker_command(plan, runs, resources)
        if resources.minutes is not None:
            command += ("--until", f"{resources.minutes}m")
        (runs / LOGS).mkdir(parents=True, exist_ok=True)
        for index in range(resources.workers):
            devices = gpus[index * resources.gpus : (index + 1) * resources.gpus]
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices)}
            log = runs / LOGS / f"local-{os.getpid()}-{index}.txt"
            process = _start(command, environment, log)
            self._workers[str(index)] = LocalWorker(command, environment, log, process)
        return Launch("local", tuple(self._workers), is_attached=True)

    def states(self, launch: Launch) -> Mapping[str, str]:
        """Return the states of the workers; those that have died are begun again."""
        states = {}
        for name in launch.ids:
            worker = self._workers[name]
            code = worker.process.poll()
            if code is not None and code not in EXIT_CODES and worker.deaths < MOST_DEATHS:
                worker.deaths += 1
                worker.process = _start(worker.command, worker.environment, worker.log)
                code = None
            end = "COMPLETED" if code in (0, 1) else f"FAILED with exit code {code}: {worker.log}"
            states[name] = "RUNNING" if code is None else end
        return states

    def stop(self, launch: Launch) -> None:
        """End the workers, which have half a minute for it."""
        processes = [self._workers[name].process for name in launch.ids]
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            process.kill()
            process.wait()


def _start(
    command: tuple[str, ...], environment: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        # Ctrl-C reaches all processes of a terminal's session; here the parent ends the workers.
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return list(names)[: torch.cuda.device_count()]
