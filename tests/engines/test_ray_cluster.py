"""Plans on a Ray cluster of two nodes, started here: ``nox -s ray``."""

import os
import signal
from pathlib import Path

import pytest
from engines.conftest import Reference
from engines.eight_cells import Runs, start, unequal, until
from engines.two_node_ray import two_node_ray

from steelyard.harness.engines import Resources
from steelyard.harness.engines.ray import Ray

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")


def test_plan_survives_the_terminal_a_worker_and_a_node(eight: Reference, tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    with two_node_ray() as (environment, lose_node):
        words = ("run", eight.suite, "--runs", runs.folder, "--on", "ray", "--workers", "2")
        cache = {"XDG_CACHE_HOME": eight.environment["XDG_CACHE_HOME"]}
        command = start(words, {**environment, **cache})
        until(runs.workers, "run at work")
        command.kill()
        command.wait()
        worker, *_ = until(lambda: runs.done() and runs.workers(), "other run at work")
        os.kill(worker, signal.SIGKILL)
        until(lambda: runs.done() >= 3, "third run")
        lose_node()
        until(lambda: runs.done() == 8 and not runs.workers(), "end of eight runs")
    assert not unequal(eight.runs, runs.folder)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_of_this_machine_write_the_files_of_one_process(
    eight: Reference, tmp_path: Path, engine: str
) -> None:
    words = ("run", eight.suite, "--runs", tmp_path / "runs", "--on", engine, "--workers", "2")
    assert start(words, eight.environment).wait() == 0
    assert not unequal(eight.runs, tmp_path / "runs")


def test_error_of_a_task_is_in_the_logs(eight: Reference, tmp_path: Path) -> None:
    plan, runs = tmp_path / "plan.json", tmp_path / "runs"
    assert start(("plan", eight.suite, "-o", plan), eight.environment).wait() == 0
    with two_node_ray() as (environment, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", environment["RAY_ADDRESS"])
        engine = Ray()
        launch = engine.start(plan, runs, Resources(workers=1))
        assert not launch.is_attached
        plan.unlink()
        (name,) = launch.ids
        word = until(lambda: (now := engine.states(launch)[name]) != "RUNNING" and now, "end")
    log = Path(word.removeprefix("FAILED: "))
    assert log.parent == runs / "logs" and "plan.json" in log.read_text()
