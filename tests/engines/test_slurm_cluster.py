"""Plans on a real Slurm of one node, started here: ``nox -s slurm``."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engines.conftest import Reference
from engines.eight_cells import Runs, start, unequal, until
from engines.one_node_slurm import one_node_slurm, reason_without

from steelyard.harness.core.errors import UserError
from steelyard.harness.engines import Launch, Resources
from steelyard.harness.engines.slurm import Slurm
from steelyard.harness.records import record

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def slurm() -> Iterator[None]:
    """Start Slurm for the tests of this file."""
    if reason := reason_without():
        pytest.skip(reason)
    with one_node_slurm() as environment, pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, environment[name])
        yield


def output(*words: str) -> list[str]:
    """Return the lines that a command of Slurm prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]


def run_on_slurm(reference: Reference, runs: Path, *words: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "XDG_CACHE_HOME": reference.environment["XDG_CACHE_HOME"]}
    return start(("run", reference.suite, "--runs", runs, "--on", "slurm", *words), environment)


def test_plan_survives_a_killed_task_and_a_requeue(eight: Reference, tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    command = run_on_slurm(eight, runs.folder, "--workers", "2", "--gpus", "1", "--minutes", "60")
    pair = until(lambda: len(now := runs.workers()) == 2 and runs.done() and now, "two at work")
    gpus = {psutil.Process(process).environ()["CUDA_VISIBLE_DEVICES"] for process in pair}
    assert gpus == {"0", "1"}
    killed = pair[0]
    task = psutil.Process(killed).parent()
    assert task is not None
    job = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**task.environ())
    for process in (task.pid, killed):  # first who would replace the worker
        os.kill(process, signal.SIGKILL)
    until(lambda: runs.done() >= 3 and runs.workers(), "other run at work")
    (other,) = output("squeue", "--noheader", "--states=running", "--format=%i")
    assert other != job
    subprocess.run(("scontrol", "requeue", other), check=True)
    assert command.wait() == 0
    assert not unequal(eight.runs, runs.folder)
    sacct = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", "--jobs")
    assert output(*sacct, job) == ["FAILED"]
    until(lambda: output(*sacct, other) == ["COMPLETED"], "end of the requeued job")


def test_run_longer_than_the_time_limit_goes_on_in_the_next_job(
    long: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slurm's signal comes up to a minute early.
    words = ("--minutes", "2", "--site", "signal_delay_s=20")
    monkeypatch.setenv("STEP_SECONDS", "1.2")
    command = run_on_slurm(long, tmp_path / "runs", *words)
    assert command.wait() == 0
    assert not unequal(long.runs, tmp_path / "runs")
    (folder,) = record.find(tmp_path / "runs")
    assert record.read(folder).provenance["attempts"] > 1


def test_preempted_worker_begins_again_and_a_stopped_one_does_not(
    eight: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", eight.environment["XDG_CACHE_HOME"])
    plan, runs = tmp_path / "plan.json", Runs(tmp_path / "runs")
    assert start(("plan", eight.suite, "-o", plan), eight.environment).wait() == 0
    engine = Slurm()
    launch = engine.start(plan, runs.folder, Resources(workers=1, minutes=5))
    (first,) = until(runs.workers, "run at work")
    urgent = ("srun", "--partition=urgent", "--cpus-per-task=2", "true")
    subprocess.run(urgent, check=True)
    (worker,) = until(lambda: first not in (now := runs.workers()) and now, "second worker")
    engine.stop(launch)
    until(lambda: not psutil.pid_exists(worker), "end of the worker")
    until(lambda: Slurm().states(launch)[launch.ids[0]].startswith("CANCELLED"), "cancelled state")
    assert runs.done() < 8 and not runs.workers()


def test_refusal_of_slurm_is_one_line(tmp_path: Path) -> None:
    resources = Resources(workers=1, minutes=1, site={"partition": "absent"})
    with pytest.raises(UserError, match=r"Slurm refused the job: .*invalid partition") as error:
        Slurm().start(tmp_path / "plan.json", tmp_path, resources)
    assert "\n" not in str(error.value)


def test_state_of_a_job_that_slurm_has_forgotten_is_an_end() -> None:
    assert Slurm().states(Launch("slurm", ("999999",))) == {"999999": "FINISHED"}
