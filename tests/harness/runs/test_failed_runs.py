"""A run that raises is a failed run: the others go on, and the next command tries it again."""

from pathlib import Path

import pandas as pd
import pytest
from command import Command

from steelyard.harness.core.errors import UserError
from steelyard.harness.evaluation import evaluate
from steelyard.harness.models import registry
from steelyard.harness.records import record
from steelyard.harness.runs.attempt import PARTS
from steelyard.harness.runs.training import TRACEBACK, TRAINING

METHOD = '''
"""Method of a test."""
import os
from dataclasses import dataclass
from pathlib import Path
from steelyard.harness.core.errors import UserError
from steelyard.harness.training.fit import fit
from steelyard.methods import About

ABOUT = About(title="Raising", kind="control", summary="Raises while a file is there.")
HERE = Path(__file__)

@dataclass(frozen=True, slots=True)
class Config:
    pass

def train(backbone, data, meter, config, seed):
    def step(batch):
        if meter.steps == 2 and HERE.with_name("raise").exists():
            RAISED
        return backbone.loss(backbone.predict(batch), batch).mean(), {}
    fit(backbone, data, meter, step, seed=seed)
'''


RAISED = {
    "limit": ('raise UserError("no [bold] images of unequal size")', "no [bold] images of unequal"),
    "bug": ('raise KeyError("a")', "KeyError: 'a'"),
    "exit": ("raise SystemExit(0)", "SystemExit: 0"),
    "memory": ('raise MemoryError("12 GB")', "MemoryError: 12 GB"),
}
"""Statement in a method's step and the reason that the record has."""
DEADLY = {
    "killed": ("os.kill(os.getpid(), 9)", "worker killed by signal 9, probably out of memory"),
    "crash": ("os.kill(os.getpid(), 11)", "worker killed by signal 11"),
    "silent": ("os._exit(0)", "worker ended by itself with exit code 0"),
}
"""What ends the process of the step."""


def written(folder: Path, world: Path, statements: dict[str, str]) -> tuple[str, ...]:
    """Write a suite of methods that fail while a file is there, and of one that does not."""
    (folder / "raise").touch()
    for name, statement in statements.items():
        (folder / f"{name}.py").write_text(METHOD.replace("RAISED", statement))
    file = folder / "suite.yaml"
    methods = [*(str(folder / f"{name}.py") for name in statements), "majority"]
    file.write_text(f"methods: {methods}\ntasks: [food101]\nseeds: [0]\nbudget: 2e9\nlimit: 8\n")
    runs = ("--runs", str(folder / "runs"), "--device", "cpu")
    return ("run", str(file), "--data-root", str(world / "food101"), *runs)


@pytest.fixture
def suite(world: Path, tmp_path: Path) -> tuple[str, ...]:
    """Return the words that run a limit that a method meets, a bug, and a method without fault."""
    return written(tmp_path, world, {name: RAISED[name][0] for name in ("limit", "bug")})


