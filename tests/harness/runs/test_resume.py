"""A training that is ended at any moment and called again: all files as if it had not been."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_trees import contents, differences

from steelyard import tasks
from steelyard.harness.budget import checkpoints
from steelyard.harness.core.errors import Interrupted, LeaseLost
from steelyard.harness.core.files import file_hash
from steelyard.harness.core.progress import no_progress
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import training
from steelyard.harness.runs.attempt import PARTS
from steelyard.harness.runs.job import Job
from steelyard.harness.runs.run import run as run_job
from steelyard.harness.runs.training import train

ALWAYS = 1e-9
"""Minutes between checkpoints: one at each step."""


class Killed(BaseException):
    """Ends an attempt without warning."""


def spec(method: str, budget: str = "2e9", **options: Any) -> RunSpec:
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


RUNS = (
    spec("mcr", ceb=1.0, draws=2, pretrain=0.3),
    spec("mbpo", "5e9", group=4, steps=1, mine_limit=64, mine_share=0.6, filters="same"),
)
FURTHER = [
    spec(name, "6e9")
    for name in (
        "balgrad", "image_only", "joint", "joint_unimodal", "late_ensemble", "modality_dropout",
        "ogm_ge", "text_only", "unimodal_pretrained",
    )
]  # fmt: skip


@pytest.mark.parametrize(
    "run",
    [*RUNS, *(pytest.param(run, marks=pytest.mark.heavy) for run in FURTHER)],
    ids=lambda run: run.method,
)
def test_a_killed_training_ends_as_an_undisturbed_one(
    run: RunSpec, world: Path, tmp_path: Path, every_third: float
) -> None:
    assert attempt(run, world, tmp_path / "plain") == "done"
    steps = json.loads((tmp_path / "plain" / "training.json").read_text())["ledger"]["steps"]
    draws = random.Random(run.method)
    ended = tmp_path / "ended"
    for _ in range(2 if run in RUNS else 10):
        # Counted from the first step of an attempt, which is that of a checkpoint.
        moment = draws.randrange(3, steps // 3) if run in RUNS else draws.randrange(1, 5)
        with pytest.raises(Killed):
            attempt(run, world, ended, every_third, ending(Killed(), moment))
    assert (ended / PARTS / checkpoints.FILE).exists()
    assert attempt(run, world, ended, every_third) == "done"
    assert not differences(leftovers(tmp_path / "plain"), leftovers(ended))
    assert 0 < checkpoints.lost_work(ended / PARTS)["flops"] < 1e9


def test_an_interrupted_training_loses_nothing(world: Path, tmp_path: Path) -> None:
    """By a signal or a deadline, which a progress call reports: however rare checkpoints are."""
    run = spec("modality_dropout")
    assert attempt(run, world, tmp_path / "plain") == "done"
    ended = tmp_path / "ended"
    for moment in (4, 0, 9):
        with pytest.raises(Interrupted, match="SIGTERM"):
            attempt(run, world, ended, 600.0, ending(Interrupted("SIGTERM"), moment))
    steps = json.loads((ended / PARTS / checkpoints.SPENT).read_text())
    assert [round(part["reached"][0] / 1e8) for part in steps] == [5, 6, 16]
    assert attempt(run, world, ended, 600.0) == "done"
    assert not differences(leftovers(tmp_path / "plain"), leftovers(ended))
    assert not checkpoints.lost_work(ended / PARTS)


def test_without_checkpoints_an_interrupted_training_starts_anew(
    world: Path, tmp_path: Path
) -> None:
    run = spec("joint")
    with pytest.raises(Interrupted):
        attempt(run, world, tmp_path / "run", 0.0, ending(Interrupted("SIGTERM"), 4))
    assert not (tmp_path / "run" / PARTS / checkpoints.FILE).exists()
    assert attempt(run, world, tmp_path / "run", 0.0) == "done"
    assert checkpoints.lost_work(tmp_path / "run" / PARTS)["flops"] == pytest.approx(5e8, rel=0.1)


def test_who_lost_the_run_writes_no_checkpoint(world: Path, tmp_path: Path) -> None:
    with pytest.raises(LeaseLost):
        attempt(spec("joint"), world, tmp_path / "run", 600.0, ending(LeaseLost("gone"), 4))
    assert not (tmp_path / "run" / PARTS / checkpoints.FILE).exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    """Change a bit of a weight."""
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_a_damaged_checkpoint_is_named_and_training_starts_anew(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = spec("joint"), tmp_path / "run"
    with pytest.raises(Interrupted):
        attempt(run, world, folder, 600.0, ending(Interrupted("SIGTERM"), 10))
    path = folder / PARTS / checkpoints.FILE
    content = path.read_bytes()
    for damage in (cut, flip, empty):
        path.write_bytes(content)
        damage(path)
        capsys.readouterr()
        with pytest.raises(Killed):
            attempt(run, world, folder, 600.0, ending(Killed(), 0))
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{checkpoints.FILE} cannot be used (" in line and "starts anew" in line
        assert not path.exists()


def test_a_checkpoint_of_other_code_is_not_used(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = spec("joint"), tmp_path / "run"
    with pytest.raises(Interrupted):
        attempt(run, world, folder, 600.0, ending(Interrupted("SIGTERM"), 4))
    monkeypatch.setattr(training, "code", lambda: {"source": "other"})
    with pytest.raises(Killed):
        attempt(run, world, folder, 600.0, ending(Killed(), 0))
    assert "is of other code, packages or another device" in capsys.readouterr().err


OWN_STATE = """
from steelyard.harness.training.fit import fit
from steelyard.methods import About, NoOptions as Config

ABOUT = About(title="x", kind="objective", summary="x")


def train(backbone, data, meter, config, seed):
    weights = [1.0]

    def step(batch):
        weights[0] *= 0.9
        return weights[0] * backbone.loss(backbone.predict(batch), batch).mean(), {}

    fit(backbone, data, meter, step, seed=seed)
"""


def test_a_method_that_declares_no_state_starts_anew(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN_STATE)
    run = replace(spec("joint"), method=str(file), source=file_hash(file))
    assert attempt(run, world, tmp_path / "plain") == "done"
    with pytest.raises(Interrupted):
        attempt(run, world, tmp_path / "ended", ALWAYS, ending(Interrupted("SIGTERM"), 9))
    assert attempt(run, world, tmp_path / "ended", ALWAYS) == "done"
    assert not differences(leftovers(tmp_path / "plain"), leftovers(tmp_path / "ended"))


def test_a_record_says_what_was_lost_and_an_undisturbed_one_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "NOTE_SECONDS", 0.0)
    corpora = {"food101": tasks.load("food101", world / "food101")}
    job = Job(spec("joint"), "Joint", ("food101",), limit=8)
    plain = run_job(job, corpora, tmp_path / "plain", "cpu", no_progress)
    assert not {"attempts", "lost"} & plain.provenance.keys()
    with pytest.raises(Killed):
        run_job(job, corpora, tmp_path / "ended", "cpu", ending(Killed(), 9))
    ended = run_job(job, corpora, tmp_path / "ended", "cpu", no_progress)
    assert ended.provenance["attempts"] == 2
    lost = plain.ledger.total_flops * 9 / plain.ledger.steps
    assert ended.provenance["lost"]["flops"] == pytest.approx(lost, rel=0.1)
    assert not differences(contents(tmp_path / "plain"), contents(tmp_path / "ended"))
