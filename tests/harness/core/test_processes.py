"""Work shared with helpers: in order, everything told is heard, and nothing outlives a failure."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.processes import helpers

MUCH = 300_000
"""Characters, more than a pipe holds unread."""


def load() -> None:
    """Nothing."""


def doubled(thing: int, tell: Callable[..., None]) -> int:
    tell(thing, "x" * MUCH)
    if thing < 0:
        raise UserError(f"{thing} is negative")
    return 2 * thing


@pytest.mark.parametrize("count", [0, 1, 2])
def test_all_things_are_done_also_those_added_and_all_that_is_told_is_heard(count: int) -> None:
    heard: dict[int, int] = {}
    made: dict[int, int] = {}
    left: deque[int] = deque()

    def hear(thing: int, said: str) -> None:
        heard[thing] = len(said)

    def done(thing: int, twice: int) -> None:
        made[thing] = twice
        if thing < 100:
            left.append(thing + 100)  # what is done asks for more

    with helpers(count, load) as crew:
        for things in ([], [7], [*range(6)]):
            heard.clear()
            made.clear()
            left.extend(things)
            crew.share(doubled, left, hear, done, most=count)
            every = [*things, *(thing + 100 for thing in things)]
            assert made == {thing: 2 * thing for thing in every}
            assert heard == dict.fromkeys(every, MUCH)


def own(thing: int, tell: Callable[..., None]) -> int:
    time.sleep(0.2)
    return os.getpid()


def test_helpers_take_part_as_soon_as_they_are_ready() -> None:
    makers: list[int] = []
    with helpers(1, load) as crew:
        assert crew.loaded is not None
        crew.loaded.result()
        crew.share(own, deque(range(4)), print, lambda _, maker: makers.append(maker), most=1)
    assert len(set(makers)) == 2


@pytest.mark.parametrize("count", [0, 1])
def test_after_a_mistake_nothing_more_is_begun(count: int) -> None:
    heard: list[int] = []
    with helpers(count, load) as crew, pytest.raises(UserError, match="-1 is negative"):
        left = deque([-1, -1, *range(100)])
        crew.share(doubled, left, lambda thing, _: heard.append(thing), lambda *_: None, most=count)
    assert len(heard) <= 2


SCRIPT = """
from collections import deque
from multiprocessing import parent_process
from steelyard.harness.core.processes import helpers

def load():
    pass

def work(thing, tell):
    if parent_process() is None:
        raise ValueError("a bug in the parent")
    tell("x" * 300_000)

if __name__ == "__main__":
    with helpers(1, load) as crew:
        crew.loaded.result()
        crew.share(work, deque(["one", "another"]), print, print, most=1)
"""


def test_a_helper_that_is_not_heard_any_more_ends_all_the_same(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1 and "a bug in the parent" in ended.stderr


WAITING = """
def work(thing, tell):
    import time
    time.sleep(60)
"""


def test_an_interrupted_helper_says_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    idle = SCRIPT.replace(', "another"', "")  # one thing, which the parent does itself
    script.write_text(idle.replace("def work(thing, tell):", WAITING))
    started = subprocess.Popen(
        [sys.executable, script],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(3)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=30)
    assert started.returncode != 0 and said.count("Traceback") == 1  # the parent's own
