"""Commands that are ended again and again, each time at a later write, lose nothing.

``nox -s kills`` ends them at a hundred random moments, in five ways.
"""

import itertools
import os
from pathlib import Path

import pytest
from command import Command
from run_trees import contents, differences, findings, timeless_boards

SUITE = (
    "methods: [joint]\ntasks: [food101]\nseeds: [0]\nbudget: 1.5e9\nlimit: 16\n"
    "corruptions: [image-blank]\n"
)
FIRST = 3
"""Write at which the first call is ended; each later call gets one further."""
ERRORS = (KeyboardInterrupt(), OSError(28, "No space left on device"))
"""What ends the calls, by turns: Ctrl-C and a full disk."""
CODES = {0, 1, 2, 130}


@pytest.fixture
def words(world: Path, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "two.yaml").write_text(SUITE)
    data = ("--data-root", str(world / "food101"))
    return ("run", str(tmp_path / "two.yaml"), *data, "--device", "cpu", "--runs")


def end_at(patch: pytest.MonkeyPatch, write: int, error: BaseException) -> None:
    """End the process in the middle of a file that it writes, and of all later ones."""
    flush, writes = os.fsync, itertools.count(1)

    def raising(descriptor: int) -> None:
        if next(writes) >= write:
            raise error
        flush(descriptor)

    patch.setattr(os, "fsync", raising)


@pytest.mark.usefixtures("blank_figures")
def test_commands_that_are_ended_at_their_writes_end_in_the_same_files(
    steelyard: Command, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steelyard(*words, str(tmp_path / "a")).code == 0
    codes = []
    for write in itertools.count(FIRST):
        with monkeypatch.context() as patch:
            end_at(patch, write, ERRORS[write % 2])
            done = steelyard(*words, str(tmp_path / "b"))
        codes.append(done.code)
        assert done.code in CODES and "Traceback" not in done.stdout + done.stderr
        if done.code == 0:
            break
    assert len(codes) > 3
    assert not differences(contents(tmp_path / "a"), contents(tmp_path / "b"))
    assert not findings(tmp_path / "b")
    boards = [timeless_boards(tmp_path / name, tmp_path / "scratch") for name in "ab"]
    assert not differences(*boards)
