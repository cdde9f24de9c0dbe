"""Curves of training: off by default, over FLOPs, the same for every loop; nothing is sent."""

import json
import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import vlm_toys

from steelyard import methods, tasks
from steelyard.harness.budget.meter import BudgetSpent, Meter
from steelyard.harness.core import environment
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import no_progress
from steelyard.harness.records.budget import Budget
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.training import train
from steelyard.harness.training import tracking

SPEC = RunSpec("joint", "food101", "tiny", "2e9", 0)


class Recorder(ModuleType):
    """Stands for trackio or wandb: writes down what it is called with."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # other libraries ask whether it is installed
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> "Recorder":
            self.calls.append((name, args, kwargs))
            return self

        return call


def run(spec: RunSpec, folder: Path, trackers: Any = ()) -> list[dict[str, float]]:
    """Train a run and return its log."""
    folder.mkdir()
    corpus = tasks.load(spec.task, tasks.find_root(spec.task))
    assert train(spec, {spec.task: corpus}, folder, "cpu", no_progress, trackers).status == "done"
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_log_has_the_first_every_tenth_and_the_last_step() -> None:
    meter, rows = Meter(Budget("x", 1e9), "cpu"), []
    meter.on_log = rows.append
    for step in range(24):
        meter.log({"loss": step}, learning_rate=step / 10)
        meter.step(1)
    assert [row["step"] for row in meter.history] == [1, 11, 21, 24]
    assert [row["learning_rate"] for row in meter.history] == [0.0, 1.0, 2.0, 2.3]
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert meter.diagnostics == {"loss": 11.5}, "the rate is no diagnostic of the record"


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_every_step_is_written_over_flops(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(name)
    monkeypatch.setitem(sys.modules, name, recorder)
    log = run(SPEC, tmp_path / "run", (name,))
    names = [call for call, _, _ in recorder.calls]
    assert names[0] == "init" and names[-1] == "finish" and names.count("log") == log[-1]["step"]
    assert recorder.calls[0][2]["name"] == SPEC.id
    rows = [args[0] for call, args, _ in recorder.calls if call == "log"]
    assert {"step", "flops", "learning_rate", "loss"} <= rows[0].keys()
    flops = [row["flops"] for row in rows]
    assert flops == sorted(flops) and log[-1].items() <= rows[-1].items()
    shares = {key: value for key, value in rows[-1].items() if key.startswith("share/")}
    assert shares.keys() == {"share/forward", "share/backward"}
    assert sum(shares.values()) == pytest.approx(1)
    if name == "wandb":
        assert ("define_metric", ("*",), {"step_metric": "flops"}) in recorder.calls


def test_nothing_is_opened_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorders = {name: Recorder(name) for name in tracking.WRITERS}
    for name, recorder in recorders.items():
        monkeypatch.setitem(sys.modules, name, recorder)
    log = run(SPEC, tmp_path / "run")
    assert log[0]["step"] == 1 and 0 < log[0]["learning_rate"] <= 2e-3
    assert not any(recorder.calls for recorder in recorders.values())
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_tensorboard_gets_a_trainers_curves_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = vlm_toys.build("llava", tmp_path, learning_rate=1e-3)
    sft = methods.load("sft")
    meter, spec = vlm_toys.watched(model, 1e9), RunSpec("sft", "instruct", "toy", "1e9", 0)
    opened = tracking.opened(("tensorboard",), tmp_path, spec)
    with opened as meter.on_log, meter, suppress(BudgetSpent):
        sft.train(model, vlm_toys.train_data(model), meter, sft.Config(), 0)
    log = meter.history
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("loss")
    assert len(losses) == log[-1]["step"] > 1
    assert losses[-1].step == int(log[-1]["flops"] / tracking.STEP_FLOPS)
    assert losses[-1].value == pytest.approx(log[-1]["loss"])
    rates = [event.value for event in events.Scalars("learning_rate")]
    assert max(rates) == pytest.approx(1e-3, rel=0.1) and rates[-1] < max(rates) / 2


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--log trackio needs trackio: pip install 'steelyard\[l"):
        tracking.check_packages(("trackio",))
    tracking.check_packages(())
