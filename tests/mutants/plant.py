"""Plant one-line faults in a copy of the source, one at a time, and see which the tests find.

    python tests/mutants/plant.py OUT [--only WORD] [--jobs 2]

``faults.yaml`` lists them. First the tests of all files must pass without one. OUT/results.jsonl
gets one row per fault as soon as it is known, and a second call goes on after the last; the table
is printed at the end. The exit code is 1 if more than ``MISSES`` faults are missed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("harness", "methods", "tasks", "leaderboards")
MISSES = 2
SECONDS = 900  # of one fault's tests; a fault that makes them hang is found


@dataclass(frozen=True, slots=True)
class Fault:
    """A line of the source, what replaces it, and the tests of its file."""

    file: str
    name: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self) -> str:
        """Return the file's text with the fault; ValueError unless it has one place there."""
        text = (ROOT / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.old!r} occurs {text.count(self.old)} times")
        return text.replace(self.old, self.new)


def faults() -> Iterator[Fault]:
    """Yield the listed faults."""
    groups = yaml.safe_load((Path(__file__).parent / "faults.yaml").read_text(encoding="utf-8"))
    for group in groups:
        for row in group["faults"]:
            yield Fault(group["file"], row["fault"], row["old"], row["new"], tuple(group["tests"]))


def _skipped(folder: str, names: list[str]) -> list[str]:
    """Return what is not copied: published records are many and get a link."""
    is_top = Path(folder) == ROOT / "leaderboards"
    return [name for name in names if name == "__pycache__" or (is_top and name == "records")]


def run_tests(fault: Fault | None, tests: list[str]) -> tuple[bool, float]:
    """Return whether the tests fail with this fault, and the seconds they took."""
    with TemporaryDirectory(prefix="steelyard-fault-") as folder:
        copy = Path(folder)
        package = copy / "package" / "steelyard"
        package.mkdir(parents=True)
        for name in PACKAGES:
            shutil.copytree(ROOT / name, copy / name, ignore=_skipped)
            (package / name).symlink_to(copy / name)
        for name in ("tests", "pyproject.toml", "README.md", "docs", "leaderboards/records"):
            (copy / name).symlink_to(ROOT / name)
        if fault:
            (copy / fault.file).write_text(fault.planted(), encoding="utf-8")
        path = os.pathsep.join(map(str, (package.parent, ROOT / "tests" / "fixtures")))
        quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        options = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
        start = time.monotonic()
        try:
            end = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *tests],
                cwd=copy,
                env={**os.environ, **quiet, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                timeout=SECONDS,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True, SECONDS
        if end.returncode not in (0, 1, 2):  # passed, failed, or stopped by an error of collection
            raise RuntimeError(f"pytest ended with {end.returncode}: {end.stdout}{end.stderr}")
        return end.returncode != 0, time.monotonic() - start


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--only", default="", help="Plant only faults with this word in file or name.")
@click.option("--jobs", default=2, help="Faults tried at a time.")
def main(out: Path, only: str, jobs: int) -> None:
    """Plant the listed faults and print which of them the tests find."""
    rows = [fault for fault in faults() if only in f"{fault.file} {fault.name}"]
    tests = sorted({test for fault in rows for test in fault.tests})
    if run_tests(None, tests)[0]:
        raise click.ClickException(f"The tests fail without a fault: {' '.join(tests)}")
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    known = {(row["file"], row["old"], row["new"]): row for row in map(json.loads, lines)}

    def plant(fault: Fault) -> None:
        is_found, seconds = run_tests(fault, list(fault.tests))
        row = {"file": fault.file, "fault": fault.name, "old": fault.old, "new": fault.new}
        row |= {"found": is_found, "seconds": round(seconds, 1)}
        known[fault.file, fault.old, fault.new] = row
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        click.echo(
            f"{'found ' if is_found else 'MISSED'} {seconds:5.0f} s  {fault.file}: {fault.name}"
        )

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(plant, [f for f in rows if (f.file, f.old, f.new) not in known]))
    missed = [f for f in rows if not known[f.file, f.old, f.new]["found"]]
    click.echo(f"\n{len(rows) - len(missed)} of {len(rows)} faults were found. Missed:")
    for fault in missed:
        click.echo(f"  {fault.file}: {fault.name}")
    sys.exit(len(missed) > MISSES)


if __name__ == "__main__":
    main()
