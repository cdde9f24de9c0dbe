"""A run that raises is a failed run: the others go on, and the next command tries it again."""

from pathlib import Path

import pandas as pd
import pytest
from command import Command

from steelyard.harness.core.errors import UserError
from steelyard.harness.models import registry
from steelyard.harness.records import record
from steelyard.harness.runs.training import TRACEBACK, TRAINING

METHOD = '''
"""Method of a test."""
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
            raise RAISED
        return backbone.loss(backbone.predict(batch), batch).mean(), {}
    fit(backbone, data, meter, step, seed=seed)
'''


@pytest.fixture
def suite(world: Path, tmp_path: Path) -> tuple[str, ...]:
    """A suite of a limit that a method meets, a bug, and a method without fault after both."""
    (tmp_path / "raise").touch()
    raised = {
        "limit": 'UserError("no [bold] images of unequal size")',
        "bug": 'KeyError("a")',
    }
    for name, error in raised.items():
        (tmp_path / f"{name}.py").write_text(METHOD.replace("RAISED", error))
    file = tmp_path / "suite.yaml"
    methods = [str(tmp_path / "limit.py"), str(tmp_path / "bug.py"), "majority"]
    file.write_text(f"methods: {methods}\ntasks: [food101]\nseeds: [0]\nbudget: 2e9\nlimit: 8\n")
    runs = ("--runs", str(tmp_path / "runs"), "--device", "cpu")
    return ("run", str(file), "--data-root", str(world / "food101"), *runs)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_one_entry_cannot_do_ends_no_other(
    steelyard: Command, suite: tuple[str, ...], tmp_path: Path, jobs: str
) -> None:
    done = steelyard(*suite, "--jobs", jobs)
    assert done.code == 1 and "Traceback" not in done.stdout + done.stderr
    records = {r.label: r for r in map(record.read, record.find(tmp_path / "runs"))}
    limit, bug, majority = (records[name] for name in ("limit", "bug", "majority"))
    assert [r.status for r in (limit, bug, majority)] == ["failed", "failed", "done"]
    assert limit.failure == "no [bold] images of unequal size"
    assert bug.failure == "KeyError: 'a'"
    for failed in (limit, bug):
        assert failed.ledger.steps == 2 and failed.ledger.total_flops > 0 and not failed.scores
        assert f"failed {failed.id}: {failed.failure}" in " ".join(done.stdout.split())
        text = (tmp_path / "runs" / failed.id / TRACEBACK).read_text()
        assert "Traceback" in text and "in step" in text
    assert "1 runs done, 2 failed" in done.stdout


def test_a_run_that_raised_is_tried_again(
    steelyard: Command, suite: tuple[str, ...], tmp_path: Path
) -> None:
    assert steelyard(*suite, "--jobs", "1").code == 1
    (tmp_path / "raise").unlink()
    done = steelyard(*suite, "--jobs", "1")
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
        assert steelyard(*suite, "--jobs", "1").code == 1
    folders = record.find(tmp_path / "runs")
    failed = [record.read(folder) for folder in folders]
    assert {r.failure for r in failed} == {"OSError: no space left"}
    trained = {folder: (folder / TRAINING).stat().st_mtime_ns for folder in folders}
    assert steelyard(*suite, "--jobs", "1").code == 0
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
    done = steelyard(*suite, "--jobs", "1")
    assert (done.code, done.stderr) == (2, "error: this needs a package that is missing\n")
    assert not record.find(tmp_path / "runs")
