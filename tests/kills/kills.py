"""End commands at random moments, type them again, and compare all files with undisturbed ones.

    python tests/kills/kills.py OUT [--trials 100] [--seed 0] [--only KIND]

Commands run two small suites, of classifiers and of vision-language models, and write boards. Each
is forked from this process, which has imported everything, so that a trial takes seconds. A moment
is an event of the file system, counted by an audit hook, or a time between two; a fifth of the
trials have worker processes and are ended at a time. The kinds:

    kill       SIGKILL to the command, in trials with workers also to a worker alone
    terminate  SIGTERM to the command alone
    interrupt  SIGINT to the process group, as by Ctrl-C
    full disk  a tmpfs is filled; where mounting is not allowed, every further write fails
    clock      Python's clock jumps by up to ten years; the command goes on
    twice      a second command of the same words starts while the first runs; beyond the trials

Each step of a training has a checkpoint, from which the command goes on. Afterwards all files
(data, base model, weights, items, records) equal those of undisturbed commands but for seconds,
memory, lost work and checksums of records; the boards of records without times are equal; no file
is left over; and ``validate`` finds nothing. OUT/trials.jsonl has a row per trial.
"""

import errno
import gc
import importlib
import itertools
import json
import multiprocessing.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

import click
from run_trees import contents, differences, findings, timeless_boards

from steelyard import tasks
from steelyard.harness.budget import checkpoints
from steelyard.harness.cli.main import main as steelyard
from steelyard.harness.models.tiny_vlm import config, train
from steelyard.harness.runs.parallel import quiet_heavy_libraries
from steelyard.leaderboards.output import style
from steelyard.tasks.world import build

KINDS = ("kill", "terminate", "interrupt", "full disk", "clock", "twice")
ALONE = ("clock", "twice")
"""Kinds that have no trials with workers among the planned ones."""
PHASES = ("data", "base model", "training", "scoring", "record", "board")
SUITES = {
    "classifier": "methods: [joint, modality_dropout]\ntasks: [food101]\nseeds: [0]\n"
    "budget: 1.5e9\nlimit: 16\ncorruptions: [image-blank]\n",
    "vlm": "methods: [sft, dpo]\ntasks: [instruct]\nevaluate: [prior_conflict]\nseeds: [0]\n"
    "backbone: tiny-vlm\nbudget: 2e9\nlimit: 8\n",
}
EVERY_STEP = ("--checkpoint-minutes", "1e-6")
COMMANDS = (
    ("run", "classifier.yaml", "--device", "cpu", *EVERY_STEP),
    ("run", "vlm.yaml", "--device", "cpu", *EVERY_STEP),
    ("leaderboard", "runs", "--jobs", "1"),
)
DISK, BALLAST = 256 * 2**20, "ballast"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")
"""Audit events of the file system; of ``open`` those that write."""
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}
CODES: dict[object, tuple[int, ...]] = {
    "kill": (-signal.SIGKILL, 0),
    "terminate": (130, 0),
    "interrupt": (130, 0),
    "full disk": (1, 2, 0),
    "clock": (0,),
    "twice": (0,),
    True: (1, 0),
}
"""Exit codes by kind, and of a command of which a worker is killed; 0 if it had ended before."""
IMPORTS = (
    "lmms_eval.api.task",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "steelyard.harness.evaluation.evaluate",
    "steelyard.methods._preference.trl",
    "trl",
)
"""Libraries that commands import when they need them."""
START_SECONDS = 10.0  # of workers
SECONDS = 1800  # of one command; none takes that long


def shrink() -> None:
    """Make data, base model and figures as small as they can be; workers import this file too."""
    tasks.WORLD_TRAIN, tasks.WORLD_TEST, build.VALIDATION = 96, 32, 16
    sizes = {"vision_steps": 4, "vision_images": 64, "text_steps": 2, "steps": 4, "images": 40}
    training = config.Training(**sizes, batch=16, vision_batch=16)
    vars(train)["Training"] = lambda: training
    style._save = lambda figure: dict.fromkeys(style.KINDS, b"")


shrink()


@dataclass(frozen=True, slots=True)
class Event:
    """Change of a file, the seconds until the next one, and what it belongs to."""

    path: str
    seconds: float
    phase: str
    following: str
    """Phase of the next event, and of the time until it."""


@dataclass(slots=True)
class Trial:
    """Moment at which a command ends, and what came of it."""

    kind: str
    phase: str
    command: int
    event: int = 0
    delay: float = 0.0
    workers: int = 0
    target: str = "command"
    code: int | None = None
    again: int | None = None
    faults: list[str] = field(default_factory=list)


