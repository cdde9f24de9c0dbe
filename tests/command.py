"""``steelyard`` as a person types it, in the process of the tests: importing takes long."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from steelyard.harness.cli.main import main
from steelyard.harness.core.progress import console


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: object
    stdout: str
    stderr: str


WIDTH = 200

Command = Callable[..., Done]


def typed(
    patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> Done:
    """Call the entry point with these words and keep what it prints and its exit code."""
    patch.setattr(sys, "argv", ["steelyard", *words])
    patch.setattr(console, "width", WIDTH)  # which it read when it was made
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    return Done(code, *capsys.readouterr())
