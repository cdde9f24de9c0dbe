"""A suite of eight short runs, workers that are watched from outside, and what has to be equal."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from run_trees import contents, differences

ValueT = TypeVar("ValueT")

SUITE = """methods: [joint, modality_dropout]
tasks: [food101]
seeds: [0, 1, 2, 3]
budget: 2e10
limit: 32
corruptions: [image-blank]
"""
STEELYARD = (sys.executable, "-P", "-c", "from steelyard.harness.cli.main import main; main()")
SECONDS = 900.0
"""Longest wait for anything; a busy machine takes minutes for a plan."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Folder of runs that workers fill."""

    folder: Path

    def done(self) -> int:
        """Return the number of finished runs."""
        return len(list(self.folder.glob("*/record.json")))

    def workers(self) -> list[int]:
        """Return the processes at work."""
        states = []
        for path in self.folder.glob("*/parts/attempt.json"):
            with suppress(FileNotFoundError):  # its run has just ended
                states.append(json.loads(path.read_text()))
        return [state["process"] for state in states if state["host"]]


def start(words: Sequence[object], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start ``steelyard`` with words, in a process of its own."""
    return subprocess.Popen([*STEELYARD, *map(str, words)], env=environment)


def until(condition: Callable[[], ValueT], name: str) -> ValueT:
    """Wait until a condition returns something that is true, and return it."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"no {name} within {SECONDS:g} s")
        time.sleep(0.2)
    return value


def unequal(plain: Path, folder: Path) -> list[str]:
    """Return what differs between runs of one process and those of workers, times aside."""
    pair = []
    for root in (plain, folder):
        runs = tuple(f"{path.parent.name}/" for path in root.glob("*/record.json"))
        pair.append({name: data for name, data in contents(root).items() if name.startswith(runs)})
    return differences(*pair)
