"""Runs: whole or absent, resumable, repeatable, and failed ones said to be so."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_vlms
from click.testing import CliRunner

from steelyard import tasks
from steelyard.harness.cli.main import cli
from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.progress import no_progress
from steelyard.harness.records import record
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import run, suite
from steelyard.harness.runs.job import Job
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import run_jobs

MEASURED = ("seconds", "seal", "attempts")  # of the machine, the hash over that, interruptions


@pytest.fixture(scope="module")
def food(world: Path) -> Corpus:
    return tasks.load("food101", world / "food101")


def job(food: Corpus, method: str = "joint", budget: str = "4e9", **changes: Any) -> Job:
    data = {"revision": food.revision}
    spec = RunSpec(method, "food101", "tiny", budget, 0, data=data)
    return replace(Job(spec, method, ("food101", "food101@image-blank")), **changes)


def ran(job: Job, food: Corpus, runs: Path) -> record.Record:
    return run.run(job, {"food101": food}, runs, "cpu", lambda doing, share: None)


def without_times(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {k: without_times(v) for k, v in content.items() if k not in MEASURED}
    return content


def stripped(folder: Path) -> tuple[Any, bytes]:
    content = json.loads((folder / record.RECORD).read_text())
    return without_times(content), (folder / record.ITEMS).read_bytes()


def test_twice_the_same_run_gives_the_same_record(
    food: Corpus, world: Path, tmp_path: Path
) -> None:
    result = ran(job(food), food, tmp_path / "a")
    # Data of further tasks is not trained on.
    others = tasks.load("hateful_memes", world / "hateful_memes")
    corpora = {"food101": food, "hateful_memes": others}
    run.run(job(food), corpora, tmp_path / "b", "cpu", no_progress)
    assert stripped(tmp_path / "a" / result.id) == stripped(tmp_path / "b" / result.id)
    assert {score.variant for score in result.scores} == {"clean", "image-blank"}
    assert result.provenance["weights"] and result.provenance["data"]["revision"] == food.revision
    items = pd.read_parquet(tmp_path / "a" / result.id / record.ITEMS)
    assert len(items) == 2 * len(food.splits["test"])


def test_what_has_a_record_is_not_run_again(
    food: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ran(job(food), food, tmp_path)
    monkeypatch.setattr(run, "train", None)
    assert ran(job(food), food, tmp_path) == first
    more = job(food, variants=("food101", "food101@text-blank"))
    wider = ran(more, food, tmp_path)  # evaluates without training again
    assert {s.variant for s in wider.scores} == {"clean", "image-blank", "text-blank"}
    assert set(first.scores) < set(wider.scores)
    items = pd.read_parquet(tmp_path / first.id / record.ITEMS)
    assert len(items) == 3 * len(food.splits["test"])


def test_a_record_of_fewer_items_does_not_pass_for_one_of_all(food: Corpus, tmp_path: Path) -> None:
    few = ran(job(food, limit=20), food, tmp_path)
    everyone = ran(job(food), food, tmp_path)
    assert {score.n for score in few.scores} == {20}
    assert {score.n for score in everyone.scores} == {len(food.splits["test"])}
    assert len(pd.read_parquet(tmp_path / few.id / record.ITEMS)) == 2 * len(food.splits["test"])


def test_parts_of_fewer_items_are_not_used_for_all(
    food: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(record, "write", None)  # dies with its parts on disk
        with pytest.raises(TypeError):
            ran(job(food, limit=20), food, tmp_path)
    everyone = ran(job(food), food, tmp_path)
    assert {score.n for score in everyone.scores} == {len(food.splits["test"])}


def test_an_interrupted_evaluation_keeps_what_it_had(
    food: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.harness.evaluation import evaluate

    real = evaluate.evaluate
    calls: list[str] = []

    def dies_at_the_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(str(args[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(evaluate, "evaluate", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        ran(job(food), food, tmp_path / "a")
    assert not list((tmp_path / "a").rglob(record.RECORD))
    result = ran(job(food), food, tmp_path / "a")
    assert calls == ["food101", "food101@image-blank", "food101@image-blank"]
    monkeypatch.undo()
    ran(job(food), food, tmp_path / "b")
    assert stripped(tmp_path / "a" / result.id) == stripped(tmp_path / "b" / result.id)


NAN = '''
"""Loss that breaks."""
from dataclasses import dataclass
from steelyard.harness.training.fit import fit
from steelyard.methods import About

ABOUT = About(title="Broken", kind="control", summary="Becomes NaN.")

@dataclass(frozen=True, slots=True)
class Config:
    pass

def train(backbone, data, meter, config, seed):
    def step(batch):
        loss = backbone.loss(backbone.predict(batch), batch).mean()
        return loss / (0.0 if meter.steps == 4 else 1.0) * 0.0 if meter.steps == 4 else loss, {}
    fit(backbone, data, meter, step, seed=seed)
'''


def test_a_nan_loss_marks_the_run_failed_and_the_suite_goes_on(
    food: Corpus, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(NAN)
    jobs = [job(food, str(broken)), job(food)]
    options = RunOptions(runs=tmp_path / "runs", device="cpu", jobs=0)
    records = run_jobs(jobs, {"food101": food}, options)
    assert [result.status for result in records] == ["failed", "done"]
    assert records[0].failure == "loss became nan at step 5"
    assert records[0].scores == ()
    assert record.read(tmp_path / "runs" / records[0].id) == records[0]


def test_a_budget_too_small_for_one_step_fails_the_run(food: Corpus, tmp_path: Path) -> None:
    result = ran(job(food, budget="1e6"), food, tmp_path)
    assert result.status == "failed"
    assert result.failure.startswith("budget too small for one step")


WAITING = '''
"""Joint training that waits at its third step for a file."""
import time
from dataclasses import dataclass
from pathlib import Path
from steelyard.harness.training.fit import fit
from steelyard.methods import About

ABOUT = About(title="Waiting", kind="control", summary="Waits in the middle.")
HERE = Path(__file__)

@dataclass(frozen=True, slots=True)
class Config:
    pass

def train(backbone, data, meter, config, seed):
    def step(batch):
        if meter.steps == 2:
            HERE.with_name("waits").touch()
            while not HERE.with_name("go").exists():
                time.sleep(0.05)
        return backbone.loss(backbone.predict(batch), batch).mean(), {}
    fit(backbone, data, meter, step, seed=seed)
'''


@pytest.mark.slow
def test_killed_in_the_middle_a_suite_resumes_to_the_same_records(
    world: Path, tmp_path: Path
) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    suite_file = tmp_path / "two.yaml"
    suite_file.write_text(
        f"methods: [joint, {tmp_path / 'waiting.py'}]\ntasks: [food101]\nseeds: [0]\n"
        "budget: 4e9\ncorruptions: [image-blank]\n"
    )
    words = ["run", str(suite_file), "--data-root", str(world / "food101"), "--device", "cpu"]
    command = [sys.executable, "-c", "from steelyard.harness.cli.main import main; main()", *words]
    first, second = ["--runs", str(tmp_path / "a")], ["--runs", str(tmp_path / "b")]

    killed = subprocess.Popen([*command, *first, "--jobs", "2"], start_new_session=True)
    try:
        while not ((tmp_path / "waits").exists() and record.find(tmp_path / "a")):
            assert killed.poll() is None, "ended before it could be killed"
            time.sleep(0.05)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    (before,) = record.find(tmp_path / "a")
    written = (before / record.RECORD).stat().st_mtime_ns
    (tmp_path / "go").touch()
    for runs in (first, second):
        done = CliRunner().invoke(cli, [*words, *runs, "--jobs", "0"])
        assert done.exit_code == 0, done.output
    assert (before / record.RECORD).stat().st_mtime_ns == written
    names = [folder.name for folder in record.find(tmp_path / "b")]
    assert [folder.name for folder in record.find(tmp_path / "a")] == names and len(names) == 2
    for name in names:
        assert stripped(tmp_path / "a" / name) == stripped(tmp_path / "b" / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: [joint]", "'tasks' must be a list"),
        ("methods: [joint]\ntasks: [food101]\nbugdet: S", "Did you mean 'budget'"),
        ("methods: [jiont]\ntasks: [food101]", "Did you mean 'joint'"),
        ("methods: [joint]\ntasks: [food]", "Did you mean 'food101'"),
        ("tasks: [food101]\nmethods: [joint]\ncorruptions: [image-nois]", "mean 'image-noise'"),
        ("methods: [joint]\ntasks: [food101]\nbudget: huge", "Unknown budget"),
        ("methods: [joint]\ntasks: [food101]\nseeds: [a]", "whole number"),
        ("methods: [{method: joint, option: {}}]\ntasks: [food101]", "Did you mean 'options'"),
        ("methods: [{method: joint, set: {}}]\ntasks: [food101]", "'set' .* is now 'options'"),
        ("methods: [joint, joint]\ntasks: [food101]", "Two entries are called 'joint'"),
        ("methods: [joint\n", "not valid YAML"),
        ("tasks: [food101]\nmethods: [joint]\ntasks: [pope]", r":3: .*the key 'tasks' twice"),
        ("suites: [{path}]", "lists itself"),
        ("- joint", "a suite is a mapping"),
    ],
)  # fmt: skip
def test_mistakes_in_a_suite_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("{path}", str(path)))
    with pytest.raises(UserError, match=message) as caught:
        suites_from(str(path), RunOptions())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("method", "backbone", "options", "expected"),
    [
        ("sft", "some/checkpoint", {}, 1e-4),
        ("sft", "some/checkpoint", {"tune": "full"}, 1e-5),
        ("dpo", "some/checkpoint", {}, 1e-5),
        ("grpo", "some/checkpoint", {"tune": "full"}, 1e-6),
        ("kto", "some/checkpoint", {"learning_rate": 3e-4}, 3e-5),
        ("mcr", "tiny-vlm", {}, 4e-4),
        ("rloo", "tiny-vlm", {}, 4e-5),
        ("mbpo", "tiny", {}, 2e-3),
    ],
)
def test_a_methods_published_rate_is_relative_to_fine_tuning(
    method: str, backbone: str, options: dict[str, Any], expected: float
) -> None:
    spec = RunSpec(method, "instruct", backbone, "S", 0, backbone_options=options)
    assert run.learning_rate(spec) == pytest.approx(expected)
    assert run.learning_rate(replace(spec, learning_rate=0.02)) == 0.02


def test_the_backbone_trains_at_the_methods_rate_and_the_record_has_it(
    food: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from steelyard.methods import About, NoOptions as Config\n"
        "ABOUT = About(title='Mine', kind='control', summary='Logs its rate.',\n"
        "              backbones=('vlm',), learning_rate=0.25)\n"
        "def train(backbone, data, meter, config, seed):\n"
        "    meter.log({'rate': backbone.recipe.learning_rate})\n"
        "    meter.step(1)\n"
    )
    checkpoint = tiny_vlms.make("llava", tmp_path / "llava")
    spec = RunSpec(
        str(tmp_path / "mine.py"),
        "food101",
        str(checkpoint),
        "1e9",
        0,
        backbone_options={"learning_rate": 0.008},
        data={"revision": food.revision},
    )
    result = ran(Job(spec, "mine", ()), food, tmp_path / "runs")
    assert result.diagnostics["rate"] == 0.002 == result.provenance["learning_rate"]
    untrained = ran(Job(replace(spec, method="zero_shot"), "idle", ()), food, tmp_path / "runs")
    assert "learning_rate" not in untrained.provenance


def test_shipped_suites_load() -> None:
    assert {"demo", "world"} <= set(suite.shipped())
    for name in suite.shipped():
        assert all(part.entries for part in suite.load(name))
