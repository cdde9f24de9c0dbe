"""The ``factors`` command: data, backbone or objective varied one at a time, reliance read off.

Each level is trained with everything else as in the reference level, and every model is asked the
same test items: those of the unchanged world. Models and answers stay in the output folder, so an
interrupted command goes on where it stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.cli.console import pick_device, run_suite
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import parse_seeds
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.models import registry
from steelyard.harness.reliance.session import ProfileSettings, collect_answers
from steelyard.harness.runs import suite
from steelyard.harness.runs.suite import Options, Suite

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.leaderboards.factor_effects.numbers import Group

CLASSIFIER, OBJECTIVE, OBJECTIVE_VLM = (
    "factors_classifier",
    "factors_objective",
    "factors_objective_vlm",
)
"""Suites that say what is trained, by which methods."""
ASKED = ("prior_conflict", "pope")
"""What a vision-language model is asked."""
QUICK_SEEDS, QUICK_BUDGET = (0,), "XS"
ITEMS, DRAWS = 500, 3


@dataclass(frozen=True, slots=True)
class Level:
    """One setting; ``knob`` names what is varied."""

    knob: str
    value: str
    """As shown on the axis."""
    data: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Probabilities of the generated training data."""
    backbone: Options = field(default_factory=dict, hash=False)
    """Options of the backbone, or of the base model's training."""
    reference: bool = False
    """Whether it is the setting that all others of the knob differ from in one thing."""


def _data(knob: str, values: Sequence[float], usual: float) -> tuple[Level, ...]:
    return tuple(
        Level(knob, f"{value:g}", data={} if value == usual else {knob: value},
              reference=value == usual)
        for value in values
    )  # fmt: skip


def _size(knob: str, values: Sequence[int], usual: int) -> tuple[Level, ...]:
    return tuple(
        Level(knob, f"{value}", backbone={} if value == usual else {knob: value},
              reference=value == usual)
        for value in values
    )  # fmt: skip


LEVELS: Mapping[tuple[str, str], tuple[Level, ...]] = {
    ("data", "classifier"): (
        *_data("p_named", (0.25, 0.5, 0.75, 1.0), 0.75),
        *_data("p_color", (0.125, 0.5, 0.95), 0.95),
        *_data("p_cooc", (0.25, 0.6, 0.95), 0.95),
    ),
    ("data", "vlm"): (
        *_data("p_color", (0.5, 0.9, 0.985), 0.985),
        *_data("p_cooc", (0.25, 0.9), 0.9),
    ),
    ("backbone", "classifier"): (
        *_size("text_width", (8, 16, 64, 128), 64),
        *_size("image_width", (8, 16, 64, 128), 64),
    ),
    ("backbone", "vlm"): (*_size("language_width", (16, 64, 128), 64),),
}
"""One knob after another by factor and kind of model. A colour by chance is the usual one at 0.125,
a place at 0.25."""
FACTORS = ("data", "backbone", "objective")
KNOBS = {
    "p_named": "redundancy: titles that name the class",
    "p_color": "prior: objects in their usual colour",
    "p_cooc": "prior: objects in their usual place",
    "text_width": "width of the text encoder",
    "image_width": "width of the image encoder",
    "language_width": "width of the language model",
    "objective": "training objective",
}
"""What each knob is, for people."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A model to be asked."""

    level: Level
    seed: int
    source: str
    """A run's folder, or a checkpoint's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options of the command line mean."""

    factor: str
    vlm: bool
    base: Suite
    """What is trained at every level, of a vision-language model only for its objective."""
    levels: tuple[Level, ...]
    """None for the objective, whose levels are the suite's entries."""
    asked: tuple[str, ...]
    how: ProfileSettings
    device: str


def factors(factor: str, out: Path, given: Mapping[str, Any]) -> None:
    """Train the levels of a factor, ask every model, write table and plot, print the table."""
    from steelyard.harness.runs.parallel import quiet_heavy_libraries
    from steelyard.leaderboards.factor_effects import numbers
    from steelyard.leaderboards.factor_effects import tables as bias_files

    plan = _plan(factor, given)
    name = f"{factor}{'-vlm' if plan.vlm else ''}"
    quiet_heavy_libraries()
    trained = list(_trained(plan, out / name, given))
    corpora = {task: tasks.load(task, tasks.find_root(task)) for task in plan.asked}
    groups = _asked(plan, trained, corpora, out / name)
    with console.status("measuring"):
        made = numbers.build(name, [numbers.measured(group) for group in groups], _settings(plan))
        files = bias_files.write(made, out)
    console.print(bias_files.terminal(made))
    console.print(f"{len(files)} files in {out}, begin with {files[0]}")


