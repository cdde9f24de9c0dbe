"""Plan: the runs of suites as one JSON file, from which workers anywhere take the next one.

plan = read(Path("plan.json"))
for index in select(len(plan.cells), cells="3,7-9", share=None): ...

The file says all that decides a record: the code, the data by revision, and each run's job. A
worker refuses a plan of other code or of another schema, and data of another revision.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steelyard.harness.budget.checkpoints import MINUTES
from steelyard.harness.core.environment import code
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import file_hash, write_json
from steelyard.harness.core.options import Options
from steelyard.harness.core.readers import read_object
from steelyard.harness.records.record import RecordKind, build
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.job import Job, alike
from steelyard.harness.runs.options import DataOptions, RunOptions, parse_roots
from steelyard.harness.runs.parallel import OpenSuite, load_corpora
from steelyard.harness.training.tracking import Tracker
from steelyard.tasks._lmms import stock

SCHEMA = 1
JOB_FIELDS = ("spec", "label", "variants", "split", "limit", "kind", "tuning")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run is estimated to take."""

    hours: float
    """On the plan's card."""
    memory_gb: float
    """Of the device, on a CPU of the process, at the dearest moment of training."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """Data of one task."""

    options: Mapping[str, str]
    """Of the loader."""
    revision: str
    splits: Mapping[str, str]
    """Revision of each split."""
    root: str = ""
    """Folder; empty for where the task's data is by default."""


