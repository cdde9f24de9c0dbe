"""Progress of a command off a terminal: a line a minute; nothing printed steers a terminal."""

import json
import re

import pytest
from rich.markdown import Markdown
from rich.text import Text

from steelyard.harness.core import progress
from steelyard.harness.core.characters import escaped, is_invisible


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


HOSTILE = (
    "\x1b]0;owned\x07\x1b[2Jred\x9b31m \u202egnp.exe\u2066 \ud800[bold]x[/] :smile: [/nothing]"
)
HARMLESS = "]0;owned[2Jred31m gnp.exe [bold]x[/] :smile: [/nothing]"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_nothing_printed_steers_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(progress.console, "_force_terminal", is_terminal)
    monkeypatch.setattr(progress.console, "_width", 200)
    monkeypatch.setattr(progress.console, "_color_system", None)
    progress.console.print(HOSTILE)
    progress.console.print(Text(HOSTILE), Markdown(HOSTILE))
    progress.console.print(Markdown("[name](https://x.org/\x1b]8;;https://evil.org\x07)"))
    progress.print_table([HOSTILE], [[HOSTILE], [Text(HOSTILE)]], HOSTILE)
    progress.echo(HOSTILE)
    progress.echo(HOSTILE, error=True)
    with progress.show_progress(HOSTILE) as report:
        report(HOSTILE, 0.5)
    out, err = capsys.readouterr()
    if is_terminal:
        # Rich's own: cursor, line erased, style off, links.
        out = re.sub(r"\x1b\[(\?25[lh]|[0-9;]*[mKA])|\x1b\]8;[^\x1b]*\x1b\\|\r", "", out)
    assert err == f"{HARMLESS}\n"
    assert out.count(HARMLESS) >= 6
    assert not [sign for sign in out if sign != "\n" and is_invisible(sign)]


def test_escaped_text_is_json_of_the_same_text() -> None:
    text = 'a "quoted" line\n\u200d \ud800 \U000e0001 é'
    row = json.dumps(text, ensure_ascii=False)
    assert escaped(row).isprintable() and json.loads(escaped(row)) == text


def test_numbers_of_a_table_are_not_broken_into_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.console, "_width", 80)
    heads = ("run", "steps", "training", "evaluation", "hours", "what it needs")
    numbers = ("123456", "7.97e+18", "-2.21e+19", "2.69e-05")
    name, parts = "mbpo(group=2, mine_limit=48) on instruct", "weights 16, activations 33.5"
    progress.print_table(heads, [(name, *numbers, parts), ("joint", 2, 3.5, "", "1e9", "")])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    printed = " ".join(" ".join(lines).split())
    words = {*re.findall(r"[^\s\u2500-\u257f]+", printed)}
    assert words >= {*numbers, *name.split(), *parts.split(), *" ".join(heads).split()}
