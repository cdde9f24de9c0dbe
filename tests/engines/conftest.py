"""Runs of one process, with which those of all engines are compared."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from engines.eight_cells import SUITE, start

SLOW = '''"""Wait at every step where told to, so that a run takes minutes on any machine."""

import os
import time

from steelyard.harness.training.fit import fit
from steelyard.methods import About, NoOptions as Config

ABOUT = About(title="Slow", kind="objective", summary="Wait at every step.")


def train(backbone, data, meter, config, seed):
    def step(batch):
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        return backbone.loss(backbone.predict(batch), batch).mean(), {}

    fit(backbone, data, meter, step, seed=seed, state=[])
'''


@dataclass(frozen=True, slots=True)
class Reference:
    """Suite, the environment of its commands, and its runs."""

    suite: Path
    environment: dict[str, str]
    runs: Path


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """End commands that a failed test has left, and what these have started."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    for process in psutil.Process().children(recursive=True):
        if process.pid not in before:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def make_reference(folder: Path, text: str) -> Reference:
    suite, runs = folder / "suite.yaml", folder / "plain"
    suite.write_text(text)
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    words = ("run", suite, "--runs", runs, "--device", "cpu", "--jobs", "2")
    assert start(words, environment).wait() == 0
    return Reference(suite, environment, runs)


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a suite of eight short runs."""
    return make_reference(tmp_path_factory.mktemp("eight"), SUITE)


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a suite of one run of a hundred steps, each of ``STEP_SECONDS``."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "slow.py").write_text(SLOW)
    text = SUITE.replace("joint, modality_dropout", str(folder / "slow.py"))
    text = text.replace("0, 1, 2, 3", "0").replace("budget: 2e10", "budget: 4e10")
    return make_reference(folder, text)
