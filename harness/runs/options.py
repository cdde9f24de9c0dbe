"""Options of the commands that read data or train, each declared once with its help.

``harness.cli.options`` makes a command's options from the fields of these classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from steelyard import tasks
from steelyard.harness.budget.checkpoints import MINUTES
from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.files import user_path
from steelyard.harness.core.options import Help, parse_pairs
from steelyard.harness.core.progress import progress_bar
from steelyard.harness.training.tracking import Tracker
from steelyard.tasks._lmms import stock

RUNS = Path("runs")
# fmt: off
BACKBONE_SET = Help("Option of the backbone, for example precision=bf16 or frozen=true",
                    metavar="KEY=VALUE")
BUDGET = Help("Budget of a run: XS, S, M, L, paper, or a number of FLOPs such as 5e12, on the data "
              "track of training items", "the suite's")
DEVICE = Help("Device: auto, cpu, cuda or cuda:1")
INCLUDE_PATH = Help("Folder of your own lmms-eval task files", metavar="DIR")
LABEL = Help("Name of the entry on boards", "the method's or model's", "NAME")
JOBS = Help("Number of processes", "one per CPU core, 1 on a GPU")
RUN_JOBS = Help("Number of processes that run; 0 runs in the command's own, for a debugger",
                "one per CPU core, 1 on a GPU")
LIMIT = Help("Number of items to evaluate on per task", "all")
METHOD_FILE = Help("File of a method that is not in the package", metavar="FILE.py")
OUT = Help("Output folder", is_output=True)
SEEDS = Help("Seeds, for example 0,1,2 or 0-4", "the suite's")

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Options of every command that reads data."""

    data_root: Annotated[Texts, Help(
        "Folder of a task's data", "generated data", metavar="[TASK=]DIR")] = ()
    data_set: Annotated[Texts, Help(
        "Option of a task's loader, for example plot=first or pope.source=gqa",
        metavar="[TASK.]KEY=VALUE")] = ()
    max_bad: Annotated[float, Help("Fraction of unusable rows above which reading fails")] = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(DataOptions):
    """Options of the commands that train; those not given keep the suite's values."""

    tasks: Annotated[Texts, Help("Task to train and evaluate on", flag="--task")] = ()
    evaluate: Annotated[Texts, Help("Further task to score a vision-language model on")] = ()
    corruptions: Annotated[Texts, Help(
        "Corruption to score on, for example image-noise:1-5; none leaves out a suite's",
        "the suite's; a single method is scored on clean items", flag="--corruption")] = ()
    seeds: Annotated[str | None, SEEDS] = None
    budget: Annotated[str | None, BUDGET] = None
    track: Annotated[Literal["compute", "data", "anytime"] | None, Help(
        "What is equal for all methods: compute [default] or data; anytime runs a quarter, a half "
        "and all of the compute budget")] = None
    wall: Annotated[float | None, Help(
        "Cap on device seconds, whichever limit is reached first", metavar="SECONDS")] = None
    tuned: Annotated[tuple[Path, ...], Help(
        "Also run the settings chosen in this file of 'steelyard tune'", metavar="FILE")] = ()
    oracle: Annotated[bool, Help(
        "With --tuned, also the settings that test items choose; never ranked")] = False
    backbone: Annotated[str | None, Help(
        "Preset, IMAGE+TEXT encoders, or a model's id or path")] = None
    backbone_set: Annotated[Texts, BACKBONE_SET] = ()
    method_set: Annotated[Texts, Help(
        "Option of the method; only with a single method", metavar="KEY=VALUE", flag="--set")] = ()
    trl: Annotated[Texts, Help(
        "Setting of the method's TRL trainer, for example loss_type=ipo; only with a single method",
        metavar="KEY=VALUE")] = ()
    label: Annotated[str | None, LABEL] = None
    methods: Annotated[Texts, Help(
        "Method to add to the suite, also from a file of your own", metavar="NAME|FILE.py",
        flag="--method")] = ()
    include_path: Annotated[tuple[Path, ...], INCLUDE_PATH] = ()
    limit: Annotated[int | None, LIMIT] = None
    split: Annotated[str | None, Help(
        "Split to score [default: test]; val to choose settings")] = None
    runs: Annotated[Path, Help(
        "Folder of runs; finished runs are not repeated", is_output=True)] = RUNS
    log: Annotated[tuple[Tracker, ...], Help(
        "Also write curves of training, over FLOPs, with this package (extra [log])")] = ()
    checkpoint_minutes: Annotated[float, Help(
        "Minutes between two checkpoints of a training, from which the same command continues if "
        "it ends; 0 for none")] = MINUTES
    jobs: Annotated[int | None, RUN_JOBS] = None
    device: Annotated[str, DEVICE] = "auto"
    dry_run: Annotated[bool, Help("Print the plan and its cost, then stop")] = False
    # fmt: on

    def __post_init__(self) -> None:
        if not self.checkpoint_minutes >= 0:
            raise UserError(
                f"--checkpoint-minutes {self.checkpoint_minutes:g}: give minutes, or 0 for none."
            )


def parse_loader_options(pairs: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read ``KEY=VALUE`` for the only task, or ``TASK.KEY=VALUE``, into options by task."""
    options: dict[str, dict[str, str]] = {}
    for text, value in parse_pairs(pairs).items():
        task, dot, key = text.rpartition(".")
        if not dot:
            if len(names) != 1:
                raise UserError(f"--data-set {text}: with several tasks write TASK.{text}=...")
            task = names[0]
        check_known("task of --data-set", task, names)
        options.setdefault(task, {})[key] = value
    return options


def parse_roots(texts: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Read ``DIR`` for the only task, or ``TASK=DIR``; ``stock/`` may be left out of a name.

    The data set of a hub id is converted into the user's cache folder.
    """
    from steelyard.harness.datacheck import convert

    roots = {}
    for text in texts:
        task, equals, root = text.partition("=")
        if task not in names and stock.PREFIX + task in names:
            task = stock.PREFIX + task
        # A folder's own name may have an equals sign.
        is_folder = len(names) == 1 and user_path(text).is_dir()
        is_pair = bool(equals) and (task in names or user_path(root).is_dir())
        if is_folder or not is_pair:
            if len(names) != 1:
                raise UserError(f"--data-root {text}: with several tasks write TASK=DIR.")
            task, root = names[0], text
        if (folder := user_path(root)).is_dir():
            roots[task] = folder
        elif task not in tasks.names() or not convert.is_hub_id(root):
            raise UserError(f"--data-root: no folder at {root}.")
        else:
            roots[task] = _convert_hub_copy(task, root)
    return roots


def _convert_hub_copy(task: str, hub_id: str) -> Path:
    from steelyard.harness.datacheck import convert

    with progress_bar() as bar:
        line = bar.add_task(f"converting {hub_id}", total=None)
        return convert.ensure(task, hub_id, lambda rows: bar.update(line, completed=rows))
