"""A training that is ended at any moment and called again: all files as if it had not been."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_trees import contents, differences

from steelyard import tasks
from steelyard.harness.budget import checkpoints
from steelyard.harness.core.progress import no_progress
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.attempt import PARTS
from steelyard.harness.runs.training import train

ALWAYS = 1e-9
"""Minutes between checkpoints: one at each step."""


class Killed(BaseException):
    """Ends an attempt without warning."""


def spec(method: str, budget: str = "3e9", **options: Any) -> RunSpec:
    backbone = {"batch_size": 8}
    return RunSpec(method, "food101", "tiny", budget, 0, options=options, backbone_options=backbone)


def attempt(
    run: RunSpec, world: Path, folder: Path, minutes: float = 0.0, progress: Any = no_progress
) -> str:
    folder.mkdir(exist_ok=True)
    corpus = tasks.load(run.task, world / run.task)
    return train(run, {run.task: corpus}, folder, "cpu", progress, (), minutes).status


def ending(error: BaseException, step: int) -> Callable[[str, float], None]:
    """Return a progress callback that raises the error after a step of training."""
    calls = itertools.count()

    def progress(stage: str, fraction: float) -> None:
        if stage == "training" and next(calls) == step:
            raise error

    return progress


def leftovers(folder: Path) -> dict[str, bytes]:
    """Return the contents of a run's folder without the notes that its record takes up."""
    return {k: v for k, v in contents(folder).items() if Path(k).name != checkpoints.SPENT}


@pytest.fixture
def every_third(monkeypatch: pytest.MonkeyPatch) -> float:
    """Return minutes between checkpoints with which every third step has one."""
    clock = itertools.count()
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(checkpoints, "NOTE_SECONDS", 0.0)
    return 3.5 / 60


@pytest.mark.parametrize(
    "run",
    [
        spec("modality_dropout"),
        spec("unimodal_pretrained"),
        spec("mcr", ceb=1.0, draws=2, pretrain=0.3),
        spec("mbpo", "6e9", group=4, steps=1, mine_limit=64, mine_share=0.6, filters="same"),
    ],
    ids=lambda run: run.method,
)
def test_a_killed_training_ends_as_an_undisturbed_one(
    run: RunSpec, world: Path, tmp_path: Path, every_third: float
) -> None:
    assert attempt(run, world, tmp_path / "plain") == "done"
    steps = json.loads((tmp_path / "plain" / "training.json").read_text())["ledger"]["steps"]
    draws = random.Random(run.method)
    ended = tmp_path / "ended"
    for _ in range(3):
        moment = draws.randrange(3, steps // 3)  # of a further attempt: from its first step
        with pytest.raises(Killed):
            attempt(run, world, ended, every_third, ending(Killed(), moment))
    assert (ended / PARTS / checkpoints.FILE).exists()
    assert attempt(run, world, ended, every_third) == "done"
    assert not differences(leftovers(tmp_path / "plain"), leftovers(ended))
    assert 0 < checkpoints.lost_work(ended / PARTS)["flops"] < 1e9
