"""Check the guide's method file, its commands and its row on the board."""

import re
import shlex
from pathlib import Path

import pytest
from command import Command
from paths import ROOT

GUIDE = ROOT / "CONTRIBUTING.md"


def block(marker: str) -> str:
    """Return the fenced block that follows a marker comment."""
    match = re.search(rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)```", GUIDE.read_text(), re.S)
    assert match, f"no block '{marker}' in the guide"
    return match.group(1)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_the_guides_method_appears_on_the_board(
    tmp_path: Path, steelyard: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(block("method: mine.py"))
    for line in block("commands").splitlines():
        program, *words = shlex.split(line)
        assert program == "steelyard"
        result = steelyard(*words)
        assert result.code == 0, result.stderr
    board = (tmp_path / "mine-board" / "board.md").read_text()
    assert re.search(r"\| mine\b", board)
    assert "incomplete" not in board
