"""Give the command changed files and odd words, and count how it ends.

    python tests/fuzz/session.py OUT [--inputs 10000] [--seed 0] [--only TARGET]

A valid folder of a target is copied and one of its files changed (``mutate``); the commands of the
target read it (``targets``). Every fourth input is a command line of random words. A fault is a
traceback, an exit code other than 0, 1 and 2, more than 20 s, a mistake that is not told in one
line with the file's name, or rows of a question file that are neither used nor counted as left out.
OUT/faults.jsonl has the seed of each fault: ``--first SEED --inputs 1`` repeats one.
"""

import json
import random
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from fuzz.attempt import Attempt, attempt
from fuzz.mutate import mutate
from fuzz.targets import TARGETS, random_words

ROWS = {"pope": "coco_pope_random.json", "conversations": "train.jsonl"}
"""Targets with one file of questions, a line each."""


@dataclass(frozen=True, slots=True)
class Result:
    seed: int
    target: str
    words: list[str]
    file: str
    end: str
    """Exit code, or ``fault``."""
    fault: str
    message: str


class Fuzzer:
    """Writes the valid folder of each target once, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, target in TARGETS.items():
            (root / name).mkdir(parents=True)
            target.write(root / name)
            for number, command in enumerate(target.commands):
                folder = self._copy(name, f"valid-{number}")
                # The first time without a limit: it imports what takes seconds.
                end = attempt([word.format(folder) for word in command], folder, seconds=0)
                assert end.code == 0, f"{name} is not valid unchanged: {end}"

    def _copy(self, name: str, new: str) -> Path:
        """Copy the valid folder to a new one, or make an empty one for random words."""
        folder = self.root / f"{name}-{new}"
        if name == "words":
            folder.mkdir()
        else:
            shutil.copytree(self.root / name, folder)
        return folder

    def run(self, seed: int, only: str = "") -> Result:
        """Try one input."""
        rng = random.Random(seed)
        name = only or ("words" if rng.random() < 0.25 else rng.choice(list(TARGETS)))
        folder = self._copy(name, str(seed))
        if name == "words":
            words, file = random_words(rng), None
        else:
            command = rng.choice(TARGETS[name].commands)
            words = [word.format(folder) for word in command]
            file = mutate(folder / "data", rng)
        end = attempt(words, folder)
        names: list[str] = []
        # A removed or moved file may be missed under another name.
        if file is not None and file.is_file():
            # A finding about a run names its folder.
            folders = [file.parent.name] if name == "records" else []
            names = [file.name, *folders, *filter(None, [TARGETS[name].named])]
        fault = end.fault(names)
        fault = fault or (lost(folder, name, end) if file else "")
        short = [word.replace(str(folder), ".") for word in words]
        relative = str(file.relative_to(folder)) if file else ""
        message = end.stderr.strip()[-300:].replace(str(folder), ".")
        shutil.rmtree(folder)
        return Result(
            seed, name, short, relative, "fault" if fault else str(end.code), fault, message
        )


def lost(folder: Path, name: str, end: Attempt) -> str:
    """Return how many rows of a question file a card of exit code 0 neither uses nor counts."""
    card, rows = folder / "card" / "card.json", ROWS.get(name)
    if end.code != 0 or rows is None or not card.is_file():
        return ""
    (file,) = folder.glob(f"data/**/{rows}")
    lines = sum(bool(line.strip()) for line in file.read_bytes().splitlines())
    core: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))["core"]
    used = sum(split["items"] for split in core["splits"].values())
    left_out = sum(sum(kinds.values()) for kinds in core["skipped"].values())
    return f"{lines} rows, {used} used, {left_out} left out" if lines != used + left_out else ""


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--inputs", default=10_000, help="Number of inputs.")
@click.option("--first", default=0, help="Seed of the first input; the others count up from it.")
@click.option("--only", default="", type=click.Choice([*TARGETS, "words", ""]))
def main(out: Path, inputs: int, first: int, only: str) -> None:
    """Try inputs and print the number of each end, by target."""
    out.mkdir(parents=True, exist_ok=True)
    ends: Counter[tuple[str, str]] = Counter()
    with (
        TemporaryDirectory(prefix="steelyard-fuzz-") as root,
        (out / "faults.jsonl").open("a") as file,
    ):
        fuzzer = Fuzzer(Path(root))
        for seed in range(first, first + inputs):
            result = fuzzer.run(seed, only)
            ends[result.target, result.end] += 1
            if result.fault:
                file.write(json.dumps(vars_of(result)) + "\n")
                file.flush()
                click.echo(f"{seed} {result.target} {result.fault[:300]}")
    columns = ("0", "1", "2", "fault")
    click.echo(f"{'target':16}" + "".join(f"{column:>8}" for column in columns))
    for name in sorted({target for target, _ in ends}):
        click.echo(f"{name:16}" + "".join(f"{ends[name, column]:8}" for column in columns))
    sys.exit(any(end == "fault" for _, end in ends))


def vars_of(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in Result.__slots__}


if __name__ == "__main__":
    main()
