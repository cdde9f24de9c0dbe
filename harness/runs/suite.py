"""Suites: methods x seeds x tasks x corruptions in a small YAML file, and the jobs they make.

(suite,) = load("quick")
check(suite)
corpora = load_corpora(suite.all_tasks, RunOptions(), suite.data_options)
for job in jobs(suite, corpora): ...
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from steelyard import methods, tasks
from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import file_hash
from steelyard.harness.core.options import Options, apply
from steelyard.harness.core.progress import console
from steelyard.harness.core.readers import read_yaml
from steelyard.harness.models import registry
from steelyard.harness.records.budget import FRACTIONS, Track, parse_budget, scaled
from steelyard.harness.records.record import RecordKind
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.job import Job
from steelyard.harness.runs.provenance import check_split


@dataclass(frozen=True, slots=True)
class SuiteEntry:
    """Method with options under one label: one row of a board."""

    method: str
    """Name of a method, or its file."""
    options: Options = field(default_factory=dict)
    """Options of the method that differ from its defaults."""
    label: str = ""
    """Name on the board; by default the method with its options."""
    learning_rate: float | None = None
    """Replaces the backbone's."""
    trl: Options = field(default_factory=dict)
    """Settings of the method's TRL trainer, for example ``loss_type: ipo``."""
    kind: RecordKind = "entry"
    tuning: Mapping[str, Any] | None = None
    """Summary of the trials that chose the options; see ``tuning``."""

    @property
    def name(self) -> str:
        """Name on the board: the label, or the method with its options."""
        if self.label:
            return self.label
        name = Path(self.method).stem if self.method.endswith(".py") else self.method
        values = {**self.options, **{f"trl.{key}": value for key, value in self.trl.items()}}
        options = ", ".join(f"{key}={value}" for key, value in sorted(values.items()))
        return f"{name}({options})" if options else name


@dataclass(frozen=True, slots=True)
class Suite:
    """Comparison in which all entries have the same tasks, seeds, backbone and budget."""

    name: str
    entries: tuple[SuiteEntry, ...]
    tasks: tuple[str, ...] = ()
    """Data sets to train on; each run is also scored on its own."""
    corruptions: tuple[str, ...] = ()
    """Corruptions to score on, such as ``image-noise:1-5``."""
    evaluate: tuple[str, ...] = ()
    """Further tasks to score every run on; only for a vision-language model."""
    seeds: tuple[int, ...] = (0,)
    """Seeds: every entry is trained once with each."""
    backbone: str = "tiny"
    """Preset, ``IMAGE+TEXT`` encoders, or a model's id or path."""
    backbone_options: Options = field(default_factory=dict)
    """Options of the backbone, see ``list backbones NAME``."""
    budget: str = "S"
    """Budget of a run: a name of ``list budgets``, or a number of FLOPs or items."""
    track: Literal["compute", "data", "anytime"] = "compute"
    """What is equal for all entries; ``anytime`` is the compute track at several budgets."""
    wall: float | None = None
    """Cap on device seconds, whichever limit is reached first."""
    data_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Loader options by task."""
    limit: int | None = None
    """Items to score per task; all if not given."""
    split: str = "test"
    """Scored items; ``val`` to choose settings."""
    about: str = ""
    """What is compared, in one sentence."""

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """Tasks that are read: those trained on and those only scored."""
        return tuple(dict.fromkeys((*self.tasks, *self.evaluate)))

    @property
    def run_track(self) -> Track:
        """Track of each run."""
        return "data" if self.track == "data" else "compute"

    @property
    def budgets(self) -> tuple[str, ...]:
        """Budgets of the runs: on the anytime track a quarter, a half and all of the budget."""
        if self.track != "anytime":
            return (self.budget,)
        return tuple(scaled(self.budget, fraction) for fraction in FRACTIONS)


ENTRY_KEYS = ("method", "options", "label", "learning_rate", "trl")
KEYS = sorted({"methods", *(field.name for field in fields(Suite))} - {"name", "entries"})


def shipped() -> dict[str, Path]:
    """Return the suites of the package by name."""
    folder = Path(str(files("steelyard.leaderboards"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name_or_path: str, within: Sequence[Path] = ()) -> tuple[Suite, ...]:
    """Read a shipped suite by name or a YAML file by path; ``check`` checks names and values.

    A file with the key ``suites`` lists other suites; ``within`` are the files that list this one.

    Raises:
        UserError: no such file, or it has an unknown key or a value of another type.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        check_known("suite", name_or_path, shipped())
        path = shipped()[name_or_path]
    if not path.is_file():
        raise UserError(f"No suite file at {path}.")
    if path in within:
        raise UserError(f"{path} lists itself, or is listed by a suite that it lists.")
    content = read_yaml(path)
    try:
        if not isinstance(content, dict):
            raise UserError(f"a suite is a mapping with the keys {', '.join(KEYS)}.")
        if content.keys() <= {"suites", "about"} and isinstance(content.get("suites"), list):
            return tuple(
                suite for name in content["suites"] for suite in load(str(name), (*within, path))
            )
        # A dataclass field with a default would accept a missing list.
        for key in ("methods", "tasks"):
            if not isinstance(content.get(key), list) or not content[key]:
                raise UserError(f"'{key}' must be a list of at least one name.")
        entries = tuple(_entry(item) for item in content.pop("methods"))
        suite = apply(Suite(path.stem, entries), content, "suite key", KEYS)
        return (replace(suite, evaluate=expand_groups(suite.evaluate)),)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _entry(item: Any) -> SuiteEntry:
    if isinstance(item, str):
        return SuiteEntry(item)
    if not isinstance(item, dict) or "method" not in item:
        raise UserError(f"'methods': {item!r} is neither a name nor a mapping with 'method'.")
    if "set" in item:
        raise UserError("The key 'set' of a method entry is now 'options'.")
    entry = apply(SuiteEntry(""), item, "key of a method entry", ENTRY_KEYS)
    if entry.learning_rate is not None and not entry.learning_rate > 0:
        raise UserError(
            f"learning_rate: {entry.learning_rate}: give a positive number such as 0.0004."
        )
    return entry


