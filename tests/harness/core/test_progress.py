"""Progress of a command off a terminal: a line a minute."""

import pytest

from steelyard.harness.core import progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_a_minute_says_what_is_done_and_what_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with progress.progress_bar(clock) as bar:
        line = bar.add_task("starting", total=5)
        for second in range(1, 151):
            clock.now = 100.0 + second
            bar.update(line, description="sft-s0: training", completed=second / 100)
    assert capsys.readouterr().out.splitlines() == [
        "1 min: sft-s0: training, 0.6 of 5 (12 %), about 7 min left",
        "2 min: sft-s0: training, 1.2 of 5 (24 %), about 6 min left",
    ]


def test_what_has_no_end_or_has_done_nothing_is_said_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with progress.progress_bar(clock) as bar:
        line = bar.add_task("reading data", total=None)
        clock.now += 61
        bar.advance(line, 250)
        clock.now += 61
        bar.update(line, completed=0, total=10)
    assert capsys.readouterr().out.splitlines() == [
        "1 min: reading data, 250",
        "2 min: reading data, 0 of 10 (0 %)",
    ]


def test_a_short_command_prints_none(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress.progress_bar(clock) as bar:
        line = bar.add_task("starting", total=1)
        clock.now += 59
        bar.update(line, completed=1)
    assert capsys.readouterr().out == ""
