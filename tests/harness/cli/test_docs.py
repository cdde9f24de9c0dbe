"""Generated pages are current, and their commands exist."""

import re
import shlex

import click
import pytest
import write_docs
from click.testing import CliRunner

from steelyard import tasks
from steelyard.harness.cli.main import cli


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_all_pages_are_current() -> None:
    assert write_docs.stale(write_docs.pages()) == [], "python tests/write_docs.py --write"


def test_every_task_is_in_both_tables() -> None:
    text = write_docs.generated()
    for name in tasks.names():
        assert len(re.findall(rf"^\| `{name}` \|", text, re.MULTILINE)) == 2


def test_a_direction_is_an_arrow() -> None:
    assert "\n| `chair` | **chair_i** ↓, chair_s ↓, recall ↑, length |" in write_docs.generated()


def test_the_commands_of_the_page_exist() -> None:
    text = write_docs.TASK_PAGE.read_text(encoding="utf-8")
    commands = set(re.findall(r"^steelyard (\w+)", text, re.MULTILINE))
    assert {"check", "data"} <= commands
    for command in commands:
        assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0, command


@pytest.mark.parametrize("name", cli.commands)
def test_the_help_of_a_command(name: str) -> None:
    command = command_of(name)
    text, examples = write_docs.help_parts(command)
    assert text.splitlines()[0].endswith(".")
    assert all(not isinstance(param, click.Option) or param.help for param in command.params)
    lines = examples.replace("\\\n", "").splitlines()
    assert any(line.startswith(f"steelyard {name}") for line in lines)
    for line in lines:
        program, called, *words = shlex.split(line, comments=True)
        assert program == "steelyard"
        command_of(called).make_context(called, words)  # a wrong option is an error
