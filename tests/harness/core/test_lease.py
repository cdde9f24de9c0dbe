"""Leases: one holder at a time, taken over from who went silent, and who lost one is told."""

import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from steelyard.harness.core import lease as leases
from steelyard.harness.core.errors import LeaseLost
from steelyard.harness.core.files import Busy
from steelyard.harness.core.lease import holder, lease


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "DURATION", 1.0)
    monkeypatch.setattr(leases, "HEARTBEAT", 0.2)


def forked(work: Callable[[], None]) -> ForkProcess:
    process = get_context("fork").Process(target=work)
    process.start()
    return process


def held_by_another(path: Path) -> ForkProcess:
    """Return a process that holds a lease until it is killed."""

    def work() -> None:
        with lease(path, wait=False):
            time.sleep(600)

    process = forked(work)
    while holder(path) is None:
        time.sleep(0.01)
    return process


def test_a_lease_has_one_holder_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "lease"
    with lease(path, wait=False) as held:
        held.check()
        owner = holder(path)
        assert owner is not None
        assert (owner.host, owner.process) == (socket.gethostname(), os.getpid())
        with pytest.raises(Busy), lease(path, wait=False):
            pass
        time.sleep(1.5)  # longer than it lasts without a sign of life
        held.check()
        with pytest.raises(Busy), lease(path, wait=False):
            pass
    assert holder(path) is None and list(tmp_path.rglob("*")) == [path.parent]


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "DURATION", 600.0)
    process = held_by_another(tmp_path / "lease")
    process.kill()
    process.join()
    assert holder(tmp_path / "lease") is None
    start = time.monotonic()
    with lease(tmp_path / "lease", wait=False):
        assert time.monotonic() - start < 5


def test_a_process_that_went_silent_loses_its_lease_and_is_told(tmp_path: Path) -> None:
    """As a machine does whose network is gone for a while."""
    path, told = tmp_path / "lease", tmp_path / "told"

    def work() -> None:
        with lease(path, wait=False) as held:
            try:
                while True:
                    held.check()
                    time.sleep(0.01)
            except LeaseLost:
                told.touch()

    process = forked(work)
    while holder(path) is None:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(Busy), lease(path, wait=False):
        pass
    with lease(path, wait=True) as held:
        os.kill(process.pid, signal.SIGCONT)
        process.join(20)
        assert told.exists() and process.exitcode == 0
        held.check()  # who lost it did not remove that of the next one
        assert holder(path) is not None


def test_a_holder_that_wakes_up_is_told_before_its_own_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    with lease(path, wait=False) as held:
        text = path.read_text()
        path.unlink()
        path.write_text(text.replace("token=", "token=f"))
        held._checked = time.monotonic() - 1  # as after a long stop
        held._file._stop_heartbeat()
        with pytest.raises(LeaseLost):
            held.check()
    assert path.exists()
