"""A suite of eight short runs, workers that are watched from outside, and what has to be equal."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from run_trees import contents, differences

SUITE = """methods: [joint, modality_dropout]
tasks: [food101]
seeds: [0, 1, 2, 3]
budget: {budget}
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

    def workers(self) -> dict[str, int]:
        """Return the processes at work by their runs."""
        found = {}
        for path in self.folder.glob("*/parts/attempt.json"):
            state = json.loads(path.read_text())
            if state["host"]:
                found[path.parts[-3]] = state["process"]
        return found


def start(words: Sequence[object], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start ``steelyard`` with words, in a process of its own."""
    return subprocess.Popen([*STEELYARD, *map(str, words)], env=environment)


def until(is_so: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.2)


def unequal(plain: Path, folder: Path) -> list[str]:
    """Return what differs between runs of one process and those of workers, times aside."""
    pair = []
    for root in (plain, folder):
        runs = tuple(f"{path.parent.name}/" for path in root.glob("*/record.json"))
        pair.append({name: data for name, data in contents(root).items() if name.startswith(runs)})
    return differences(*pair)
