"""Several processes on one run: one works, a dead one is replaced, and a loser writes nothing."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from run_trees import contents, differences

from steelyard import tasks
from steelyard.harness.core import files
from steelyard.harness.core import lease as leases
from steelyard.harness.core.errors import LeaseLost, UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import Busy
from steelyard.harness.core.processes import WorkerDied
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import run as runs
from steelyard.harness.runs.attempt import LEASE, PARTS, read_state
from steelyard.harness.runs.job import Job


@pytest.fixture(scope="module")
def food(world: Path) -> Corpus:
    return tasks.load("food101", world / "food101")


@pytest.fixture(scope="module")
def job(food: Corpus) -> Job:
    spec = RunSpec("joint", "food101", "tiny", "1e9", 0, data={"revision": food.revision})
    return Job(spec, "joint", ("food101", "food101@image-blank"), limit=16)


@pytest.fixture(scope="module")
def undisturbed(food: Corpus, job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    runs.run(job, {"food101": food}, folder, "cpu", no_progress)
    return folder


def forked(work: Callable[[], object]) -> ForkProcess:
    process = get_context("fork").Process(target=work)
    process.start()
    return process


class Begun:
    """Progress that touches a file when a stage has begun, and then waits for the end."""

    def __init__(self, stage: str, file: Path) -> None:
        self.stage, self.file = stage, file

    def __call__(self, stage: str, fraction: float) -> None:
        if stage.startswith(self.stage) and fraction > 0:
            self.file.touch()
            time.sleep(600)

    def wait(self) -> None:
        while not self.file.exists():
            time.sleep(0.01)


@pytest.mark.parametrize("stage", ["training", "evaluating"])
def test_the_run_of_a_killed_process_goes_on_at_once(
    food: Corpus, job: Job, undisturbed: Path, tmp_path: Path, stage: str
) -> None:
    begun = Begun(stage, tmp_path / "begun")
    folder = tmp_path / "runs" / job.spec.id
    process = forked(lambda: runs.run(job, {"food101": food}, tmp_path / "runs", "cpu", begun))
    begun.wait()
    with pytest.raises(Busy):
        runs.run(job, {"food101": food}, tmp_path / "runs", "cpu", no_progress, wait=False)
    state = read_state(folder)
    assert (state.attempts, state.lost, state.process) == (1, 0, process.pid)
    process.kill()
    process.join()
    start = time.monotonic()
    result = runs.run(job, {"food101": food}, tmp_path / "runs", "cpu", no_progress, wait=False)
    assert time.monotonic() - start < leases.DURATION / 2
    assert result.provenance["attempts"] == 2
    assert not differences(contents(undisturbed), contents(tmp_path / "runs"))


def test_of_two_processes_that_begin_together_one_finds_the_record_of_the_other(
    food: Corpus, job: Job, undisturbed: Path, tmp_path: Path
) -> None:
    gate, trainings = tmp_path / "gate", tmp_path / "trainings"

    def work() -> None:
        while not gate.exists():
            time.sleep(0.001)
        stages: list[str] = []

        def note(stage: str, fraction: float) -> None:
            stages.append(stage)

        runs.run(job, {"food101": food}, tmp_path / "runs", "cpu", note)
        with trainings.open("a") as file:
            file.write(f"{'training' in stages}\n")

    processes = [forked(work) for _ in range(2)]
    gate.touch()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(trainings.read_text().split()) == ["False", "True"]
    assert not differences(contents(undisturbed), contents(tmp_path / "runs"))
    assert "attempts" not in record.read(tmp_path / "runs" / job.spec.id).provenance


@pytest.mark.parametrize("stage", ["training", "evaluating"])
def test_who_was_taken_for_dead_writes_nothing(
    food: Corpus, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """On a file system without locks, as between two machines."""
    monkeypatch.setattr(files, "_lock", lambda descriptor, wait=True: None)
    monkeypatch.setattr(leases, "DURATION", 2.0)
    monkeypatch.setattr(leases, "HEARTBEAT", 0.3)
    begun, lost = tmp_path / "begun", tmp_path / "lost"

    def progress(stage_now: str, fraction: float) -> None:
        if stage_now.startswith(stage) and fraction > 0 and not begun.exists():
            begun.touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    def work() -> None:
        try:
            runs.run(job, {"food101": food}, tmp_path / "runs", "cpu", progress)
        except LeaseLost:
            lost.touch()

    process = forked(work)
    while not begun.exists():
        time.sleep(0.001)
    assert process.pid is not None
    result = runs.run(job, {"food101": food}, tmp_path / "runs", "cpu", no_progress)
    before = stamps(tmp_path / "runs")
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert lost.exists() and stamps(tmp_path / "runs") == before
    assert (
        result.provenance["attempts"] == 2 and not (tmp_path / "runs" / result.id / PARTS).exists()
    )


def stamps(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_a_run_in_which_three_workers_died_is_given_up_once(
    food: Corpus, job: Job, tmp_path: Path
) -> None:
    def attempt(progress: Progress = no_progress) -> Record:
        return runs.run(job, {"food101": food}, tmp_path, "cpu", progress, wait=False)

    def die(stage: str, fraction: float) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(runs.MOST_LOST):
        process = forked(lambda: attempt(die))
        process.join()
        assert process.exitcode == -signal.SIGKILL
    with pytest.raises(WorkerDied, match="lost 3 workers"):
        attempt()
    assert attempt().provenance["attempts"] == 4


def test_a_run_that_ended_by_itself_has_lost_no_worker(
    food: Corpus, job: Job, tmp_path: Path
) -> None:
    def refuse(stage: str, fraction: float) -> None:
        raise UserError("no")

    for _ in range(runs.MOST_LOST + 1):
        with pytest.raises(UserError):
            runs.run(job, {"food101": food}, tmp_path, "cpu", refuse, wait=False)
    state = read_state(tmp_path / job.spec.id)
    assert (state.lost, state.host) == (0, "")
    assert not (tmp_path / job.spec.id / PARTS / LEASE).exists()
