"""``run --on``: workers are started on a plan, watched, replaced when they die, and ended."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

import pytest
from command import Command

from steelyard.harness import engines
from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.engines import ENDED, Engine, Launch, Resources, launch
from steelyard.harness.engines.launch import EngineOptions
from steelyard.harness.engines.local import Local
from steelyard.harness.records import record
from steelyard.harness.runs import plan as plans
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import open_suite
from steelyard.harness.runs.status import cell_state, states
from steelyard.harness.runs.work import Stop, work

SUITE = "methods: [majority, {}]\ntasks: [food101]\nseeds: [0]\nbudget: 1e9\nlimit: 8\n"
RAISES = '''
"""Method of a test."""
from dataclasses import dataclass
from steelyard.methods import About

ABOUT = About(title="Raising", kind="control", summary="Raises.")

@dataclass(frozen=True, slots=True)
class Config:
    pass

def train(backbone, data, meter, config, seed):
    raise KeyError("no such key")
'''


class Here:
    """Engine whose only worker runs the cells while it is started."""

    def __init__(self, cells: str | None = None, end: str = "COMPLETED") -> None:
        self.cells, self.end = cells, end
        self.stopped = False

    def start(self, plan: Path, runs: Path, resources: Resources) -> Launch:
        content = plans.read(plan)
        indices = plans.select(len(content.cells), self.cells, None)
        work(content, indices, runs, "cpu", Stop())
        return Launch("here", ("0",))

    def states(self, launch: Launch) -> Mapping[str, str]:
        return {"0": self.end}

    def stop(self, launch: Launch) -> None:
        self.stopped = True


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], None]:
    """Return a function that replaces the engines."""

    def replace(engine: Engine) -> None:
        monkeypatch.setattr("steelyard.harness.cli.run.find", lambda name: engine)

    return replace


def words(folder: Path, world: Path, method: str) -> tuple[str, ...]:
    (folder / "raises.py").write_text(RAISES)
    (folder / "suite.yaml").write_text(SUITE.format(method))
    data = ("--data-root", str(world / "food101"), "--runs", str(folder / "runs"))
    return ("run", str(folder / "suite.yaml"), *data, "--on", "ray")


def test_the_exit_code_is_that_of_the_runs(
    steelyard: Command, use: Callable[[Engine], None], world: Path, tmp_path: Path
) -> None:
    use(Here())
    done = steelyard(*words(tmp_path, world, "text_only"))
    assert done.code == 0, done.stderr
    assert "2 done, 0 failed, 0 running, 0 waiting of 2 runs" in done.stdout
    plan = tmp_path / "runs" / "suite.plan.json"
    assert f"steelyard status {plan} --runs {tmp_path / 'runs'}" in done.stdout
    failed = steelyard(*words(tmp_path, world, str(tmp_path / "raises.py")))
    assert failed.code == 1 and "KeyError: 'no such key'" in failed.stdout
    (tmp_path / "raises.py").write_text(RAISES.replace('raise KeyError("no such key")', "pass"))
    assert len(record.find(tmp_path / "runs")) == 3


def test_workers_that_all_ended_early_are_told_apart_from_done_ones(
    steelyard: Command, use: Callable[[Engine], None], world: Path, tmp_path: Path
) -> None:
    use(Here(cells="0", end="FAILED with exit code 2: log.txt"))
    done = steelyard(*words(tmp_path, world, "text_only"))
    assert done.code == 75
    assert "worker 0: FAILED with exit code 2: log.txt" in done.stderr
    assert "1 done, 0 failed, 0 running, 1 waiting" in done.stdout


def test_workers_of_a_cluster_go_on_when_the_watcher_is_interrupted(
    steelyard: Command,
    use: Callable[[Engine], None],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Here(cells="0", end="RUNNING")
    use(engine)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.time, "sleep", interrupt)
    done = steelyard(*words(tmp_path, world, "text_only"))
    assert done.code == 130 and not engine.stopped
    assert "The workers go on. To look at the runs: steelyard status" in done.stderr


@pytest.mark.slow
def test_a_dead_local_worker_is_replaced(world: Path, tmp_path: Path) -> None:
    """The only worker is killed in a run; the one in its place goes on with it."""
    (tmp_path / "suite.yaml").write_text(SUITE.format("joint, text_only"))
    options = RunOptions(data_root=(str(world / "food101"),))
    (suite,) = suites_from(str(tmp_path / "suite.yaml"), options)
    plan = plans.make([open_suite(suite, options)], options)
    plan.write(file := tmp_path / "plan.json")
    runs = tmp_path / "runs"
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            state = cell_state(plan, 1, runs)
            if state.attempts:
                os.kill(state.process, signal.SIGKILL)
                killed.append(state.process)
            time.sleep(0.01)

    thread = Thread(target=kill, daemon=True)
    thread.start()
    engine = Local()
    code = launch.run_on(engine, plan, file, runs, Resources(workers=1))
    assert code == 0 and killed
    assert {state.state for state in states(plan, range(3), runs).values()} == {"done"}
    attempts = [
        record.read(runs / cell.spec.id).provenance.get("attempts", 1) for cell in plan.cells
    ]
    assert sorted(attempts) == [1, 1, 2]


def test_a_worker_that_refuses_its_plan_is_not_begun_again(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    engine = Local()
    started = engine.start(tmp_path / "plan.json", tmp_path / "runs", Resources(workers=1))
    while not all(word.startswith(ENDED) for word in engine.states(started).values()):
        time.sleep(0.05)
    (word,) = engine.states(started).values()
    assert word.startswith("FAILED with exit code 2")
    log = Path(word.partition(": ")[2])
    assert log.read_text().startswith("error: ") and len(log.read_text().splitlines()) == 1


def test_every_worker_has_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visible: list[str] = []

    def start(command: object, environment: Mapping[str, str], log: Path) -> None:
        visible.append(environment["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr("steelyard.harness.engines.local._start", start)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    resources = Resources(workers=2, gpus=2)
    Local().start(tmp_path / "plan.json", tmp_path / "runs", resources)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    Local().start(tmp_path / "plan.json", tmp_path / "runs", resources)
    Local().start(tmp_path / "plan.json", tmp_path / "runs", Resources(workers=1))
    assert visible == ["0,1", "2,3", "4,5", "6,7", ""]
    with pytest.raises(UserError, match="3 workers with 2 GPUs each need 6, and there are 4"):
        Local().start(tmp_path / "plan.json", tmp_path / "runs", Resources(workers=3, gpus=2))


def test_site_values_are_of_the_users_own_file_and_of_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert EngineOptions(on="slurm").resources().site == {}
    (tmp_path / "steelyard").mkdir()
    file = tmp_path / "steelyard" / "site.yaml"
    file.write_text("slurm:\n  partition: gpu\n  account: 0123\n")
    options = EngineOptions(on="slurm", workers=3, site=("partition=long",))
    assert options.resources() == Resources(3, site={"partition": "long", "account": "0123"})
    assert EngineOptions(on="ray").resources().site == {}
    file.write_text("partition: gpu\nslurm: gpu\n")
    with pytest.raises(UserError, match="below the name of an engine"):
        EngineOptions(on="slurm").resources()


@pytest.mark.parametrize("name", engines.ENGINES)
def test_engines_are_found_by_name(name: str) -> None:
    assert {"start", "states", "stop"} <= set(dir(engines.find(name)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "2"), "--workers goes with --on"),
        (("--site", "a=b"), "--site goes with --on"),
        (("--on", "local", "--workers", "0"), "--workers and --cpus have to be 1 or more"),
        (("--on", "local", "--jobs", "2"), "--jobs and --device go without --on"),
        (("--on", "local", "--memory", "4"), "are for clusters"),
        (("--on", "pbs"), "is not one of 'local', 'slurm', 'ray'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    steelyard: Command, world: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    data = ("--data-root", str(world / "food101"), "--runs", str(tmp_path / "runs"))
    done = steelyard("run", "majority", *data, *options)
    assert done.code == 2 and message in done.stderr