class Watch:
    """Audit hook that counts changes below a folder and acts at one of them."""

    def __init__(self, root: Path, act: Callable[[], None], event: int, delay: float) -> None:
        self.root, self.act, self.event, self.delay = str(root), act, event, delay
        self.events: list[tuple[str, float]] = []
        self.refuse = self.busy = False

    def __call__(self, name: str, values: tuple[Any, ...]) -> None:
        if name not in CHANGES or self.busy:
            return
        path = str(Path(str(values[1] if name == "os.rename" else values[0])).absolute())
        writes = name != "open" or (isinstance(values[2], int) and values[2] & WRITES)
        if not writes or not path.startswith(self.root):
            return
        self.events.append((path[len(self.root) :], time.monotonic()))
        if len(self.events) == self.event + 1:
            self.busy = True
            if self.delay:
                threading.Timer(self.delay, self.act).start()
            else:
                self.act()
            self.busy = False
        if self.refuse:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Machine:
    """Folder in which commands run, on a small disk of its own where that is allowed."""

    def __init__(self, out: Path) -> None:
        self.root = out / "machine"
        self.root.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(self.root)]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
        self.log = out / "output.txt"

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.root)], check=True)

    def reset(self, snapshot: Path | None) -> None:
        """Set the folder back to a snapshot, by default to the suites alone."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if snapshot is not None:
            shutil.copytree(snapshot, self.root, dirs_exist_ok=True)
            return
        (self.root / "tmp").mkdir()
        for name, text in SUITES.items():
            (self.root / f"{name}.yaml").write_text(text)

    def start(self, words: Sequence[str], prepare: Callable[[], object] = lambda: None) -> int:
        """Fork a process that runs a command; return its id."""
        process = os.fork()
        if process:
            return process
        code: object = 70
        try:
            self._enter(words)
            prepare()
            steelyard()
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        # A signal may come when the command has ended, and nothing may return into the caller.
        try:
            # As Python ends, without the exit handlers of the parent: temporary folders that
            # objects own are removed, and worker processes awaited.
            gc.collect()
            multiprocessing.util._exit_function()  # type: ignore[attr-defined]
            sys.stdout.flush()
        finally:
            os._exit(code if isinstance(code, int) else 0)

    def _enter(self, words: Sequence[str]) -> None:
        """Make a forked process a command of its own, with a log for its output."""
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs ignore it
        os.chdir(self.root)
        with self.log.open("a") as log:
            print("$", *words, file=log, flush=True)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        home = str(self.root / "home")
        os.environ |= {"HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": str(self.root / "tmp")}
        tempfile.tempdir = None  # else that of the parent
        sys.argv = ["steelyard", *words]

    def wait(self, process: int) -> int:
        """Wait for a command and all processes of its group; return its exit code."""
        deadline = time.monotonic() + SECONDS
        while not (ended := os.waitpid(process, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.killpg(process, signal.SIGKILL)
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            for _ in range(500):  # workers notice at once that their parent is gone
                os.killpg(process, 0)
                time.sleep(0.02)
            os.killpg(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(ended[1])

    def fill(self) -> None:
        """Fill the disk to its last block."""
        with (self.root / BALLAST).open("wb", buffering=0) as file, suppress(OSError):
            for _ in range(DISK // 2**20 + 1):
                file.write(bytes(2**20))


def phases(command: int, paths: Sequence[str]) -> list[str]:
    """Return what each event belongs to; a temporary file belongs to what is written next."""
    result: list[str] = []
    following = "record"
    for path in reversed(paths):
        name = path.rpartition("/")[2]
        if command == len(COMMANDS) - 1:
            following = "board"
        elif path.startswith("/home"):
            following = "base model" if "tiny-vlm" in path else "data"
        elif name in (checkpoints.FILE, checkpoints.SPENT):
            following = "training"
        elif name in ("record.json", "before.json"):
            following = "record"
        elif name.endswith(".parquet") or (name.endswith(".json") and "/parts/" in path):
            following = "scoring"
        elif "/weights" in path or name in ("log.jsonl", "training.json"):
            following = "training"
        result.append(following)
    return result[::-1]


def measure(machine: Machine, out: Path) -> list[list[Event]]:
    """Run all commands undisturbed, keep a snapshot after each, and return the events of each."""
    events: list[list[Event]] = []
    for index, words in enumerate(COMMANDS):
        before = out / f"snapshot-{index - 1}" if index else None
        machine.reset(before)
        watch = Watch(machine.root, lambda: None, -2, 0.0)
        file = out / "events.json"

        def prepare(watch: Watch = watch, file: Path = file) -> None:
            def write() -> None:
                file.write_text(json.dumps(watch.events))

            multiprocessing.util.Finalize(None, write, exitpriority=-100)
            sys.addaudithook(watch)

        if code := machine.wait(machine.start([*words, *jobs_of(words, 0)], prepare)):
            raise SystemExit(f"{' '.join(words)} ended with {code}, see {machine.log}")
        raw = json.loads(file.read_text())
        labels = phases(index, [path for path, _ in raw])
        ends = [moment for _, moment in raw[1:]] + [raw[-1][1] + 0.1]
        rows = zip(raw, ends, labels, [*labels[1:], labels[-1]], strict=True)
        events.append([Event(path, end - moment, *pair) for (path, moment), end, *pair in rows])
        shutil.copytree(machine.root, out / f"snapshot-{index}")
    return events


def jobs_of(words: Sequence[str], workers: int) -> tuple[str, ...]:
    return ("--jobs", str(workers)) if words[0] == "run" else ()


def compare(snapshot: Path, root: Path, out: Path) -> list[str]:
    """Return what differs between two folders of commands, and what ``validate`` finds."""
    file = out / "comparison.json"
    process = os.fork()  # so that this process stays without the threads of pyarrow
    if not process:
        code = 1
        try:
            runs = root / "runs"
            faults = differences(contents(snapshot), contents(root)) + findings(runs)
            boards = timeless_boards(runs, out / "boards" / "of-trial")
            reference = out / "boards" / snapshot.name
            if not reference.exists():
                timeless_boards(snapshot / "runs", reference)
            unequal = differences(contents(reference / "board"), boards)
            file.write_text(json.dumps(faults + [f"board: {text}" for text in unequal]))
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(process, 0)[1]:
        return ["the comparison failed"]
    result: list[str] = json.loads(file.read_text())
    return result


def draw(rng: random.Random, kind: str, phase: str, events: Sequence[Sequence[Event]]) -> Trial:
    """Draw a moment of a phase: an event, or a time in the wait for one."""
    rows = [
        (command, number, event)
        for command, listed in enumerate(events)
        for number, event in enumerate(listed)
    ]
    waits = [row for row in rows if row[2].following == phase and row[2].seconds > 0.02]
    if waits and rng.random() < 0.5:
        command, number, event = rng.choice(waits)
        return Trial(kind, phase, command, number, event.seconds * rng.random())
    command, number, event = rng.choice([row for row in rows if row[2].phase == phase])
    return Trial(kind, phase, command, number)


def disturb(machine: Machine, trial: Trial, seconds: Sequence[float], rng: random.Random) -> None:
    """Run the trial's command and end it at its moment."""
    words = [*COMMANDS[trial.command], *jobs_of(COMMANDS[trial.command], trial.workers)]
    ahead = rng.choice((-1, 1)) * rng.uniform(86400, 10 * 365 * 86400)

    def act() -> None:
        if trial.kind == "full disk" and machine.mounted:
            machine.fill()
        elif trial.kind == "full disk":
            watch.refuse = True
        elif trial.kind == "clock":
            now, now_ns = time.time, time.time_ns
            time.time = lambda: now() + ahead
            time.time_ns = lambda: now_ns() + int(ahead * 1e9)
        elif trial.kind == "interrupt":
            os.killpg(os.getpgrp(), signal.SIGINT)
        else:
            os.kill(os.getpid(), SIGNALS[trial.kind])

    watch = Watch(machine.root, act, trial.event, trial.delay)
    if not trial.workers:
        trial.code = machine.wait(machine.start(words, lambda: sys.addaudithook(watch)))
        return
    trial.delay = seconds[trial.command] * rng.random()
    process = machine.start(words)
    time.sleep(trial.delay)
    trial.phase = reached(machine.root, trial.command)
    if trial.kind == "twice":
        second = machine.wait(machine.start(words))
        trial.faults += [f"exit code {second} of the second"] if second else []
    elif trial.kind == "full disk" and machine.mounted:
        machine.fill()
    elif trial.kind == "interrupt":
        os.killpg(process, signal.SIGINT)
    elif trial.kind == "terminate":
        os.kill(process, signal.SIGTERM)
    else:
        children = workers_of(process)
        trial.target = rng.choice(("command", "group", "worker") if children else ("command",))
        if trial.target == "group":
            os.killpg(process, signal.SIGKILL)
        elif trial.target == "worker":
            os.kill(rng.choice(children), signal.SIGKILL)
        else:
            os.kill(process, signal.SIGKILL)
    trial.code = machine.wait(process)