def _plan(factor: str, given: Mapping[str, Any]) -> Plan:
    if factor not in FACTORS:
        raise unknown("factor", factor, FACTORS)
    vlm, quick = bool(given["vlm"]), bool(given["quick"])
    objective = OBJECTIVE_VLM if vlm else OBJECTIVE
    (base,) = suite.load(objective if factor == "objective" else CLASSIFIER)
    seeds = parse_seeds(given["seeds"]) if given["seeds"] else base.seeds
    levels = LEVELS.get((factor, "vlm" if vlm else "classifier"), ())
    if quick:
        seeds, levels = QUICK_SEEDS, tuple(_ends(levels))
        base = replace(base, budget=QUICK_BUDGET)
    base = replace(base, seeds=seeds, budget=given["budget"] or base.budget)
    suite.check(base)
    if given["limit"] < 1:
        raise UserError(f"--limit {given['limit']}: ask about one or more items.")
    how = ProfileSettings(limit=given["limit"], draws=DRAWS)
    asked = ASKED if vlm else base.tasks
    return Plan(factor, vlm, base, levels, asked, how, pick_device(given["device"]))


def _ends(levels: Sequence[Level]) -> Iterator[Level]:
    """The first and last level of each knob, and its reference."""
    for knob in dict.fromkeys(level.knob for level in levels):
        own = [level for level in levels if level.knob == knob]
        yield from (level for level in own if level in (own[0], own[-1]) or level.reference)


def _trained(plan: Plan, out: Path, given: Mapping[str, Any]) -> Iterator[Trained]:
    """Every model of the plan, trained unless its folder is there."""
    if plan.factor == "objective":
        yield from _runs(plan.base, out, given, None)
        return
    for level in plan.levels:
        console.print(f"{level.knob} = {level.value}", highlight=False)
        if plan.vlm:
            yield from _bases(plan, level)
        else:
            options = {**plan.base.backbone_options, **level.backbone}
            made = replace(plan.base, backbone_options=options)
            yield from _runs(made, out, given, level)


def _runs(
    made: Suite, out: Path, given: Mapping[str, Any], level: Level | None
) -> Iterator[Trained]:
    """Runs of a suite; without a level each entry is one, the first being the reference."""
    knobs = level.data if level else {}
    roots = [f"{task}={tasks.world_folder(task, **knobs)}" for task in made.tasks if knobs]
    options = {"data_root": roots, "device": given["device"], "jobs": given["jobs"]}
    for found in run_suite(made, out / "runs", options, evaluate=False):
        if found.status == "failed":
            raise UserError(f"{found.id} failed ({found.failure}): give a larger --budget.")
        usual = found.label == suite.label_of(made.entries[0])
        own = level or Level("objective", found.label, reference=usual)
        yield Trained(own, found.spec.seed, str(out / "runs" / found.id))


def _bases(plan: Plan, level: Level) -> Iterator[Trained]:
    """Base models of the generated world, trained here with other habits or of another shape."""
    from steelyard.harness.models.tiny_vlm import train
    from steelyard.harness.models.tiny_vlm.config import Training

    training = replace(Training(), **level.data, **level.backbone)  # type: ignore[arg-type]
    for seed in plan.base.seeds:
        with progress_bar() as bar:
            line = bar.add_task(f"base model, seed {seed}", total=1.0)

            def report(stage: str, share: float, line: Any = line, bar: Any = bar) -> None:
                bar.update(line, description=f"base model: {stage}", completed=share)

            folder = train.ensure(seed=seed, training=training, progress=report)
        yield Trained(level, seed, str(folder))


def _asked(
    plan: Plan, trained: Sequence[Trained], corpora: Mapping[str, Corpus], out: Path
) -> "list[Group]":
    """The answers of all seeds of a level about a task, for every level and task."""
    from steelyard.leaderboards.factor_effects.numbers import Group

    tables: dict[tuple[str, Level], dict[int, DataFrame]] = {}
    for place, one in enumerate(trained, start=1):
        backbone = registry.open_model(one.source, {}, plan.device)
        for task, corpus in corpora.items():
            where = f"{place}/{len(trained)} {one.level.knob}={one.level.value} {task}"
            folder = out / "models" / Path(one.source).name
            rows = collect_answers(backbone, task, corpus, folder, plan.how, label=where)
            tables.setdefault((task, one.level), {})[one.seed] = rows
    return [
        Group(task, level.knob, KNOBS[level.knob], level.value, level.reference, by_seed)
        for (task, level), by_seed in tables.items()
    ]


def _settings(plan: Plan) -> dict[str, str]:
    """How the numbers were made, for the page."""
    base = plan.base
    made = f"{base.backbone} on {', '.join(base.tasks)}, budget {base.budget}"
    if plan.factor != "objective":
        methods = ", ".join(entry.label or entry.method for entry in base.entries)
        made = f"{methods}, {made}"
    if plan.vlm and plan.factor != "objective":
        made = "the base model of the generated world, from nothing"
    return {
        "trained": made,
        "seeds": ", ".join(map(str, base.seeds)),
        "asked": f"at most {plan.how.limit} test items of {', '.join(plan.asked)}, the same for "
        f"all; a side is replaced by another item's {plan.how.draws} times",
        "device": plan.device,
    }
