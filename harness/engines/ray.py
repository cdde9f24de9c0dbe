"""Cells on Ray: a task each, on the cluster of ``RAY_ADDRESS``, else on one of this machine.

launch = Ray().start(Path("plan.json"), Path("runs"), Resources(workers=8, gpus=1))

A detached actor on the cluster submits the tasks, so that they go on when this process ends, unless
it has started the cluster itself. Ray runs a task again whose process or machine dies, and the
actor too. All machines need this Python environment and see the folders of the plan and the runs.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.harness.core.environment import pick_device, require_package
from steelyard.harness.core.errors import UserError, one_line
from steelyard.harness.engines import LOGS, Launch, Resources
from steelyard.harness.runs import plan as plans

if TYPE_CHECKING:
    from steelyard.harness.runs.work import Worker

NAMESPACE, ADDRESS = "steelyard", "RAY_ADDRESS"
MOST_RETRIES = 3
"""Times that a task is run again whose process or machine died."""
BUSY_SECONDS = 15.0
"""Time until a cell is tried again that another process works on."""
POLL_SECONDS = 1.0
LEAVE_SECONDS = 60.0
"""Time that cancelled tasks have to leave."""


class Ray:
    """Engine of Ray Core."""

    def __init__(self) -> None:
        self._errors: dict[str, Path] = {}

    def start(self, plan: Path, runs: Path, resources: Resources) -> Launch:
        """Start the actor that submits the cells.

        Raises:
            UserError: a time limit, which Ray has not; a site value that is no number; no cluster
                answers at ``RAY_ADDRESS``; this machine has not what a worker asks for.
        """
        if resources.minutes is not None:
            raise UserError("Ray ends no worker by time: leave out --minutes.")
        options = task_options(resources)
        ray = connect()
        if is_attached := ADDRESS not in os.environ:
            _check_machine(options, ray.cluster_resources())
        name = f"{plan.stem}-{time.time_ns():x}"
        kind = ray.remote(Cells).options(
            name=name, namespace=NAMESPACE, lifetime="detached", num_cpus=0, max_restarts=-1
        )
        count = len(plans.read(plan).cells)
        errors = self._errors[name] = runs.resolve() / LOGS / f"ray-{name}.txt"
        paths = str(plan.resolve()), str(runs.resolve()), str(errors)
        actor = kind.remote(*paths, count, resources.workers, options)
        ray.get(actor.__ray_ready__.remote())
        return Launch("ray", (name,), is_attached)

    def states(self, launch: Launch) -> Mapping[str, str]:
        """Return the state of the actor, which ends after the last cell."""
        states = {}
        for name in launch.ids:
            errors = self._errors.get(name)
            end = f"FAILED: {errors}" if errors and errors.exists() else "FINISHED"
            states[name] = "RUNNING" if find(name) else end
        return states

    def stop(self, launch: Launch) -> None:
        """Interrupt all tasks; the actor ends after them."""
        ray = connect()
        for actor in filter(None, map(find, launch.ids)):
            ray.get(actor.stop.remote())


def connect() -> Any:
    """Return Ray, connected to the user's cluster or to a new one of this machine."""
    require_package("ray", "ray", "--on ray")
    import ray

    if not ray.is_initialized():
        address = os.environ.get(ADDRESS, "local")
        try:
            ray.init(address, namespace=NAMESPACE, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"{ADDRESS}={address}: {one_line(error)}") from error
    return ray


def find(name: str) -> Any:
    """Return the handle of an actor; None once it has ended."""
    try:
        return connect().get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def task_options(resources: Resources) -> dict[str, Any]:
    """Return what a task asks of Ray: each site value is an amount of a resource of the cluster.

    Raises:
        UserError: a site value that is no number.
    """
    amounts = {}
    for key, text in resources.site.items():
        try:
            amounts[key] = float(text)
        except ValueError:
            raise UserError(
                f"--site {key}={text}: Ray knows amounts of resources, such as {key}=1."
            ) from None
    options: dict[str, Any] = {"num_gpus": resources.gpus, "num_cpus": resources.cpus}
    if resources.memory_gb is not None:
        options["memory"] = int(resources.memory_gb * 2**30)
    return {**options, "resources": amounts}


def _check_machine(options: Mapping[str, Any], totals: Mapping[str, float]) -> None:
    """Raise UserError where a task would wait for ever; a cluster may grow."""
    amounts = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **options["resources"]}
    for name, amount in {**amounts, "memory": options.get("memory", 0)}.items():
        if amount > (total := totals.get(name, 0)):
            raise UserError(
                f"A worker asks for {name} {amount:g}, and this machine has {total:g}; set "
                f"{ADDRESS} to use a cluster."
            )


class Cells:
    """Actor that has at most ``limit`` cells run at a time and ends when none is left."""

    def __init__(
        self,
        plan: str,
        runs: str,
        errors: str,
        count: int,
        limit: int,
        options: Mapping[str, Any],
    ) -> None:
        import ray

        retry = {"max_retries": MOST_RETRIES, "retry_exceptions": False}
        self._task = ray.remote(run_cell).options(**retry, **options)
        self._words = plan, runs, "auto" if options["num_gpus"] else "cpu"
        self._limit, self._errors = limit, Path(errors)
        self._waiting = deque((index, 0.0) for index in range(count))
        """Cells, and the times from which they may run."""
        self._running: dict[Any, int] = {}
        self._actor = ray.get_runtime_context().current_actor
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Cancel all tasks."""
        self._stopped.set()

    def _run(self) -> None:
        import ray

        while (self._waiting or self._running) and not self._stopped.is_set():
            self._submit()
            tasks = list(self._running)
            ended = ray.wait(tasks, timeout=POLL_SECONDS)[0] if tasks else []
            for task in ended:
                index = self._running.pop(task)
                try:
                    if not ray.get(task):
                        self._waiting.append((index, time.monotonic() + BUSY_SECONDS))
                except ray.exceptions.RayError as error:  # of this plan, or too many deaths
                    self._errors.parent.mkdir(parents=True, exist_ok=True)
                    with self._errors.open("a") as file:
                        file.write(f"cell {index}: {error}\n")
            if not tasks:
                time.sleep(POLL_SECONDS)
        if tasks := list(self._running):
            for task in tasks:
                ray.cancel(task)
            ray.wait(tasks, num_returns=len(tasks), timeout=LEAVE_SECONDS)
        ray.kill(self._actor)

    def _submit(self) -> None:
        now = time.monotonic()
        for _ in range(len(self._waiting)):
            index, start = self._waiting.popleft()
            if start <= now and len(self._running) < self._limit:
                self._running[self._task.remote(*self._words, index)] = index
            else:
                self._waiting.append((index, start))


def run_cell(plan: str, runs: str, device: str, index: int) -> bool:
    """Run a cell in a task; return whether it is settled, and not another process's."""
    return not _worker(plan, runs, device).work([index])


@lru_cache(maxsize=1)
def _worker(plan: str, runs: str, device: str) -> "Worker":
    """Return the worker of this process: libraries and data are loaded once for many cells."""
    from steelyard.harness.runs.parallel import quiet_heavy_libraries
    from steelyard.harness.runs.work import Stop, Worker

    content = plans.read(Path(plan))
    plans.enter(content)
    quiet_heavy_libraries()
    return Worker(content, Path(runs), pick_device(device), Stop())
