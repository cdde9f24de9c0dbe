"""Attempts at a run: one process at a time, counted, and seen from other machines.

All that is unfinished of a run is in ``parts`` of its folder, which its last attempt removes.
"""

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from steelyard.harness.core import lease as leases
from steelyard.harness.core import ranks
from steelyard.harness.core.errors import LeaseLost, UserError
from steelyard.harness.core.files import exclusive, write_json
from steelyard.harness.core.lease import Lease
from steelyard.harness.core.processes import WorkerDied
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.harness.core.readers import read_object

PARTS, LEASE, STATE = "parts", "lease", "attempt.json"


@dataclass(frozen=True, slots=True)
class AttemptState:
    """What is known of an unfinished run, in ``parts/attempt.json``."""

    attempts: int = 0
    lost: int = 0
    """Attempts whose process died."""
    host: str = ""
    """Machine of the attempt that goes on; empty between two."""
    process: int = 0
    begun: float = 0.0
    """Time of its begin, in seconds since 1970."""
    stage: str = ""
    fraction: float = 0.0
    """Of the stage that is done."""


def read_state(folder: Path) -> AttemptState:
    """Read the state of the run in a folder; that of a run without attempts if there is none."""
    try:
        return AttemptState(**read_object(folder / PARTS / STATE))
    except (UserError, TypeError):  # absent, or of another version: it decides no result
        return AttemptState()


class Attempt:
    """Attempt at a run by this process, which holds the run's lease, or for which rank 0 does."""

    def __init__(self, folder: Path, lease: Lease | None, progress: Progress) -> None:
        self._folder, self._lease, self._progress = folder, lease, progress
        self.state = read_state(folder)
        self._written = 0.0
        self.is_finished = False
        """Whether nothing is left to do of the run: then ``parts`` is removed."""

    def begin(self, most_lost: int | None) -> None:
        """Count the attempt; what the last one left behind says whether its process died.

        Raises:
            WorkerDied: ``most_lost`` processes died; the next attempt counts them from 0.
        """
        before = self.state
        lost = before.lost + bool(before.host)
        if most_lost is not None and lost >= most_lost:
            self._write(AttemptState(before.attempts))
            raise WorkerDied(f"lost {lost} workers, each while it worked on this run")
        host, now = platform.node(), time.time()
        self._write(AttemptState(before.attempts + 1, lost, host, os.getpid(), now))

    def report(self, stage: str, fraction: float) -> None:
        """Report progress, to other machines too; raise LeaseLost if the run was taken over."""
        if self._lease is None:
            self._progress(stage, fraction)
            return
        try:
            self._progress(stage, fraction)
        finally:  # before any other reason to end, after which something may be written
            self._lease.check()
        if time.monotonic() - self._written > leases.HEARTBEAT:
            with suppress(UserError):  # a full disk is the run's own affair
                self._write(replace(self.state, stage=stage, fraction=fraction))

    def end(self) -> None:
        """Say that the process did not die."""
        if self.state.host:
            with suppress(UserError):
                self._write(replace(self.state, host="", process=0))

    def _write(self, state: AttemptState) -> None:
        self.state, self._written = state, time.monotonic()
        write_json(self._folder / PARTS / STATE, asdict(state))


@contextmanager
def attempt(folder: Path, progress: Progress = no_progress, *, wait: bool) -> Iterator[Attempt]:
    """Work on a run while no other process does.

    Raises:
        Busy: another process works on it, and this one does not ``wait``.
    """
    parts, is_finished = folder / PARTS, False
    if not ranks.is_main():
        ranks.meet()
        yield Attempt(folder, None, progress)
        return
    with exclusive(folder, wait=wait):
        try:
            with leases.lease(parts / LEASE, wait=wait) as lease:
                work = Attempt(folder, lease, progress)
                ranks.meet()
                try:
                    yield work
                    is_finished = work.is_finished
                except LeaseLost as error:
                    ranks.meet(str(error))
                    raise
                except BaseException:
                    work.end()
                    raise
        finally:
            # After the lease, which is in it; who gets the lease meanwhile finds the record.
            if is_finished:
                shutil.rmtree(parts, ignore_errors=True)
            with suppress(OSError):  # not empty
                parts.rmdir()
