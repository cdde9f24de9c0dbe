"""Suites: a small YAML file of methods x seeds x tasks x corruptions, turned into jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from steelyard import methods, tasks
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import file_hash
from steelyard.harness.models import registry
from steelyard.harness.records import budget as limits
from steelyard.harness.records.budget import TRACKS, Track, parse_budget
from steelyard.harness.records.record import RecordKind
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.run import Job

Options = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a board: a method with options, under a name."""

    method: str
    options: Options = field(default_factory=dict)
    label: str = ""
    learning_rate: float | None = None
    """In place of the backbone's."""
    kind: RecordKind = "entry"
    tuning: Mapping[str, Any] | None = None
    """The trials that chose its options, in short; see ``tune``."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What is run and compared; every entry gets the same tasks, seeds, backbone and budget."""

    name: str
    entries: tuple[Entry, ...]
    tasks: tuple[str, ...]
    """Data sets trained on; each run is also scored on its own."""
    corruptions: tuple[str, ...]
    evaluate: tuple[str, ...] = ()
    """Further tasks every run is scored on, which only a vision-language model can be."""
    seeds: tuple[int, ...] = (0,)
    backbone: str = "tiny"
    backbone_options: Options = field(default_factory=dict)
    budget: str = "S"
    track: Literal["compute", "data", "anytime"] = "compute"
    """What is equal for all entries; ``anytime`` stands for several budgets."""
    wall: float | None = None
    """Cap on device seconds beside the budget, whichever is reached first."""
    data_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Loader options by task."""
    limit: int | None = None
    split: str = "test"
    """Scored items; ``val`` for choosing settings."""
    about: str = ""

    @property
    def run_track(self) -> Track:
        """The track of its runs."""
        return "data" if self.track == "data" else "compute"


ENTRY_KEYS = ("method", "set", "label", "learning_rate")
KEYS = {"methods" if f.name == "entries" else f.name for f in fields(Suite)} - {"name"}


def shipped() -> dict[str, Path]:
    """Suites that come with the package, by name."""
    folder = Path(str(files("steelyard.leaderboards"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name_or_path: str) -> tuple[Suite, ...]:
    """A shipped suite by name, or a YAML file by path; every unknown key or name is refused.

    A file with the single key ``suites`` stands for the suites that it lists.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in shipped():
            raise unknown("suite", name_or_path, shipped())
        path = shipped()[name_or_path]
    if not path.is_file():
        raise UserError(f"No suite file at {path}.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a suite is a mapping with the keys {', '.join(sorted(KEYS))}.")
    try:
        if set(raw) <= {"suites", "about"} and isinstance(raw.get("suites"), list):
            return tuple(part for name in raw["suites"] for part in load(str(name)))
        return (parse(path.stem, raw),)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def parse(name: str, raw: Mapping[str, Any]) -> Suite:
    """A suite from its mapping."""
    for key in raw:
        if key not in KEYS:
            raise unknown("suite key", str(key), KEYS)
    for key in ("methods", "tasks"):
        if not isinstance(raw.get(key), list) or not raw[key]:
            raise UserError(f"'{key}' must be a list of at least one name.")
    values = {key: value for key, value in raw.items() if key not in ("methods", "about")}
    lists: dict[str, Any] = {
        key: tuple(values.pop(key))
        for key in ("tasks", "corruptions", "seeds", "evaluate")
        if key in values
    }
    lists.setdefault("corruptions", ())
    if "evaluate" in lists:
        lists["evaluate"] = scored_tasks(lists["evaluate"])
    if not all(type(seed) is int for seed in lists.get("seeds", (0,))):
        raise UserError("'seeds' must be a list of whole numbers.")
    values["budget"] = str(values.get("budget", "S"))
    entries = tuple(_entry(item) for item in raw["methods"])
    suite = Suite(name=name, entries=entries, about=raw.get("about", ""), **values, **lists)
    check(suite)
    return suite


def check(suite: Suite) -> None:
    """Refuse unknown names, options and values before anything is run."""
    for part in by_track(suite):
        parse_budget(part.budget, part.run_track, part.wall)
    registry.configure(suite.backbone, suite.backbone_options)
    kind = registry.kind_of(suite.backbone)
    for task in suite.tasks:
        if tasks.is_stock(task):
            raise UserError(f"{task} has nothing to train on; score it with --evaluate {task}.")
    for task in (*suite.tasks, *suite.evaluate):
        scored_variants(task, suite.corruptions)
    if suite.evaluate and kind == "classifier":
        raise UserError(
            f"A classifier answers only the task it learnt, not {', '.join(suite.evaluate)}: leave "
            "out 'evaluate', or give a vision-language model as 'backbone'."
        )
    for entry in suite.entries:
        methods.configure(methods.load(entry.method), entry.options, kind)
    labels = [label_of(entry) for entry in suite.entries]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"Two entries are called '{label}'; give one of them a 'label'.")