@pytest.mark.parametrize(
    ("kinds", "jobs"),
    [
        (RAISED, 0),
        ({"killed": DEADLY["killed"], "limit": RAISED["limit"]}, 1),
        pytest.param(DEADLY, 2, marks=pytest.mark.heavy),
    ],
)
@pytest.mark.usefixtures("blank_figures")
def test_what_one_entry_cannot_do_ends_no_other(
    steelyard: Command,
    world: Path,
    tmp_path: Path,
    kinds: dict[str, tuple[str, str]],
    jobs: int,
) -> None:
    words = written(tmp_path, world, {name: statement for name, (statement, _) in kinds.items()})
    done = steelyard(*words, "--jobs", str(jobs))
    assert done.code == 1 and "Traceback" not in done.stdout + done.stderr
    assert f"1 runs done, {len(kinds)} failed" in done.stdout
    records = {r.label: r for r in map(record.read, record.find(tmp_path / "runs"))}
    assert records.pop("majority").status == "done" and records.keys() == kinds.keys()
    for name, failed in records.items():
        assert failed.status == "failed" and not failed.scores
        assert failed.failure.startswith(kinds[name][1])
        assert f"failed {failed.id}: {failed.failure}" in " ".join(done.stdout.split())
        text = (tmp_path / "runs" / failed.id / TRACEBACK).read_text()
        if name in RAISED:
            assert failed.ledger.steps == 2 and failed.ledger.total_flops > 0
            assert "Traceback" in text and "in step" in text
        else:  # with its process the count is lost: nothing is charged that nobody counted
            assert failed.ledger.steps == failed.ledger.total_flops == 0 and text == failed.failure
    checked = steelyard("validate", str(tmp_path / "runs"))
    assert checked.code == 0, checked.stdout
    board = steelyard("leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "board"))
    front = (tmp_path / "board" / "board.md").read_text()
    assert board.code == 0 and all(name in front for name in kinds)


def test_a_run_that_raised_is_tried_again(
    steelyard: Command, suite: tuple[str, ...], tmp_path: Path
) -> None:
    assert steelyard(*suite, "--jobs", "0").code == 1
    (tmp_path / "raise").unlink()
    done = steelyard(*suite, "--jobs", "0")
    assert done.code == 0 and "1 runs are done already, 2 to go" in done.stdout
    for folder in record.find(tmp_path / "runs"):
        assert record.read(folder).status == "done" and not (folder / TRACEBACK).exists()


def test_what_fails_in_scoring_keeps_its_training(
    steelyard: Command,
    suite: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a full disk, as an example, that is emptied then."""
    (tmp_path / "raise").unlink()

    def full(*args: object, **options: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        assert steelyard(*suite, "--jobs", "0").code == 1
    folders = record.find(tmp_path / "runs")
    failed = [record.read(folder) for folder in folders]
    assert {r.failure for r in failed} == {"OSError: no space left"}
    trained = {folder: (folder / TRAINING).stat().st_mtime_ns for folder in folders}
    assert steelyard(*suite, "--jobs", "0").code == 0
    for folder, before in zip(folders, failed, strict=True):
        again = record.read(folder)
        assert again.status == "done" and again.scores and again.ledger == before.ledger
        assert (folder / TRAINING).stat().st_mtime_ns == trained[folder]


def test_a_mistake_that_ends_every_run_is_one_line(
    steelyard: Command,
    suite: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*args: object) -> None:
        raise UserError("this needs a package that is missing")

    monkeypatch.setattr(registry, "build_untrained", missing)
    done = steelyard(*suite, "--jobs", "0")
    assert (done.code, done.stderr) == (2, "error: this needs a package that is missing\n")
    assert not record.find(tmp_path / "runs")


def test_a_retry_that_is_killed_is_tried_once_more(
    steelyard: Command, suite: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What says that a failed run may be tried again has to outlive its next attempt."""
    assert steelyard(*suite, "--jobs", "0").code == 1
    (tmp_path / "raise").unlink()

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    for moment in ("save", "load"):  # after the training, and before the first variant
        with monkeypatch.context() as patch:
            patch.setattr(registry, moment, interrupt)
            assert steelyard(*suite, "--jobs", "0").code == 130
    done = steelyard(*suite, "--jobs", "0")
    assert done.code == 0 and "1 runs are done already, 2 to go" in done.stdout


@pytest.mark.parametrize("kind", ["train", "run"])
def test_a_failed_training_is_no_finished_one(
    steelyard: Command, suite: tuple[str, ...], tmp_path: Path, kind: str
) -> None:
    words = (kind, *suite[1:], "--jobs", "0")
    assert steelyard(*words).code == 1
    assert steelyard(*words).code == 1
    (tmp_path / "raise").unlink()
    assert steelyard(*words).code == 0


def test_scores_outlive_a_further_variant_that_fails(
    steelyard: Command,
    suite: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "raise").unlink()
    assert steelyard(*suite, "--jobs", "0").code == 0
    before = [record.read(folder) for folder in record.find(tmp_path / "runs")]

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no such corruption here")

    further = (*suite, "--jobs", "0", "--corruption", "image-blank")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", fail)
        done = steelyard(*further)
    assert done.code == 1 and done.stdout.count("RuntimeError: no such corruption here") == 3
    assert [record.read(folder) for folder in record.find(tmp_path / "runs")] == before
    assert steelyard(*further).code == 0
    for folder, old in zip(record.find(tmp_path / "runs"), before, strict=True):
        result = record.read(folder)
        assert set(old.scores) < set(result.scores) and result.ledger == old.ledger
        assert not (folder / TRACEBACK).exists() and not (folder / PARTS).exists()
