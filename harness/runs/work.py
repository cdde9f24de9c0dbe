"""Worker: takes the runs of a plan that nobody holds, one by one, until none is left.

code = work(plan, select(len(plan.cells), None, None), Path("runs"), "cpu", Stop(seconds=3600))

Any number of workers, on any machines that share the folder of runs, may work on one plan.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from steelyard.harness.core import lease as leases
from steelyard.harness.core.errors import Interrupted, LeaseLost
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import Busy, check_output
from steelyard.harness.core.folders import listing
from steelyard.harness.core.progress import console, show_progress
from steelyard.harness.runs import plan as plans
from steelyard.harness.runs.parallel import ensure_base_model, quiet_heavy_libraries
from steelyard.harness.runs.plan import Plan
from steelyard.harness.runs.run import Failure, record_failure, run_or_fail
from steelyard.harness.runs.status import CellState, cell_state

DONE, FAILED, LATER = 0, 1, 75
"""Exit codes; the last is EX_TEMPFAIL of sysexits.h: the same command goes on later."""
WAITING = ".waiting"
"""Lease in the folder of runs of the one worker that waits for the runs of the others."""


class Stop:
    """Reason to end at the next progress call: a signal, or that time is up."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = time.monotonic() + (float("inf") if seconds is None else seconds)
        self._name = ""

    def listen(self) -> None:
        """Let SIGTERM and SIGUSR1, which schedulers send before they kill, be reasons."""
        process = os.getpid()

        def receive(number: int, frame: object) -> None:
            if os.getpid() != process:  # a helper process that was forked from this one
                raise KeyboardInterrupt
            self._name = signal.Signals(number).name

        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, receive)

    def check(self) -> None:
        """Raise Interrupted if there is a reason."""
        if self._name or time.monotonic() > self._end:
            raise Interrupted(self._name or "the time of --until is over")


class Worker:
    """Process that runs cells of a plan."""

    def __init__(self, plan: Plan, runs: Path, device: str, stop: Stop) -> None:
        self.plan, self.runs, self.device, self.stop = plan, runs, device, stop
        self.settled: dict[int, CellState] = {}
        """Cells that need not be looked at again."""
        self._ids = [cell.spec.id for cell in plan.cells]
        self._data: tuple[int, Mapping[str, Corpus]] = (-1, {})

    def work(self, indices: Sequence[int]) -> list[int]:
        """Run cells until each is settled; return those that other workers still run.

        One worker waits for these, since their workers may die, and the others end.

        Raises:
            Interrupted: there is a reason to stop.
            UserError: data or a file of a method is not that of the plan.
        """
        left = list(indices)
        with ExitStack() as stack:
            is_waiting = False
            while left:
                before = len(self.settled)
                self._run_new(left)
                self._run_left(left)
                left = [index for index in left if index not in self.settled]
                if not left or len(self.settled) > before:
                    continue
                if not is_waiting:
                    try:
                        stack.enter_context(leases.lease(self.runs / WAITING, wait=False))
                    except Busy:
                        break
                    is_waiting = True
                self._sleep(leases.HEARTBEAT)
        return left

    def _run_new(self, indices: Sequence[int]) -> None:
        """Run cells that no worker has begun, in their order.

        One listing of the runs' folders tells which these are. Where others were faster, more and
        more cells are left out, or hundreds of workers would all try the same ones.
        """
        while True:
            names = {path.name for path in listing(self.runs)}
            new = [index for index in indices if self._ids[index] not in names]
            if not new:
                return
            position = losses = 0
            while position < len(new) and not self._try(new[position]).is_settled:
                losses += 1
                position += 1 + random.randrange(losses)

    def _run_left(self, indices: Sequence[int]) -> None:
        """Look at all cells that are not settled, and run those that nobody holds."""
        start = random.randrange(len(indices))  # workers do not look at the same one
        for index in (*indices[start:], *indices[:start]):
            if index not in self.settled:
                self._try(index)

    def _try(self, index: int) -> CellState:
        """Run a cell if it waits; return its state."""
        self.stop.check()
        state = cell_state(self.plan, index, self.runs)
        if state.state == "waiting":
            state = self._run(index)
        if state.is_settled:
            self.settled[index] = state
        return state

    def _run(self, index: int) -> CellState:
        """Run a cell; return its state, which is ``running`` if another worker was faster."""
        job = self.plan.job(index)
        plans.check_method(job.spec)
        corpora = self._corpora(self.plan.cells[index].data)
        start = time.monotonic()
        with show_progress(job.spec.id) as show:

            def progress(stage: str, fraction: float) -> None:
                self.stop.check()
                show(f"{job.spec.id}: {stage}", fraction)

            try:
                result = run_or_fail(job, corpora, self.runs, self.device, progress, wait=False)
            except (Busy, LeaseLost):
                return CellState("running")
        if isinstance(result, Failure):
            texts = result.reason, result.traceback
            result = record_failure(job, corpora, self.runs, self.device, *texts)
        seconds = time.monotonic() - start
        reason = f": {result.failure}" if result.failure else ""
        console.print(f"{index} {result.status} {result.id} ({seconds:.0f} s){reason}")
        return CellState(result.status, result.failure)

    def _corpora(self, index: int) -> Mapping[str, Corpus]:
        """Return the data that cells share; only the last is kept, and cells are in its order."""
        if self._data[0] != index:
            corpora = plans.open_data(self.plan, index)
            data = self.plan.data[index]
            ensure_base_model(data.backbone, data.backbone_options)
            self._data = index, corpora
        return self._data[1]

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.stop.check()
            time.sleep(min(1.0, seconds))


def work(plan: Plan, indices: Sequence[int], runs: Path, device: str, stop: Stop) -> int:
    """Run the cells of a plan that nobody holds; return the exit code of the command."""
    check_output(runs)
    quiet_heavy_libraries()
    worker = Worker(plan, runs, device, stop)
    try:
        left = worker.work(indices)
    except Interrupted as reason:
        console.print(f"ended by {reason}; what is finished is kept: the same command goes on")
        return LATER
    counts = Counter(state.state for state in worker.settled.values())
    elsewhere = f", {len(left)} go on elsewhere" if left else ""
    console.print(f"{counts['done']} runs done, {counts['failed']} failed{elsewhere}, in {runs}")
    return FAILED if counts["failed"] else DONE