def by_track(suite: Suite) -> list[Suite]:
    """The suite itself, or one of each share of its budget where it is to be seen at any time."""
    if suite.track not in TRACKS:
        raise unknown("track", suite.track, TRACKS)
    if suite.track != "anytime":
        return [suite]
    if suite.wall is not None:
        raise UserError("--wall goes with the compute track; the anytime track has three budgets.")
    budgets = [limits.scaled(suite.budget, share) for share in limits.FRACTIONS]
    return [replace(suite, track="compute", budget=budget) for budget in budgets]


def scored_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """The tasks that names stand for, those of lmms-eval's groups one by one."""
    return tuple(dict.fromkeys(task for name in names for task in tasks.find(name)))


def scored_variants(task: str, corruptions: Sequence[str]) -> list[tasks.Variant]:
    """The clean task and those of the corruptions that it has a side for."""
    blind = not tasks.has_text(task)
    modalities = [c for c in corruptions if not (blind and tasks.touches_text(c))]
    return tasks.variants(task, modalities)


def jobs(suite: Suite, corpora: Mapping[str, Corpus]) -> list[Job]:
    """All runs of a suite, seed by seed, so that an interrupted suite has whole seeds.

    Raises:
        UserError: a method learns from items, and a data set has none to learn from.
    """
    for entry in suite.entries:
        for task in suite.tasks:
            _check_training(entry.method, corpora[task])
    return [
        Job(
            spec=RunSpec(
                method=entry.method,
                task=task,
                backbone=suite.backbone,
                budget=suite.budget,
                seed=seed,
                options=dict(entry.options),
                backbone_options=dict(suite.backbone_options),
                data={"revision": corpora[task].revision, **suite.data_options.get(task, {})},
                source=_source(entry.method),
                learning_rate=entry.learning_rate,
                track=suite.run_track,
                wall=suite.wall,
                tuning=str(entry.tuning["hash"]) if entry.tuning else "",
            ),
            label=label_of(entry),
            variants=tuple(
                str(variant)
                for scored in dict.fromkeys((task, *suite.evaluate))
                for variant in scored_variants(scored, suite.corruptions)
            ),
            split=suite.split,
            limit=suite.limit,
            kind=entry.kind,
            tuning=entry.tuning,
        )
        for task in suite.tasks
        for seed in suite.seeds
        for entry in suite.entries
    ]


def _check_training(method: str, corpus: Corpus) -> None:
    if methods.about(method).learns and not corpus.splits.get("train"):
        raise UserError(
            f"{corpus.name} has no training items, and {method} learns from some: train on another "
            f"set with --task and score it on this one with --evaluate {corpus.name}."
        )


def load_corpora(suite: Suite, roots: Mapping[str, Path], max_bad: float) -> dict[str, Corpus]:
    """The data sets of a suite's tasks, each from its root or from the generated world."""
    for task in roots:
        if task not in (*suite.tasks, *suite.evaluate):
            raise unknown("task of this suite", task, (*suite.tasks, *suite.evaluate))
    found = {}
    for task in dict.fromkeys((*suite.tasks, *suite.evaluate)):
        root = tasks.find_root(task, roots.get(task))
        found[task] = tasks.load(task, root, max_bad=max_bad, **suite.data_options.get(task, {}))
    return found


def _entry(item: Any) -> Entry:
    if isinstance(item, str):
        return Entry(item)
    if not isinstance(item, dict) or "method" not in item:
        raise UserError(f"'methods': {item!r} is neither a name nor a mapping with 'method'.")
    for key in item:
        if key not in ENTRY_KEYS:
            raise unknown("key of a method entry", str(key), ENTRY_KEYS)
    rate = item.get("learning_rate")
    if rate is not None:
        try:
            rate = float(rate)  # YAML reads 4e-4 as text
        except (TypeError, ValueError):
            rate = 0.0
        if not rate > 0:
            given = item["learning_rate"]
            raise UserError(f"learning_rate: {given!r}: give a positive number such as 0.0004.")
    return Entry(item["method"], dict(item.get("set") or {}), item.get("label", ""), rate)


def label_of(entry: Entry) -> str:
    """An entry's name on the board."""
    if entry.label:
        return entry.label
    name = Path(entry.method).stem if entry.method.endswith(".py") else entry.method
    changed = ", ".join(f"{key}={value}" for key, value in sorted(entry.options.items()))
    return f"{name}({changed})" if changed else name


def _source(method: str) -> str:
    return file_hash(Path(method)) if method.endswith(".py") else ""