def workers_of(process: int) -> list[int]:
    """Return the ids of a command's worker processes."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    lines = {int(name): Path(f"/proc/{name}/cmdline").read_text() for name in text.split()}
    return [child for child, line in lines.items() if "spawn_main" in line]


def reached(root: Path, command: int) -> str:
    """Return the phase that a command with workers is in, by its files."""
    cache, task = root / "home" / "steelyard", ("food101", "prior_conflict")[command]
    if not list(cache.glob(f"{task}-*")):
        return "data"
    if command and not list(cache.glob("tiny-vlm-*")):
        return "base model"
    method = "modality_dropout" if command else "dpo"
    folders = [folder for folder in (root / "runs").glob("*") if method not in folder.name]
    if any((folder / "training.json").exists() for folder in folders):
        return "scoring"
    return "training"


def run_trial(
    machine: Machine, trial: Trial, seconds: Sequence[float], rng: random.Random, out: Path
) -> None:
    """Disturb a command, type it again, and compare."""
    machine.reset(out / f"snapshot-{trial.command - 1}" if trial.command else None)
    machine.log.write_text("")
    disturb(machine, trial, seconds, rng)
    if trial.code not in CODES[trial.target == "worker" or trial.kind]:
        trial.faults.append(f"exit code {trial.code}")
    (machine.root / BALLAST).unlink(missing_ok=True)
    words = COMMANDS[trial.command]
    trial.again = machine.wait(machine.start([*words, *jobs_of(words, trial.workers)]))
    output = machine.log.read_text()
    if trial.again:
        trial.faults.append(f"exit code {trial.again} when typed again")
    if "Traceback" in output:
        trial.faults.append("a traceback")
    trial.faults += compare(out / f"snapshot-{trial.command}", machine.root, out)
    if trial.faults:
        number = len(list(out.glob("fault-*")))
        shutil.copytree(machine.root, out / f"fault-{number}" / "machine")
        (out / f"fault-{number}" / "output.txt").write_text(output)


def planned(
    trials: int, kinds: Sequence[str], rng: random.Random, events: Sequence[Sequence[Event]]
) -> Iterator[Trial]:
    """Yield trials over all pairs of kinds and phases; every fifth has workers."""
    pairs = [(kind, phase) for kind in kinds if kind != "twice" for phase in PHASES]
    of_workers = [kind for kind in ("kill", *KINDS) if kind in kinds and kind not in ALONE]
    rng.shuffle(pairs)
    for number in range(trials):
        kind, phase = pairs[(number - number // 5) % len(pairs)]
        if number % 5 < 4 or not of_workers:
            yield draw(rng, kind, phase, events)
        else:
            kind = of_workers[number // 5 % len(of_workers)]
            yield Trial(kind, "", rng.randrange(2), workers=rng.choice((1, 2)))
    for _ in range(trials // 20 if "twice" in kinds else 0):
        yield Trial("twice", "", rng.randrange(2), workers=rng.choice((1, 2)))


@click.command()
@click.argument("out", type=Path)
@click.option("--trials", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(KINDS), help="Kind of end.")
def main(out: Path, trials: int, seed: int, only: tuple[str, ...]) -> None:
    """Run the trials, print a table, and exit with 1 if anything was unequal."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in IMPORTS:
        importlib.import_module(name)
    quiet_heavy_libraries()
    machine = Machine(out)
    rng = random.Random(seed)
    rows = []
    try:
        events = measure(machine, out)
        seconds = [START_SECONDS + sum(row.seconds for row in rows) for rows in events]
        counts = Counter(event.phase for event in itertools.chain(*events))
        disks = "tmpfs" if machine.mounted else "patched"
        print(f"{dict(counts)} events, full disks are {disks}", flush=True)
        for trial in planned(trials, only or KINDS, rng, events):
            run_trial(machine, trial, seconds, rng, out)
            rows.append(trial)
            with (out / "trials.jsonl").open("a") as file:
                file.write(json.dumps(asdict(trial)) + "\n")
            print(len(rows), *asdict(trial).values(), flush=True)
    finally:
        machine.close()
    for kind in KINDS:
        cells = [[not row.faults for row in rows if (row.kind, row.phase) == (kind, phase)]
                 for phase in PHASES]  # fmt: skip
        print(f"{kind:10}", *(f"{phase} {sum(cell)}/{len(cell)}" for phase, cell in
                              zip(PHASES, cells, strict=True)), sep="  ")  # fmt: skip
    unequal = sum(bool(row.faults) for row in rows)
    print(f"{len(rows) - unequal} of {len(rows)} equal")
    sys.exit(unequal > 0)


if __name__ == "__main__":
    main()
