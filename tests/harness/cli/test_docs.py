"""The page of the tasks is what their YAML files say, and its commands exist."""

import re

import write_docs
from click.testing import CliRunner

from steelyard import tasks
from steelyard.harness.cli.main import cli


def test_the_page_of_the_tasks_is_current() -> None:
    text = write_docs.PAGE.read_text(encoding="utf-8")
    assert write_docs.page(text) == text, "python tests/write_docs.py --write"


def test_every_task_is_in_both_tables() -> None:
    made = write_docs.generated()
    for name in tasks.names():
        assert len(re.findall(rf"^\| `{name}` \|", made, re.MULTILINE)) == 2


def test_a_direction_is_an_arrow() -> None:
    assert "\n| `chair` | **chair_i** ↓, chair_s ↓, recall ↑, length |" in write_docs.generated()


def test_the_commands_of_the_page_exist() -> None:
    text = write_docs.PAGE.read_text(encoding="utf-8")
    used = set(re.findall(r"^steelyard (\w+)", text, re.MULTILINE))
    assert {"check", "data"} <= used
    for command in used:
        assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0, command
