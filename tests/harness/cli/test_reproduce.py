"""Run records again: equal scores hold, changed records do not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from steelyard import tasks
from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import file_hash
from steelyard.harness.records import record
from steelyard.harness.records.record import RECORD, checksum
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import run
from steelyard.harness.runs.job import Job

MINE = '''
"""Joint training from a user's file."""
from dataclasses import dataclass
from steelyard.harness.training.fit import fit
from steelyard.methods import About
ABOUT = About(title="Mine", kind="control", summary="Joint training.")
@dataclass(frozen=True, slots=True)
class Config:
    pass
def train(backbone, data, meter, config, seed):
    def step(batch):
        return backbone.loss(backbone.predict(batch), batch).mean(), {}
    fit(backbone, data, meter, step, seed=seed)
'''


@pytest.fixture(scope="module")
def food(world: Path) -> Corpus:
    return tasks.load("food101", world / "food101")


@pytest.fixture(scope="module")
def done(food: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small run of a user's method, on equal data."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "mine.py").write_text(MINE)
    spec = RunSpec(
        str(folder / "mine.py"),
        "food101",
        "tiny",
        "640",
        0,
        track="data",
        data={"revision": food.revision},
        source=file_hash(folder / "mine.py"),
    )
    job = Job(spec, "mine", ("food101", "food101@image-blank"), limit=40)
    result = run.run(job, {"food101": food}, folder / "runs", "cpu", lambda doing, share: None)
    return folder / "runs" / result.id


def reproduced(folder: Path, world: Path, out: Path, *words: str) -> Any:
    arguments = ["--out", str(out), "--device", "cpu", "--data-root", str(world / "food101")]
    if "--method" not in words and (folder / RECORD).is_file():
        arguments += ["--method", json.loads((folder / RECORD).read_text())["spec"]["method"]]
    return CliRunner().invoke(cli, ["reproduce", str(folder), *arguments, *words])


def test_equal_scores_weights_and_costs(done: Path, world: Path, tmp_path: Path) -> None:
    printed = reproduced(done, world, tmp_path / "out")
    assert printed.exit_code == 0, printed.output
    assert "equal: weights" in printed.output and "2 scores" in printed.output


@pytest.mark.parametrize("part", ["", "weights", "training.json"])
def test_what_lies_in_the_output_folder_is_not_its_own_work(
    done: Path, world: Path, tmp_path: Path, part: str
) -> None:
    """Neither the submitted run, nor its weights, nor the cost of its training."""
    place = tmp_path / "out" / done.name
    if (done / part).is_dir():
        shutil.copytree(done / part, place / part)
    else:
        place.mkdir(parents=True)
        shutil.copy(done / part, place)
    printed = reproduced(done, world, tmp_path / "out")
    assert isinstance(printed.exception, UserError)
    assert "exists already, and a run that lies there reproduces nothing" in str(printed.exception)


def test_the_file_that_a_record_names_is_not_run_unless_it_is_given(done: Path) -> None:
    printed = CliRunner().invoke(cli, ["reproduce", str(done)])
    assert isinstance(printed.exception, UserError)
    assert str(printed.exception).endswith("give that file with --method.")


def edited(done: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    copy = Path(shutil.copytree(done, folder / done.name))
    content = json.loads((copy / RECORD).read_text())
    change(content)
    content["seal"] = checksum(content)
    (copy / RECORD).write_text(json.dumps(content))
    return copy


def test_a_score_that_does_not_hold_is_shown_with_its_distance(
    done: Path, world: Path, tmp_path: Path
) -> None:
    value = record.read(done).scores[0].value
    copy = edited(done, tmp_path, lambda c: c["scores"][0].update(value=value + 0.05))
    printed = reproduced(copy, world, tmp_path / "out")
    assert printed.exit_code == 1
    assert "0.050000" in printed.output
    assert "1 of 2 scores differ by more than 0" in printed.output
    loose = reproduced(copy, world, tmp_path / "again", "--tolerance", "0.06")
    assert loose.exit_code == 0, loose.output


def test_what_differs_here_is_named(done: Path, world: Path, tmp_path: Path) -> None:
    def elsewhere(content: dict[str, Any]) -> None:
        content["provenance"]["code"] = {"source": "0", "commit": "abc"}
        content["provenance"]["packages"]["torch"] = "1.0"
        content["provenance"]["task"] = "ab"
        content["ledger"]["device"] = "an abacus"

    printed = reproduced(edited(done, tmp_path, elsewhere), world, tmp_path / "out")
    assert printed.exit_code == 0, printed.output
    for part in (
        "other code: recorded abc (source layout 1), here",
        "other files of task food101: recorded ab",
        "other torch: recorded 1.0",
        "recorded an abacus",
    ):
        assert part in printed.output


def test_other_data_another_method_file_and_the_same_folder_are_refused(
    done: Path, world: Path, tmp_path: Path
) -> None:
    def refusal(folder: Path, *words: str, out: Path = tmp_path / "out") -> str:
        printed = reproduced(folder, world, out, *words)
        assert isinstance(printed.exception, UserError), printed.output
        return str(printed.exception)

    foreign = tmp_path / "other"

    def moved(content: dict[str, Any]) -> None:
        content["provenance"]["data"]["splits"]["test"] = "another"

    assert "recorded is another" in refusal(edited(done, foreign, moved))
    (tmp_path / "mine.py").write_text(MINE + "\n# changed\n")
    assert "is not the file that trained" in refusal(done, "--method", str(tmp_path / "mine.py"))
    assert "reproduces nothing" in refusal(done, out=done.parent)
    assert "No method file at" in refusal(done, "--method", str(tmp_path / "none.py"))
    assert "No record at" in refusal(tmp_path / "nothing")
