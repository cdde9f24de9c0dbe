"""Files of methods are read, not run; own optimisers, own loops and files beside are named."""

from pathlib import Path

import pytest
from paths import ROOT

from steelyard import methods
from steelyard.harness.core.errors import UserError
from steelyard.leaderboards.validate import method_scan

TWO_OPTIMISERS = '''
"""SGD for the image, AdamW for the rest."""
from dataclasses import dataclass
import torch
from torch.optim import SGD as Plain
from . import rest
import helper.parts
from steelyard.methods import About
ABOUT = About(title="Two", kind="control", summary="Two optimisers.")
open("ran.txt", "w")
@dataclass(frozen=True, slots=True)
class Config:
    pass
def train(backbone, data, meter, config, seed):
    image = Plain(backbone.image_encoder.parameters(), lr=0.1)
    other = torch.optim.AdamW(backbone.fusion.parameters())
    for rows in data.positions(8, seed, "train"):
        batch = data.gather(rows)
        backbone.loss(backbone.predict(batch), batch).mean().backward()
        for group in other.param_groups:
            group["lr"] = 0.1
        image.step()
        image.zero_grad()
        meter.step(len(rows))
    while True:
        backbone.predict(data.gather([0]))
    __import__("rest").more()
'''


def line_of(message: str) -> tuple[int, str]:
    """Return the line that a message names, 0 for none, and the message."""
    start = message.partition(":")[0].removeprefix("line ")
    return int(start) if start.isdigit() else 0, message


def test_own_optimisers_own_loops_and_files_beside_the_method_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "two.py"
    path.write_text(TWO_OPTIMISERS)
    (tmp_path / "helper").mkdir()
    messages = sorted(method_scan.check(path, []), key=line_of)
    expected = {
        5: ("imports SGD", "imports optim"), 6: ("imports rest, a file beside",),
        7: ("imports helper, a file beside",), 10: ("calls open",),
        16: ("uses AdamW", "uses optim"),
        17: ("calls positions", "loops over the data"), 19: ("calls backward",),
        20: ("uses param_groups",), 22: ("calls step",), 23: ("calls zero_grad",),
        24: ("calls step",), 25: ("loops over the data",), 27: ("calls __import__",),
    }  # fmt: skip
    lines = [f"line {line}: {part}" for line, parts in expected.items() for part in parts]
    assert messages.pop(0) == "no record has a method file of this name"
    assert len(messages) == len(lines)
    for message, line in zip(messages, lines, strict=True):
        assert message.startswith(line)
    assert not (tmp_path / "ran.txt").exists(), "the file is read and not run"


def test_no_shipped_method_has_a_line_to_review() -> None:
    for name in methods.names():
        (finding,) = method_scan.check(ROOT / "methods" / f"{name}.py", [])
        assert finding == "no record has a method file of this name"


@pytest.mark.parametrize("text", ["def train(:", "x = 1", "\0"])
def test_what_is_no_method_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=r"mine\.py is not a method"):
        list(method_scan.check(tmp_path / "mine.py", []))