def with_types(suite: Suite) -> Suite:
    """Return a suite with the texts among its options read as the types of the options."""
    settings = [methods.read_settings(e.method, e.options, e.trl) for e in suite.entries]
    entries = [
        replace(entry, options=options, trl=trl)
        for entry, (options, trl) in zip(suite.entries, settings, strict=True)
    ]
    backbone = registry.as_typed(suite.backbone)
    options = registry.read_options(backbone, suite.backbone_options)
    return replace(suite, entries=tuple(entries), backbone=backbone, backbone_options=options)


def check(suite: Suite) -> None:
    """Raise UserError for unknown names, options and values, before anything is run."""
    if suite.track == "anytime" and suite.wall is not None:
        raise UserError("--wall goes with the compute track; the anytime track has three budgets.")
    for budget in suite.budgets:
        parse_budget(budget, suite.run_track, suite.wall)
    registry.check_packages(suite.backbone, suite.backbone_options)
    kind = registry.kind_of(suite.backbone)
    size = registry.configure(suite.backbone, suite.backbone_options).batch_size
    for task in suite.tasks:
        if tasks.is_stock(task):
            raise UserError(f"{task} has no training items; score it with --evaluate {task}.")
    for task in suite.all_tasks:
        scored_variants(task, suite.corruptions)
    if suite.evaluate and kind == "classifier":
        raise UserError(
            "A classifier can only answer the task it is trained on, not "
            f"{', '.join(suite.evaluate)}: leave out 'evaluate', or give a vision-language model "
            "as 'backbone'."
        )
    for entry in suite.entries:
        methods.check(entry.method, entry.options, kind, size)
        methods.check_trainer(entry.method, entry.trl, kind)
    names = [entry.name for entry in suite.entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two entries are called '{name}'; give one of them a 'label'.")


def expand_groups(names: Sequence[str]) -> tuple[str, ...]:
    """Replace the groups of lmms-eval by their tasks."""
    return tuple(dict.fromkeys(task for name in names for task in tasks.find(name)))


def scored_variants(task: str, corruptions: Sequence[str]) -> list[tasks.Variant]:
    """Return the clean task and its corruptions; without text only those of the image."""
    # A suite of several tasks gives each those corruptions that it can have.
    image_only = not tasks.has_text(task)
    applicable = [c for c in corruptions if not (image_only and tasks.corrupts_text(c))]
    return tasks.variants(task, applicable)


def jobs(suite: Suite, corpora: Mapping[str, Corpus], *, evaluate: bool = True) -> list[Job]:
    """List all runs of a suite, seed by seed: an interrupted suite has complete seeds.

    Raises:
        UserError: a method learns from items and a data set has no training items, or not those
            that its options need; a task to score has no such split.
    """
    scored = {task: _scored(suite, task, corpora) if evaluate else () for task in suite.tasks}
    for entry in suite.entries:
        for task in suite.tasks:
            methods.check_data(
                entry.method, entry.options, registry.kind_of(suite.backbone), corpora[task]
            )
            if methods.about(entry.method).learns and not corpora[task].splits.get("train"):
                raise UserError(
                    f"{task} has no training items, and {entry.method} needs some: train on "
                    f"another set with --task and score this one with --evaluate {task}."
                )
    folders = registry.folders(suite.backbone, suite.backbone_options)
    return [
        Job(
            spec=RunSpec(
                method=entry.method,
                task=task,
                backbone=suite.backbone,
                budget=budget,
                seed=seed,
                options=dict(entry.options),
                backbone_options=dict(suite.backbone_options),
                data={
                    "revision": corpora[task].revision_of("train"),
                    **suite.data_options.get(task, {}),
                },
                trl=entry.trl,
                source=file_hash(Path(entry.method)) if entry.method.endswith(".py") else "",
                learning_rate=entry.learning_rate,
                track=suite.run_track,
                wall=suite.wall,
                tuning=str(entry.tuning["hash"]) if entry.tuning else "",
                folders=folders,
            ),
            label=entry.name,
            variants=scored[task],
            split=suite.split,
            limit=suite.limit,
            kind=entry.kind,
            tuning=entry.tuning,
        )
        for budget in suite.budgets
        for task in suite.tasks
        for seed in suite.seeds
        for entry in suite.entries
    ]


def _scored(suite: Suite, task: str, corpora: Mapping[str, Corpus]) -> tuple[str, ...]:
    """Return the variants that the runs on a task are scored on.

    Raises:
        UserError: a task to score has no such split. The task trained on needs none if others are
            scored.
    """
    names = [task, *suite.evaluate]
    if suite.evaluate and suite.split not in corpora[task].splits:
        names.remove(task)
        console.print(f"{task} has no {suite.split} split: it is trained on and not scored")
    for name in names:
        check_split(corpora[name], suite.split)
    return tuple(
        str(variant)
        for name in dict.fromkeys(names)
        for variant in scored_variants(name, suite.corruptions)
    )
