"""Type a command into this process and judge how it ended."""

import contextlib
import io
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from steelyard.harness.cli.main import main
from steelyard.harness.core.progress import console

SECONDS = 20
WAITING = 10  # a busy machine makes a command wait and is no fault of it
LONGEST_MESSAGE = 1500
MESSAGE = re.compile(r"^(error: |Error: )", re.MULTILINE)


class Hang(BaseException):
    """Raised in the command after ``SECONDS``."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a command ended."""

    code: object
    stdout: str
    stderr: str
    seconds: float
    trace: str = ""

    def fault(self, names: Sequence[str]) -> str:
        """Return what is wrong with this end, or nothing.

        Unless there are none, a finding or message has to have one of the ``names``.
        """
        if self.trace:
            return f"traceback: {self.trace}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if self.code == 0:
            return ""
        if names and not any(name in self.stdout + self.stderr for name in names):
            return f"nothing names {names[0]}"
        if self.code == 1:
            return ""
        messages = MESSAGE.findall(self.stderr)
        if len(messages) != 1:
            return f"{len(messages)} messages"
        message = self.stderr[self.stderr.index(messages[0]) :].strip()
        if "\n" in message:
            return "the message has several lines"
        if len(message) > LONGEST_MESSAGE:
            return f"the message has {len(message)} characters"
        return ""


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise Hang after these seconds of processor time, or ``WAITING`` times as many in all."""

    def stop(*signal_and_frame: object) -> None:
        raise Hang

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, 1),
        (signal.ITIMER_REAL, signal.SIGALRM, WAITING),
    )
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, factor in timers:
        signal.setitimer(timer, seconds * factor)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def attempt(words: Sequence[str], folder: Path, seconds: int = SECONDS) -> Attempt:
    """Type ``steelyard`` and these words in a folder; 0 seconds are no limit."""
    stdout, stderr, code, trace = io.StringIO(), io.StringIO(), 0, ""
    old_words, old_folder = sys.argv, Path.cwd()
    sys.argv, console.width = ["steelyard", *words], 200
    start = time.monotonic()
    os.chdir(folder)
    try:
        with (
            _time_limit(seconds),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            main()
    except SystemExit as end:
        code = end.code
    except Hang:
        trace = f"more than {seconds} s"
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = next((f for f in reversed(frames) if "steelyard" in f.filename), frames[-1])
        line = f"{Path(last.filename).name}:{last.lineno}"
        trace = f"{type(error).__name__}: {str(error)[:200]} at {line}"
    finally:
        sys.argv = old_words
        os.chdir(old_folder)
    out, err = stdout.getvalue(), stderr.getvalue()
    if "Traceback (most recent call last)" in out + err:
        trace = trace or (out + err)[(out + err).index("Traceback (most") :][-400:]
    return Attempt(code, out, err, time.monotonic() - start, trace)
