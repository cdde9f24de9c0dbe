"""Command factors: vary data, backbone or objective one at a time and measure reliance.

Each level is trained with all other settings of the reference level, and every model is evaluated
on the same test items of the unchanged world. Models and answers stay in the output folder, so an
interrupted command continues.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from steelyard import tasks
from steelyard.harness.cli.options import pass_options
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import Help, parse_seeds
from steelyard.harness.core.progress import console, show_progress
from steelyard.harness.models import registry
from steelyard.harness.runs import suite as suites
from steelyard.harness.runs.options import (
    BUDGET,
    DEVICE,
    JOBS,
    LIMIT,
    OUT,
    SEEDS,
    RunOptions,
)
from steelyard.harness.runs.parallel import pick_device, quiet_heavy_libraries, run_suite
from steelyard.harness.runs.suite import Suite

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.harness.reliance.ask import ProfileSettings
    from steelyard.leaderboards.factor_effects.numbers import LevelAnswers

CLASSIFIER, OBJECTIVE, OBJECTIVE_VLM = (
    "factors_classifier",
    "factors_objective",
    "factors_objective_vlm",
)
"""Suites of the trained entries."""
VLM_TASKS = ("prior_conflict", "pope")
"""Tasks that a vision-language model is evaluated on."""
QUICK_SEEDS, QUICK_BUDGET = (0,), "XS"
DRAWS = 3


@dataclass(frozen=True, slots=True)
class FactorLevel:
    """Level of a factor: one parameter with one value."""

    parameter: str
    value: str
    """Label on the axis."""
    changes: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Probabilities of the training data or widths of the backbone that are not the default."""
    reference: bool = False
    """Whether all other levels of the parameter are compared with this one."""


def _levels(parameter: str, values: Sequence[float], default: float) -> tuple[FactorLevel, ...]:
    """Return a level per value; the default is the reference and changes nothing."""
    return tuple(
        FactorLevel(parameter, f"{value:g}", {} if value == default else {parameter: value},
                    reference=value == default)
        for value in values
    )  # fmt: skip


LEVELS: Mapping[tuple[str, str], tuple[FactorLevel, ...]] = {
    ("data", "classifier"): (
        *_levels("p_named", (0.25, 0.5, 0.75, 1.0), 0.75),
        *_levels("p_color", (0.125, 0.5, 0.95), 0.95),
        *_levels("p_cooc", (0.25, 0.6, 0.95), 0.95),
    ),
    ("data", "vlm"): (
        *_levels("p_color", (0.5, 0.9, 0.985), 0.985),
        *_levels("p_cooc", (0.25, 0.9), 0.9),
    ),
    ("backbone", "classifier"): (
        *_levels("text_width", (8, 16, 64, 128), 64),
        *_levels("image_width", (8, 16, 64, 128), 64),
    ),
    ("backbone", "vlm"): (*_levels("language_width", (16, 64, 128), 64),),
}
"""Levels by factor and kind of model. By chance a colour is the usual one with probability 0.125,
a place with 0.25."""
FACTORS = ("data", "backbone", "objective")
PARAMETERS = {
    "p_named": "redundancy: titles that name the class",
    "p_color": "prior: objects in their usual colour",
    "p_cooc": "prior: objects in their usual place",
    "text_width": "width of the text encoder",
    "image_width": "width of the image encoder",
    "language_width": "width of the language model",
    "objective": "training objective",
}
"""Titles of the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorOptions:
    """Options of ``steelyard factors``."""

    vlm: Annotated[bool, Help("Use the small vision-language model, no classifier")] = False
    quick: Annotated[bool, Help("One seed, budget XS, lowest and highest levels")] = False
    seeds: Annotated[str | None, SEEDS] = None
    budget: Annotated[str | None, BUDGET] = None
    limit: Annotated[int, LIMIT] = 500
    jobs: Annotated[int | None, JOBS] = 1
    out: Annotated[Path, OUT] = Path("factors")
    device: Annotated[str, DEVICE] = "auto"


@dataclass(frozen=True, slots=True)
class FactorModel:
    """Trained model of one level and seed."""

    level: FactorLevel
    seed: int
    source: str
    """Folder of a run or of a checkpoint."""


@dataclass(frozen=True, slots=True)
class FactorPlan:
    """Levels to train and tasks to evaluate on."""

    factor: str
    base: Suite
    """Trained at every level; of a vision-language model only for its objective."""
    levels: tuple[FactorLevel, ...]
    """Empty for the objective, whose levels are the suite's entries."""
    tasks: tuple[str, ...]
    profile: "ProfileSettings"
    device: str


@click.command()
@click.argument("factor", metavar="data|backbone|objective")
@pass_options(FactorOptions)
def factors(factor: str, options: FactorOptions) -> None:
    """Vary one factor of modality bias and plot its effect.

    The generated world is used, one parameter is varied at a time. data: strength of the language
    prior, and how often the text repeats the image. backbone: size of the language part against
    the vision part. objective: the training method.

    \b
    Examples:
      steelyard factors data --quick
      steelyard factors backbone --seeds 0-4
      steelyard factors objective --vlm
    """
    from steelyard.leaderboards.factor_effects import numbers
    from steelyard.leaderboards.factor_effects import tables as effect_tables

    plan = _plan(factor, options)
    name = f"{factor}{'-vlm' if options.vlm else ''}"
    quiet_heavy_libraries()
    models = list(_train_levels(plan, options, options.out / name))
    corpora = {task: tasks.load(task, tasks.find_root(task)) for task in plan.tasks}
    groups = _collect_answers(plan, models, corpora, options.out / name)
    with console.status("computing the effects"):
        description = _describe(plan, options)
        effects = numbers.build(
            name, [numbers.measure_level(group) for group in groups], description
        )
        files = effect_tables.write(effects, options.out)
    console.print(effect_tables.terminal(effects))
    console.print(f"{len(files)} files in {options.out}, begin with {files[0]}")


