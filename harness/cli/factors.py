"""Command factors: vary data, backbone or objective one at a time and measure reliance.

Each level is trained with all other settings of the reference level, and every model is evaluated
on the same test items of the unchanged world. Models and answers stay in the output folder, so an
interrupted command continues.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import click

from steelyard import tasks
from steelyard.harness.cli.options import pass_options
from steelyard.harness.core.environment import pick_device
from steelyard.harness.core.errors import RunFailed, UserError, check_known
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import Help, parse_seeds
from steelyard.harness.core.progress import console, echo, show_progress
from steelyard.harness.models import registry
from steelyard.harness.runs import options as shared
from steelyard.harness.runs import suite as suites
from steelyard.harness.runs.parallel import quiet_heavy_libraries, run_suite
from steelyard.harness.runs.suite import Suite

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.harness.reliance.ask import ProfileSettings
    from steelyard.leaderboards.factor_effects.numbers import LevelAnswers

VLM_TASKS = ("prior_conflict", "pope")
"""Tasks that a vision-language model is evaluated on."""
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

    @property
    def axis(self) -> tuple[str, str]:
        """Parameter and its title."""
        return self.parameter, PARAMETERS[self.parameter]


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
    seeds: Annotated[str | None, shared.SEEDS] = None
    budget: Annotated[str | None, shared.BUDGET] = None
    limit: Annotated[int, shared.LIMIT] = 500
    jobs: Annotated[int | None, shared.RUN_JOBS] = 1
    out: Annotated[Path, shared.OUT] = Path("factors")
    device: Annotated[str, shared.DEVICE] = "auto"


class FactorModel(NamedTuple):
    """Trained model of one level and seed, in the folder of a run or of a checkpoint."""

    level: FactorLevel
    seed: int
    folder: Path


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
    from steelyard.harness.reliance.ask import ProfileSettings
    from steelyard.leaderboards.factor_effects import numbers
    from steelyard.leaderboards.factor_effects import tables as effect_tables
    from steelyard.leaderboards.output.sheet import terminal_tables

    base, levels = _plan(factor, options)
    device = pick_device(options.device)
    names = VLM_TASKS if options.vlm else base.tasks
    settings = ProfileSettings(limit=options.limit, draws=DRAWS)
    name = f"{factor}{'-vlm' if options.vlm else ''}"
    quiet_heavy_libraries()
    models = list(_train_levels(factor, base, levels, options, options.out / name))
    # Test items of the unchanged world for all levels.
    corpora = {task: tasks.load(task, tasks.find_root(task)) for task in names}
    groups = _collect_answers(models, corpora, settings, device, options.out / name)
    trained = f"{base.backbone} on {', '.join(base.tasks)}, budget {base.budget}"
    if levels:
        trained = f"{', '.join(entry.name for entry in base.entries)}, {trained}"
        if options.vlm:
            trained = "the base model of the generated world, from random weights"
    description = {
        "trained": trained,
        "seeds": ", ".join(map(str, base.seeds)),
        "asked": f"at most {options.limit} test items of {', '.join(names)}, the same for all; a "
        f"modality is replaced by another item's {DRAWS} times",
        "device": device,
    }
    with console.status("computing the effects"):
        effects = numbers.build(name, groups, description)
        files = effect_tables.write(effects, options.out)
    for curve in effects.curves:
        console.print(f"{curve.task}: {curve.about}", style="bold")
        for sheet in effect_tables.sheets(curve):
            console.print(*terminal_tables(sheet, console.width, names=1))
    echo(f"{len(files)} files in {options.out}, begin with {files[0]}")


def _plan(factor: str, options: FactorOptions) -> tuple[Suite, Sequence[FactorLevel]]:
    """Return the suite to train and its levels; without levels its entries are the levels."""
    check_known("factor", factor, FACTORS)
    objective = "factors_objective_vlm" if options.vlm else "factors_objective"
    (base,) = suites.load(objective if factor == "objective" else "factors_classifier")
    seeds = parse_seeds(options.seeds) if options.seeds else base.seeds
    levels = LEVELS.get((factor, "vlm" if options.vlm else "classifier"), ())
    budget = options.budget or base.budget
    if options.quick:
        seeds, budget = (0,), options.budget or "XS"
        groups = [list(group) for _, group in groupby(levels, key=lambda level: level.parameter)]
        ends = [level for group in groups for level in (group[0], group[-1])]
        levels = tuple(level for level in levels if level in ends or level.reference)
    base = suites.with_types(replace(base, seeds=seeds, budget=budget))
    suites.check(base)
    if options.limit < 1:
        raise UserError(f"--limit {options.limit}: evaluate on one or more items.")
    return base, levels


def _train_levels(
    factor: str, base: Suite, levels: Sequence[FactorLevel], options: FactorOptions, out: Path
) -> Iterator[FactorModel]:
    """Yield every model, trained unless its folder exists."""
    run_options = shared.RunOptions(runs=out / "runs", device=options.device, jobs=options.jobs)
    # Without levels (objective) the entries of the suite are the levels.
    for level in levels or (None,):
        suite = base
        if level is not None:
            console.print(f"{level.parameter} = {level.value}")
            # The vision-language model's bias is that of its base model, trained here per level.
            if options.vlm:
                yield from _train_base_models(base.seeds, level)
                continue
            roots: list[str] = []
            if factor == "backbone":
                suite = replace(base, backbone_options={**base.backbone_options, **level.changes})
            elif level.changes:
                folders = {task: tasks.world_folder(task, **level.changes) for task in base.tasks}
                roots = [f"{task}={folder}" for task, folder in folders.items()]
            run_options = replace(run_options, data_root=tuple(roots))
        for record in run_suite(suite, run_options, evaluate=False):
            if record.status == "failed":
                raise RunFailed(f"{record.id} failed ({record.failure}): give a larger --budget.")
            reference = record.label == suite.entries[0].name
            run_level = level or FactorLevel("objective", record.label, reference=reference)
            yield FactorModel(run_level, record.spec.seed, run_options.runs / record.id)


def _train_base_models(seeds: Sequence[int], level: FactorLevel) -> Iterator[FactorModel]:
    """Train base models of the generated world with another prior or architecture."""
    from steelyard.harness.models.tiny_vlm import train
    from steelyard.harness.models.tiny_vlm.config import Training

    training = replace(Training(), **level.changes)  # type: ignore[arg-type]
    for seed in seeds:
        with show_progress(f"base model, seed {seed}") as progress:
            folder = train.ensure(seed=seed, training=training, progress=progress, device="cpu")
        yield FactorModel(level, seed, folder)


def _collect_answers(
    models: Sequence[FactorModel],
    corpora: Mapping[str, Corpus],
    settings: "ProfileSettings",
    device: str,
    out: Path,
) -> "list[LevelAnswers]":
    """Return the answers of all seeds, by level and task: one group per point of a curve."""
    from steelyard.harness.reliance.session import collect_answers
    from steelyard.leaderboards.factor_effects.numbers import LevelAnswers

    tables: dict[tuple[str, FactorLevel], dict[int, DataFrame]] = {}
    for index, (level, seed, source) in enumerate(models, start=1):
        backbone = registry.open_model(str(source), {}, device)
        for task, corpus in corpora.items():
            label = f"{index}/{len(models)} {level.parameter}={level.value} {task}"
            folder = out / "models" / source.name
            rows = collect_answers(backbone, task, corpus, folder, settings, label=label)
            tables.setdefault((task, level), {})[seed] = rows
    return [
        LevelAnswers(task, *level.axis, level.value, level.reference, by_seed)
        for (task, level), by_seed in tables.items()
    ]
