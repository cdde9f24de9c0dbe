"""Worker processes: every job is run, messages arrive, and nothing outlives a failure."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path

import pytest
from worker_jobs import LONG_TEXT, double, double_or_end, raise_unreadable

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.processes import WorkerDied, spread, start_workers


@pytest.mark.parametrize(("workers", "parent_works"), [(2, False), (1, True), (5, True)])
def test_every_job_is_run_and_its_messages_arrive(workers: int, parent_works: bool) -> None:
    messages: dict[int, int] = {}

    def on_message(number: int, text: str) -> None:
        messages[number] = len(text)

    jobs = [3, 1, 2, 5]
    results = {}
    waiting = deque(jobs)
    with start_workers(workers) as pool:
        for job, future in spread(double, waiting, pool, on_message, parent_works=parent_works):
            results[job] = future.result()
            if job == 1:
                waiting.append(7)  # jobs may be added while others run
    jobs.append(7)
    assert results == {number: 2 * number for number in jobs}
    assert set(messages.values()) == {LONG_TEXT} and set(messages) <= set(jobs)


def test_a_failed_job_keeps_its_error() -> None:
    with start_workers(1) as pool:
        ((_, future),) = spread(double, deque([-1]), pool, lambda *_: None)
    with pytest.raises(UserError, match="-1 is negative"):
        future.result()


@pytest.mark.parametrize("reason", ["killed by signal 9", "ended by itself with exit code 3"])
def test_a_worker_that_dies_is_replaced_and_its_job_has_the_reason(reason: str) -> None:
    jobs = {2: "", 1: reason, 4: "", 5: ""}
    code = 3 if "exit" in reason else -signal.SIGKILL
    with start_workers(2) as pool:
        work = partial(double_or_end, deadly=1, code=code)
        results = dict(spread(work, deque(jobs), pool, lambda *_: None))
    assert results.keys() == jobs.keys()
    for number, death in jobs.items():
        if not death:
            assert results[number].result() == 2 * number
            continue
        error = results[number].exception()
        assert isinstance(error, WorkerDied) and reason in str(error) and "\n" not in str(error)


def test_workers_that_cannot_start_end_in_one_line() -> None:
    with start_workers(1, os._exit, (7,)) as pool, pytest.raises(UserError, match="exit code 7"):
        list(spread(double, deque([1]), pool, lambda *_: None))


def test_an_error_that_cannot_travel_arrives_as_text() -> None:
    with start_workers(1) as pool:
        ((_, future),) = spread(raise_unreadable, deque([1]), pool, lambda *_: None)
    with pytest.raises(RuntimeError, match="Unreadable: of two arguments"):
        future.result()


SCRIPT = """
import os, sys, time
from collections import deque
from steelyard.harness.core.processes import spread, start_workers

def work(seconds, send_message):
    send_message(os.getpid())
    send_message("x" * 300_000)
    time.sleep(seconds)

def on_message(message):
    if isinstance(message, int):
        print(message, flush=True)
    if sys.argv[1] == "bug":
        raise ValueError("a bug in the parent")

def work_on_nothing():
    with start_workers(1):
        pass  # a mistake of the user, for example: the worker's queue is gone then

if __name__ == "__main__":
    if sys.argv[1] == "nothing":
        sys.exit(work_on_nothing())
    with start_workers(2) as workers:
        list(spread(work, deque([float(sys.argv[2])] * 2), workers, on_message))
"""


def start_script(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_worker_that_is_still_starting_ends_in_silence(tmp_path: Path) -> None:
    process = start_script(tmp_path, "nothing")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_workers_with_unread_messages_end_after_a_bug_in_the_parent(tmp_path: Path) -> None:
    process = start_script(tmp_path, "bug", "0.5")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "a bug in the parent" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_silently_with_an_interrupted_or_killed_parent(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start_script(tmp_path, "sleep", "60")
    assert process.stdout is not None
    workers = [int(process.stdout.readline()) for _ in range(2)]
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and errors.count("Traceback") == (number == signal.SIGINT)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
