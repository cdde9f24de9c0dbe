"""Jobs of the Slurm engine, run by submitit in processes of this machine.

The engine on a real Slurm: ``nox -s slurm``.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from steelyard.harness.core.errors import UserError
from steelyard.harness.engines import Resources, slurm
from steelyard.harness.engines.slurm import Slurm, site_parameters

SECONDS = 30.0
WORKER = """
import os, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
def note(text):
    with log.open("a") as file:
        file.write(f"{text} {os.getppid()} {os.getpid()}\\n")
def leave(number, frame):
    note("left")
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
note("begun")
if log.read_text().count("begun") < int(sys.argv[2]):
    time.sleep(60)
"""
"""Worker that waits to be ended unless it is the start of this number."""


def begin(patch: pytest.MonkeyPatch, log: Path, starts: int) -> None:
    """Start one worker on Slurm's path and wait until it has begun."""
    command = (sys.executable, "-c", WORKER, str(log), str(starts))
    patch.setattr(slurm, "worker_command", lambda *_: command)
    folder = log.parent
    launch = Slurm("local").start(folder / "plan.json", folder, Resources(workers=1, minutes=1))
    assert launch.engine == "slurm" and len(launch.ids) == 1
    wait_for(log, 1)


def wait_for(log: Path, count: int) -> list[list[str]]:
    """Return the lines of the log once there are so many."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if log.exists() and len(lines := log.read_text().splitlines()) >= count:
            return [line.split() for line in lines]
        time.sleep(0.05)
    raise TimeoutError(log.read_text() if log.exists() else "nothing was started")


def test_signalled_job_lets_its_worker_leave_and_is_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    begin(monkeypatch, log, starts=2)
    ((_, job, worker),) = wait_for(log, 1)
    os.kill(int(worker), signal.SIGUSR2)  # Slurm signals all processes of the job
    os.kill(int(job), signal.SIGUSR2)
    events = wait_for(log, 3)
    assert [event for event, *_ in events] == ["begun", "left", "begun"]
    assert events[1][2] == worker and events[2][1] != job


def test_worker_that_is_killed_is_replaced_in_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    begin(monkeypatch, log, starts=2)
    ((_, job, worker),) = wait_for(log, 1)
    os.kill(int(worker), signal.SIGKILL)
    events = wait_for(log, 2)
    assert [event for event, *_ in events] == ["begun", "begun"]
    assert events[1][1] == job and events[1][2] != worker


def test_site_values_are_parameters_of_submitit_or_of_sbatch() -> None:
    site = {"partition": "gpu", "setup": "module load cuda\nexport A=1", "signal-delay-s": "60"}
    assert site_parameters({**site, "reservation": "night", "exclusive": ""}) == {
        "slurm_partition": "gpu",
        "slurm_setup": ["module load cuda", "export A=1"],
        "slurm_signal_delay_s": 60,
        "slurm_exclusive": True,
        "slurm_additional_parameters": {"reservation": "night"},
    }


@pytest.mark.parametrize(("key", "option"), [("time", "--minutes"), ("cpus-per-task", "--cpus")])
def test_site_values_that_are_options_are_refused(key: str, option: str) -> None:
    with pytest.raises(UserError, match=f"--site {key}=3: give {option}"):
        site_parameters({key: "3"})


def test_slurm_needs_a_time_limit_and_an_srun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plan.json"
    with pytest.raises(UserError, match="give --minutes"):
        Slurm().start(plan, tmp_path, Resources(workers=1))
    resources = Resources(workers=1, minutes=1, site={"signal_delay_s": "soon"})
    with pytest.raises(UserError, match="signal_delay_s=soon: give whole seconds"):
        Slurm().start(plan, tmp_path, resources)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"--on slurm: .*srun"):
        Slurm().start(plan, tmp_path, Resources(workers=1, minutes=1))
