"""Runs of one process, with which those of all engines are compared."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines.eight_cells import SUITE, start

BUDGETS = {"short": "2e10", "long": "6e11"}
"""Budgets of a run of about two seconds, and of one of half a minute."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Suite, the environment of its commands, and its runs."""

    suite: Path
    environment: dict[str, str]
    runs: Path


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
    return make_reference(tmp_path_factory.mktemp("eight"), SUITE.format(budget=BUDGETS["short"]))


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a suite of one run that takes longer than Slurm's shortest time limit."""
    text = SUITE.format(budget=BUDGETS["long"])
    text = text.replace("joint, modality_dropout", "joint").replace("0, 1, 2, 3", "0")
    return make_reference(tmp_path_factory.mktemp("long"), text)
