"""The guide's own text works: its method file, its commands, its row on the board."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

GUIDE = ROOT / "CONTRIBUTING.md"


def block(marker: str) -> str:
    """The fenced block that follows a marker comment."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)```", GUIDE.read_text(), re.S)
    assert found, f"no block '{marker}' in the guide"
    return found.group(1)


@pytest.mark.slow
def test_the_guides_method_appears_on_the_board(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(block("method: mine.py"))
    for line in block("commands").splitlines():
        program, *words = shlex.split(line)
        assert program == "steelyard"
        command = [
            sys.executable,
            "-c",
            "from steelyard.harness.cli.main import main; main()",
            *words,
        ]
        subprocess.run(command, cwd=tmp_path, check=True)
    board = (tmp_path / "mine-board" / "board.md").read_text()
    assert re.search(r"\| mine\b", board)
    assert "incomplete" not in board