@dataclass(frozen=True, slots=True)
class PlannedData:
    """Data that the runs of a suite read; its items suit the backbone."""

    backbone: str
    backbone_options: Options
    tasks: Mapping[str, PlannedTask]

    def outlines(self) -> dict[str, Corpus]:
        """Return the data sets without items, which tell whether a record is of the same."""
        return {
            name: Corpus(name, Path(), (), False, {}, task.revision, split_revisions=task.splits)
            for name, task in self.tasks.items()
        }


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a plan."""

    spec: RunSpec
    label: str
    variants: tuple[str, ...]
    split: str
    limit: int | None
    kind: RecordKind
    tuning: Mapping[str, Any] | None
    data: int
    """Index of what it reads."""
    needs: Needs | None = None

    def job(self, **settings: Any) -> Job:
        """Return the job that a worker runs, with settings that change no number of it."""
        return Job(**{name: getattr(self, name) for name in JOB_FIELDS}, **settings)


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs with the code and the data that they are for."""

    cells: tuple[Cell, ...]
    data: tuple[PlannedData, ...]
    folder: str
    """Working folder, to which relative paths in it refer."""
    include_path: tuple[str, ...] = ()
    """Folders of the user's own task files."""
    log: tuple[Tracker, ...] = ()
    checkpoint_minutes: float = MINUTES
    max_bad: float = 0.01
    """Fraction of unusable rows above which reading fails."""
    card: str = ""
    """What hours and memory are estimated for; empty without estimates."""
    source: str = field(default_factory=lambda: str(code()["source"]))
    """Hash of steelyard's code."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """Time in UTC. What failed before it is tried again, what failed after it is settled."""
    schema: int = SCHEMA

    @property
    def made_at(self) -> float:
        """Time at which it was made, in seconds since 1970."""
        return datetime.fromisoformat(self.created).timestamp()

    def job(self, index: int) -> Job:
        """Return the job of a cell."""
        minutes = self.checkpoint_minutes
        return self.cells[index].job(trackers=self.log, checkpoint_minutes=minutes)

    def write(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_json(path, asdict(self))


def read(path: Path) -> Plan:
    """Read a plan that was made with this code.

    Raises:
        UserError: the file is no plan, has an unknown key, or is of another schema or other code.
    """
    content = read_object(path)
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: schema {content.get('schema')}, this version reads plans of schema {SCHEMA}: "
            "make it again with 'steelyard plan'."
        )
    try:
        content["data"] = tuple(
            build(PlannedData, {**part, "tasks": _built(PlannedTask, part["tasks"])})
            for part in content["data"]
        )
        content["cells"] = tuple(map(_cell, content["cells"]))
        tuples = {name: tuple(content.get(name, ())) for name in ("include_path", "log")}
        plan: Plan = build(Plan, {**content, **tuples})
        _ = plan.made_at
        if any(not 0 <= cell.data < len(plan.data) for cell in plan.cells):
            raise ValueError("a cell's data is missing")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a plan of steelyard: {error}.") from error
    if plan.source != (source := code()["source"]):
        raise UserError(
            f"{path} was made with other code (source {plan.source}, here {source}): make it again "
            "with 'steelyard plan', or install the version that made it."
        )
    return plan


def _built(kind: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: build(kind, part) for name, part in parts.items()}


def _cell(content: Mapping[str, Any]) -> Cell:
    needs = content["needs"] and build(Needs, content["needs"])
    spec = build(RunSpec, content["spec"])
    variants = tuple(content["variants"])
    cell: Cell = build(Cell, {**content, "spec": spec, "needs": needs, "variants": variants})
    return cell


def select(count: int, cells: str | None, share: str | None) -> list[int]:
    """Return the indices of the cells that ``--cells 3,7-9`` or ``--share 2/8`` names, or all.

    Cells count from 0, as in ``status``; of N shares the K-th, from 1, has every N-th cell.
    """
    if cells is not None and share is not None:
        raise UserError("--cells and --share: give one of them.")
    if share is not None:
        part, slash, parts = share.partition("/")
        if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            raise UserError(f"--share {share}: write K/N, such as 2/8, with K from 1 to N.")
        return list(range(int(part) - 1, count, int(parts)))
    if cells is None:
        return list(range(count))
    indices: list[int] = []
    for text in cells.split(","):
        low, dash, high = text.partition("-")
        if not (low.isdecimal() and (not dash or high.isdecimal())):
            raise UserError(f"--cells {cells}: write 3,7-9.")
        indices += range(int(low), int(high if dash else low) + 1)
    if outside := [index for index in indices if index >= count]:
        raise UserError(f"--cells {cells}: there is no cell {outside[0]}, only 0-{count - 1}.")
    return list(dict.fromkeys(indices))


def make(
    suites: Sequence[OpenSuite],
    options: RunOptions,
    needs: Mapping[str, Needs] | None = None,
    card: str = "",
) -> Plan:
    """Return the plan of suites that are open; ``needs`` has those of a run by ``alike``."""
    cells, data = [], []
    for index, opened in enumerate(suites):
        suite, roots = opened.suite, parse_roots(options.data_root, opened.suite.all_tasks)
        tasks = {
            name: PlannedTask(
                dict(suite.data_options.get(name, {})),
                corpus.revision,
                dict(corpus.split_revisions),
                str(roots[name].absolute()) if name in roots else "",
            )
            for name, corpus in opened.corpora.items()
        }
        data.append(PlannedData(suite.backbone, suite.backbone_options, tasks))
        cells += [
            Cell(
                **{name: getattr(job, name) for name in JOB_FIELDS},
                data=index,
                needs=(needs or {}).get(alike(job)),
            )
            for job in opened.jobs
        ]
    include_path = tuple(str(path.absolute()) for path in options.include_path)
    settings = (options.log, options.checkpoint_minutes, options.max_bad)
    return Plan(tuple(cells), tuple(data), str(Path.cwd()), include_path, *settings, card)


def enter(plan: Plan) -> None:
    """Make relative paths and the user's own tasks mean what they meant where the plan was made."""
    with suppress(FileNotFoundError):  # on another machine; a plan of generated data has no paths
        os.chdir(plan.folder)
    stock.include(map(Path, plan.include_path))


def open_data(plan: Plan, index: int) -> dict[str, Corpus]:
    """Read what the cells of a suite need.

    Raises:
        UserError: data is absent, or differs from that of the plan.
    """
    data = plan.data[index]
    roots = tuple(f"{name}={task.root}" for name, task in data.tasks.items() if task.root)
    options = DataOptions(data_root=roots, max_bad=plan.max_bad)
    loader = {name: task.options for name, task in data.tasks.items()}
    model = (data.backbone, data.backbone_options)
    corpora = load_corpora(list(data.tasks), options, loader, model=model)
    for name, task in data.tasks.items():
        if (revision := corpora[name].revision) != task.revision:
            raise UserError(
                f"The data of {name} at {corpora[name].root} has revision {revision}, and the plan "
                f"was made with {task.revision}: make the plan again, or give the worker that data."
            )
    return corpora


def check_method(spec: RunSpec) -> None:
    """Raise UserError if the user's file of a method has changed since the plan."""
    if spec.source and file_hash(Path(spec.method)) != spec.source:
        raise UserError(f"{spec.method} has changed since the plan was made: make the plan again.")
