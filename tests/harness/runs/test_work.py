"""Workers of a plan: each run once, signals keep what is finished, a failed run ends no other."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from command import Command
from run_trees import contents, differences

from steelyard.harness.cli.run import suites_from
from steelyard.harness.core import lease as leases
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.harness.records import record
from steelyard.harness.runs import plan as plans
from steelyard.harness.runs import work as worker
from steelyard.harness.runs.attempt import LEASE, PARTS
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import open_suite
from steelyard.harness.runs.plan import Plan, select
from steelyard.harness.runs.run import run
from steelyard.harness.runs.status import CellState, cell_state, hours_left, states, summary
from steelyard.harness.runs.training import TRACEBACK
from steelyard.harness.runs.work import DONE, FAILED, LATER, WAITING, Stop

SUITE = "methods: [joint, {}]\ntasks: [food101]\nseeds: [0]\nbudget: 1e9\nlimit: 16\n"
RAISES = '''
"""Method of a test."""
from dataclasses import dataclass
from steelyard.methods import About

ABOUT = About(title="Raising", kind="control", summary="Raises.")

@dataclass(frozen=True, slots=True)
class Config:
    pass

def train(backbone, data, meter, config, seed):
    raise KeyError("no such key")
'''


def planned(world: Path, folder: Path, method: str = "modality_dropout") -> Plan:
    (folder / "suite.yaml").write_text(SUITE.format(method))
    options = RunOptions(data_root=(str(world / "food101"),))
    suites = suites_from(str(folder / "suite.yaml"), options)
    return plans.make([open_suite(suite, options) for suite in suites], options)


@pytest.fixture
def plan(world: Path, tmp_path: Path) -> Plan:
    return planned(world, tmp_path)


@pytest.fixture
def with_fault(world: Path, tmp_path: Path) -> Plan:
    (tmp_path / "raises.py").write_text(RAISES)
    return planned(world, tmp_path, str(tmp_path / "raises.py"))


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs of the suite as ``steelyard run`` makes them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    plan = planned(world, folder)
    corpora = plans.open_data(plan, 0)
    for index in range(2):
        run(plan.job(index), corpora, folder / "runs", "cpu", no_progress)
    return folder / "runs"


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "DURATION", 4.0)
    monkeypatch.setattr(leases, "HEARTBEAT", 0.3)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the handlers of signals."""
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def work(plan: Plan, runs: Path, stop: Stop | None = None) -> int:
    return worker.work(plan, select(len(plan.cells), None, None), runs, "cpu", stop or Stop())