def _plan(factor: str, options: FactorOptions) -> FactorPlan:
    from steelyard.harness.reliance.ask import ProfileSettings

    if factor not in FACTORS:
        raise unknown("factor", factor, FACTORS)
    objective = OBJECTIVE_VLM if options.vlm else OBJECTIVE
    (base,) = suites.load(objective if factor == "objective" else CLASSIFIER)
    seeds = parse_seeds(options.seeds) if options.seeds else base.seeds
    levels = LEVELS.get((factor, "vlm" if options.vlm else "classifier"), ())
    budget = options.budget or base.budget
    if options.quick:
        seeds, levels = QUICK_SEEDS, tuple(_ends(levels))
        budget = options.budget or QUICK_BUDGET
    base = replace(base, seeds=seeds, budget=budget)
    suites.check(base)
    if options.limit < 1:
        raise UserError(f"--limit {options.limit}: evaluate on one or more items.")
    names = VLM_TASKS if options.vlm else base.tasks
    profile = ProfileSettings(limit=options.limit, draws=DRAWS)
    return FactorPlan(factor, base, levels, names, profile, pick_device(options.device))


def _ends(levels: Sequence[FactorLevel]) -> Iterator[FactorLevel]:
    """Yield the first, the last and the reference level of each parameter."""
    for parameter in dict.fromkeys(level.parameter for level in levels):
        group = [level for level in levels if level.parameter == parameter]
        yield from (level for level in group if level in (group[0], group[-1]) or level.reference)


def _train_levels(plan: FactorPlan, options: FactorOptions, out: Path) -> Iterator[FactorModel]:
    """Yield every model of the plan, trained unless its folder exists."""
    run_options = RunOptions(runs=out / "runs", device=options.device, jobs=options.jobs)
    if plan.factor == "objective":
        yield from _train_suite(plan.base, run_options, None)
        return
    for level in plan.levels:
        console.print(f"{level.parameter} = {level.value}", highlight=False)
        # The vision-language model's bias is that of its base model, trained here per level.
        if options.vlm:
            yield from _train_base_models(plan, level)
            continue
        suite, roots = plan.base, []
        if plan.factor == "backbone":
            backbone_options = {**suite.backbone_options, **level.changes}
            suite = replace(suite, backbone_options=backbone_options)
        elif level.changes:
            roots = [f"{task}={tasks.world_folder(task, **level.changes)}" for task in suite.tasks]
        run_options = replace(run_options, data_root=tuple(roots))
        yield from _train_suite(suite, run_options, level)


def _train_suite(
    suite: Suite, options: RunOptions, level: FactorLevel | None
) -> Iterator[FactorModel]:
    """Train a suite; without a level each entry is one and the first is the reference."""
    for record in run_suite(suite, options, evaluate=False):
        if record.status == "failed":
            raise UserError(f"{record.id} failed ({record.failure}): give a larger --budget.")
        reference = record.label == suite.entries[0].name
        run_level = level or FactorLevel("objective", record.label, reference=reference)
        yield FactorModel(run_level, record.spec.seed, str(options.runs / record.id))


def _train_base_models(plan: FactorPlan, level: FactorLevel) -> Iterator[FactorModel]:
    """Train base models of the generated world with another prior or architecture."""
    from steelyard.harness.models.tiny_vlm import train
    from steelyard.harness.models.tiny_vlm.config import Training

    training = replace(Training(), **level.changes)  # type: ignore[arg-type]
    for seed in plan.base.seeds:
        with show_progress(f"base model, seed {seed}") as progress:
            folder = train.ensure(seed=seed, training=training, progress=progress)
        yield FactorModel(level, seed, str(folder))


def _collect_answers(
    plan: FactorPlan, models: Sequence[FactorModel], corpora: Mapping[str, Corpus], out: Path
) -> "list[LevelAnswers]":
    """Return the answers of all seeds, by level and task."""
    from steelyard.harness.reliance.session import collect_answers
    from steelyard.leaderboards.factor_effects.numbers import LevelAnswers

    tables: dict[tuple[str, FactorLevel], dict[int, DataFrame]] = {}
    for index, model in enumerate(models, start=1):
        backbone = registry.open_model(model.source, {}, plan.device)
        for task, corpus in corpora.items():
            level = model.level
            label = f"{index}/{len(models)} {level.parameter}={level.value} {task}"
            folder = out / "models" / Path(model.source).name
            rows = collect_answers(backbone, task, corpus, folder, plan.profile, label=label)
            tables.setdefault((task, level), {})[model.seed] = rows
    # One group per point of a curve.
    return [
        LevelAnswers(
            task,
            level.parameter,
            PARAMETERS[level.parameter],
            level.value,
            level.reference,
            by_seed,
        )
        for (task, level), by_seed in tables.items()
    ]


def _describe(plan: FactorPlan, options: FactorOptions) -> dict[str, str]:
    base = plan.base
    trained = f"{base.backbone} on {', '.join(base.tasks)}, budget {base.budget}"
    if plan.factor != "objective":
        methods = ", ".join(entry.label or entry.method for entry in base.entries)
        trained = f"{methods}, {trained}"
        if options.vlm:
            trained = "the base model of the generated world, from random weights"
    return {
        "trained": trained,
        "seeds": ", ".join(map(str, base.seeds)),
        "asked": f"at most {plan.profile.limit} test items of {', '.join(plan.tasks)}, the same "
        f"for all; a modality is replaced by another item's {plan.profile.draws} times",
        "device": plan.device,
    }
