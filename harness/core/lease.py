"""Leases of files: one process at a time works on something, on all machines of a file system.

with exclusive(folder, wait=False), lease(folder / "lease", wait=False) as held:
    held.check()

The lock of a folder tells at once that a process of this machine has died, but many network file
systems have none across machines. A lease is a file that its holder touches; another process takes
it once it was not touched for ``DURATION``. Both together serve every file system.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import SoftFileLease, Timeout

from steelyard.harness.core.errors import LeaseLost
from steelyard.harness.core.files import Busy, explain_write_errors

DURATION = 120.0
"""Seconds without a sign of life after which another process takes a lease: clocks of the machines
have to agree within less. All processes need the same value."""
HEARTBEAT = 15.0
"""Seconds between two signs of life."""


class Holder(NamedTuple):
    """Process that holds a lease."""

    host: str
    process: int
    silent: float
    """Seconds since its last sign of life."""


class Lease:
    """Lease that this process holds."""

    def __init__(self, file: SoftFileLease) -> None:
        self._file = file
        self._token = file.token
        self._checked = time.monotonic()

    def check(self) -> None:
        """Raise LeaseLost if another process has taken the lease; cheap enough for every step."""
        now = time.monotonic()
        # A process that was stopped for long may come here before its own heartbeat notices.
        if self._file.compromise is None and now - self._checked > HEARTBEAT:
            owner = self._file.owner
            self._checked = now
            if owner is None or owner.token != self._token:
                raise LeaseLost(f"another process took {self._file.lock_file}")
        if self._file.compromise is not None:
            raise LeaseLost(f"{self._file.lock_file}: {self._file.compromise.reason}")


@contextmanager
def lease(path: Path, *, wait: bool) -> Iterator[Lease]:
    """Hold the lease of a file, which is removed at the end, while the block runs.

    Raises:
        Busy: another process holds it, and this one does not ``wait``.
        UserError: the file cannot be written.
    """
    file = SoftFileLease(path, lease_duration=DURATION, heartbeat_interval=HEARTBEAT)
    tries = 0
    with explain_write_errors(path):
        while file.token is None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file.acquire(timeout=-1 if wait else 0, poll_interval=min(1.0, HEARTBEAT))
            except Timeout:
                tries += 1  # the first removes the file of a process that is gone
                if tries > 1:
                    raise Busy(f"{path} is held by another process.") from None
            except FileNotFoundError:  # its holder has just removed the folder
                continue
    try:
        yield Lease(file)
    finally:
        with suppress(OSError):  # a lease that is not removed expires
            file.release()


def holder(path: Path) -> Holder | None:
    """Return who holds the lease of a file; None for nobody, or if that process is gone."""
    try:
        silent = time.time() - path.stat().st_mtime
    except OSError:
        return None
    owner = SoftFileLease(path, lease_duration=DURATION, heartbeat_interval=HEARTBEAT).owner
    if owner is None or silent > DURATION:
        return None
    if owner.hostname == socket.gethostname():
        with suppress(PermissionError):
            try:
                os.kill(owner.pid, 0)
            except ProcessLookupError:
                return None
    return Holder(owner.hostname, owner.pid, silent)