def test_a_worker_makes_the_records_that_run_makes(
    plan: Plan, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert work(plan, tmp_path / "runs") == DONE
    assert not differences(contents(undisturbed), contents(tmp_path / "runs"))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")}
    capsys.readouterr()
    assert work(plan, tmp_path / "runs") == DONE
    assert "2 runs done, 0 failed" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")}


@pytest.mark.parametrize(
    ("stage", "number"), [("training", signal.SIGTERM), ("evaluating", signal.SIGUSR1)]
)
@pytest.mark.usefixtures("handlers")
def test_a_signal_ends_a_worker_and_the_next_one_goes_on(
    plan: Plan,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    number: signal.Signals,
) -> None:
    @contextmanager
    def signalled(name: str) -> Iterator[Progress]:
        def show(text: str, fraction: float) -> None:
            if f": {stage}" in text:
                os.kill(os.getpid(), number)

        yield show

    stop = Stop()
    stop.listen()
    with monkeypatch.context() as patch:
        patch.setattr(worker, "show_progress", signalled)
        assert work(plan, tmp_path / "runs", stop) == LATER
    assert not record.find(tmp_path / "runs")
    assert [cell_state(plan, index, tmp_path / "runs").state for index in range(2)] == [
        "waiting",
        "waiting",
    ]
    assert work(plan, tmp_path / "runs") == DONE
    assert not differences(contents(undisturbed), contents(tmp_path / "runs"))


def test_a_worker_whose_time_is_over_begins_nothing(plan: Plan, tmp_path: Path) -> None:
    assert work(plan, tmp_path / "runs", Stop(seconds=0)) == LATER
    assert not list((tmp_path / "runs").glob("joint*"))


def test_a_failed_run_ends_no_other_and_is_settled_for_its_plan(
    with_fault: Plan, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    assert work(with_fault, runs) == FAILED
    done, failed = (cell_state(with_fault, index, runs) for index in range(2))
    assert done.state == "done"
    assert (failed.state, failed.reason) == ("failed", "KeyError: 'no such key'")
    assert (runs / with_fault.cells[1].spec.id / TRACEBACK).is_file()
    times = {path: path.stat().st_mtime_ns for path in runs.rglob("record.json")}
    assert work(with_fault, runs) == FAILED
    assert times == {path: path.stat().st_mtime_ns for path in runs.rglob("record.json")}
    later = datetime.now(UTC) + timedelta(hours=1)
    again = replace(with_fault, created=later.isoformat(timespec="seconds"))
    assert cell_state(again, 1, runs).state == "waiting"


@pytest.mark.usefixtures("short_lease")
def test_a_worker_waits_for_the_last_runs_of_others_and_takes_them_over(
    plan: Plan, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, begun = tmp_path / "runs", tmp_path / "begun"
    looks: list[list[str]] = []

    def hold() -> None:
        def stay(stage: str, fraction: float) -> None:
            begun.touch()
            time.sleep(600)

        run(plan.job(0), plans.open_data(plan, 0), runs, "cpu", stay)

    process = get_context("fork").Process(target=hold)
    process.start()
    while not begun.exists():
        time.sleep(0.01)

    def sleep(self: worker.Worker, seconds: float) -> None:
        looks.append([cell_state(plan, index, runs).state for index in range(2)])
        assert (runs / WAITING).exists()
        process.kill()
        process.join()

    monkeypatch.setattr(worker.Worker, "_sleep", sleep)
    # Only one worker waits.
    with leases.lease(runs / WAITING, wait=False):
        assert work(plan, runs) == DONE
    assert cell_state(plan, 1, runs).state == "done" and not looks
    assert work(plan, runs) == DONE
    assert looks == [["running", "done"]]
    assert not differences(contents(undisturbed), contents(runs))


@pytest.mark.usefixtures("short_lease")
def test_the_status_says_who_runs_what_since_when(
    plan: Plan, tmp_path: Path, steelyard: Command
) -> None:
    runs, begun = tmp_path / "runs", tmp_path / "begun"
    plan.write(tmp_path / "plan.json")

    def hold() -> None:
        def stay(stage: str, fraction: float) -> None:
            time.sleep(0.5 if stage == "training" else 0)
            if stage == "training" and fraction > 0.5:
                begun.touch()

        run(plan.job(1), plans.open_data(plan, 0), runs, "cpu", stay)

    assert summary(plan, states(plan, range(2), runs)) == (
        "0 done, 0 failed, 0 running, 2 waiting of 2 runs"
    )
    process = get_context("fork").Process(target=hold)
    process.start()
    while not begun.exists():
        time.sleep(0.01)
    waiting, running = states(plan, range(2), runs).values()
    process.kill()
    process.join()
    assert waiting.state == "waiting" and running.state == "running"
    assert (running.process, running.stage, running.attempts) == (process.pid, "training", 1)
    assert running.fraction > 0 and 0 < time.time() - running.begun < 60
    words = ("status", str(tmp_path / "plan.json"), "--runs", str(runs))
    content = json.loads(steelyard(*words, "--json").stdout)
    assert content["counts"] == {"waiting": 2}  # its process is dead
    assert [cell["attempts"] for cell in content["cells"]] == [0, 1]
    assert "0 done, 0 failed, 0 running, 2 waiting of 2 runs" in steelyard(*words).stdout


def test_hours_left_are_those_of_the_estimates(plan: Plan) -> None:
    cells = [replace(cell, needs=plans.Needs(hours, 1.0)) for cell, hours in
             zip(plan.cells, (3.0, 2.0), strict=True)]  # fmt: skip
    estimated = replace(plan, cells=tuple(cells))
    now = time.time()
    running = CellState("running", begun=now - 3600)
    assert hours_left(estimated, {0: CellState("waiting"), 1: CellState("done")}) == 3.0
    assert hours_left(estimated, {0: running, 1: running}) == pytest.approx(1.5, abs=0.01)
    assert hours_left(plan, {0: CellState("waiting"), 1: CellState("waiting")}) is None
    assert hours_left(plan, {0: CellState("waiting"), 1: CellState("done", hours=2.0)}) == 2.0


def test_what_a_killed_process_left_after_its_record_is_removed(
    plan: Plan, undisturbed: Path, tmp_path: Path
) -> None:
    assert work(plan, tmp_path / "runs") == DONE
    parts = tmp_path / "runs" / plan.cells[0].spec.id / PARTS
    parts.mkdir()
    (parts / LEASE).write_text("filelock/2\n")
    os.utime(parts / LEASE, (1e9, 1e9))
    assert work(plan, tmp_path / "runs") == DONE
    assert not differences(contents(undisturbed), contents(tmp_path / "runs"))
