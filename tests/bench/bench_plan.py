"""What a plan of many cells costs many workers, beside their runs, and what it asks of the disk.

Usage: ``python bench_plan.py [CELLS] [WORKERS]``, by default 20,000 cells of about an hour on 512
workers. Time is simulated: each worker is a thread of which one at a time goes on, a run is a wait,
and one in a hundred runs loses its worker. Folders, leases, states and records are real files.
Printed are seconds a cell of looking for it, and changes and openings of files a second.
"""

import heapq
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from timing import arguments

from steelyard.harness.core import lease as leases
from steelyard.harness.records.record import Ledger, Record, Score, write
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import status
from steelyard.harness.runs import work as works
from steelyard.harness.runs.attempt import attempt
from steelyard.harness.runs.plan import Cell, Plan, PlannedData, PlannedTask
from steelyard.harness.runs.status import CellState
from steelyard.harness.runs.work import Stop, Worker

HOUR = 3600.0
START = 120.0  # seconds within which the workers begin
LOSS = 0.01  # fraction of runs in which the worker dies
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir")
OPERATIONS = 6
"""Of a look at a finished cell: stat, open, fstat, read and close of its record, stat of parts."""


class Clock:
    """Simulated time: the thread whose moment is next goes on, all others wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self._moments: list[tuple[float, int, threading.Semaphore]] = []
        self._count = itertools.count()
        self._baton = threading.Semaphore(0)

    def sleep(self, seconds: float) -> None:
        gate = threading.Semaphore(0)
        heapq.heappush(self._moments, (self.now + seconds, next(self._count), gate))
        self._baton.release()
        gate.acquire()

    def end(self) -> None:
        self._baton.release()

    def run(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.start()
            self._baton.acquire()
        while self._moments:
            self.now, _, gate = heapq.heappop(self._moments)
            gate.release()
            self._baton.acquire()


class Died(BaseException):
    """The worker of a run is lost."""


class Simulated(Worker):
    """Worker whose runs take simulated time."""

    clock: Clock
    rng: random.Random

    def _run(self, index: int) -> CellState:
        cell = self.plan.cells[index]
        folder = self.runs / cell.spec.id
        try:
            with attempt(folder, wait=False) as current:
                current.begin(None)
                seconds = HOUR * self.rng.lognormvariate(0, 0.3)
                if self.rng.random() < LOSS:
                    self.clock.sleep(seconds * self.rng.random())
                    raise Died
                self.clock.sleep(seconds)
                write(_record(cell), folder)
                current.is_finished = True
        except works.Busy:
            COUNTS["tried in vain"] += 1
            return CellState("running")
        COUNTS["runs"] += 1
        return CellState("done")

    def _sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)


COUNTS: Counter[str] = Counter()


def _record(cell: Cell) -> Record:
    data = {"revision": "r", "split": "test", "splits": {"test": "r"}}
    score = Score("toy", "clean", "accuracy", 0.5, 100, None, True, True)
    ledger = Ledger({"forward": 1.0}, {"forward": HOUR}, 1, 1, 1, "cpu", None, None, "finished")
    source = {"data": data, "limit": None}
    return Record(cell.spec.id, cell.label, cell.spec, "done", "", ledger, (score,), source)


def made(cells: int) -> Plan:
    """Return a plan of runs that differ in their seed."""
    specs = (RunSpec("joint", "toy", "tiny", "S", seed) for seed in range(cells))
    parts = tuple(Cell(s, "joint", ("toy",), "test", None, "entry", None, 0) for s in specs)
    task = PlannedTask({}, "r", {"test": "r"})
    return Plan(parts, (PlannedData("tiny", {}, {"toy": task}),), str(Path.cwd()))


def main(cells: int, workers: int) -> None:
    """Simulate the plan and print what it took."""
    plan, clock, rng = made(cells), Clock(), random.Random(0)
    Simulated.clock, Simulated.rng = clock, rng
    random.seed(0)
    look = status.cell_state
    by_minute: Counter[int] = Counter()

    settled: dict[int, CellState] = {}
    seconds = Counter({"looks": 0.0})  # of those that are made

    def counted(plan: Plan, index: int, runs: Path) -> CellState:
        COUNTS["looks"] += 1
        by_minute[int(clock.now // 60)] += OPERATIONS
        if index in settled:  # ten million looks at what changes no more are not made
            return settled[index]
        COUNTS["looks made"] += 1
        start = time.perf_counter()
        state = look(plan, index, runs)
        seconds["looks"] += time.perf_counter() - start
        if state.is_settled:
            settled[index] = state
        return state

    def hook(name: str, values: tuple[object, ...]) -> None:
        if name in EVENTS and str(values[0]).startswith(root):
            COUNTS[name] += 1
            by_minute[int(clock.now // 60)] += 1

    def labour(worker: Simulated) -> None:
        clock.sleep(rng.random() * START)
        while True:
            try:
                worker.work(range(cells))
                break
            except Died:  # the engine begins another one
                worker.settled.clear()
        clock.end()

    with (
        tempfile.TemporaryDirectory() as root,
        patch("os.fsync"),
        patch.object(works, "cell_state", counted),
        # Beats are counted by formula: all threads of a process would beat in real time.
        patch.object(leases, "HEARTBEAT", 15.0),
    ):
        sys.addaudithook(hook)
        threads = [
            threading.Thread(target=labour, args=(Simulated(plan, Path(root), "cpu", Stop()),))
            for _ in range(workers)
        ]
        start = time.process_time()
        clock.run(threads)
        spent = time.process_time() - start
        start = time.process_time()
        status.states(plan, range(cells), Path(root))
        look_at_all = time.process_time() - start
        left = [path for path in Path(root).rglob("*") if path.name != "record.json"]
        leftover = [path for path in left if path.is_file()]
    a_look = seconds["looks"] / COUNTS["looks made"]
    own = spent + (COUNTS["looks"] - COUNTS["looks made"]) * a_look
    changes = sum(COUNTS[name] for name in EVENTS) / clock.now
    print(
        f"{cells} cells on {workers} workers: {clock.now / HOUR:.1f} h, ideal "
        f"{cells / workers * 1.046:.1f} h; {COUNTS['runs']} runs, "
        f"{COUNTS['tried in vain']} tried in vain"
    )
    print(
        f"own time {1000 * own / cells:.0f} ms a cell: {COUNTS['looks'] / cells:.0f} looks of "
        f"{1e6 * a_look:.0f} us, {COUNTS['os.listdir'] / cells:.1f} listings, and the run's files"
    )
    print(f"status of all cells {look_at_all:.1f} s")
    print(
        f"opened and changed files {changes:.0f} a second; in the busiest minute with looks "
        f"{max(by_minute.values()) / 60:.0f} operations a second"
    )
    print(f"heartbeats {workers / 15:.0f} a second, each an lstat, a touch and a small file")
    print(f"left over: {len(leftover)} files; {dict(COUNTS)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*arguments(__doc__, cells=20_000, workers=512))
