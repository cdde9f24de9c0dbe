"""Command diagnose: how much a model relies on each modality, without any training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from rich.text import Text

from steelyard import tasks
from steelyard.harness.cli.evaluate import check_answerable, check_model_path
from steelyard.harness.cli.options import pass_options
from steelyard.harness.core.environment import packages, pick_device
from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import Help, parse_pairs
from steelyard.harness.core.progress import console, echo
from steelyard.harness.models import registry
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.harness.runs import options as shared
from steelyard.harness.runs import parallel

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm
    from steelyard.harness.reliance.ask import ProfileSettings
    from steelyard.leaderboards.reliance.numbers import TaskReliance

TASKS = ("prior_conflict", "pope", "vqa")
"""Default tasks of a vision-language model."""
VERSIONS = ("steelyard", "torch", "transformers", "lmms-eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseOptions(shared.DataOptions):
    """Options of ``steelyard diagnose``."""

    tasks: Annotated[
        tuple[str, ...],
        Help("Tasks to evaluate on", f"{','.join(TASKS)}; a classifier's own task", "TASK,TASK"),
    ] = ()
    limit: Annotated[int, shared.LIMIT] = 500
    split: Annotated[str, Help("Split to evaluate on")] = "test"
    draws: Annotated[int, Help("Number of times that a modality is replaced by another item's")] = 5
    backbone_set: Annotated[tuple[str, ...], shared.BACKBONE_SET] = ()
    out: Annotated[Path, shared.OUT] = Path("diagnosis")
    device: Annotated[str, shared.DEVICE] = "auto"


@click.command()
@click.argument("model")
@pass_options(DiagnoseOptions)
def diagnose(model: str, options: DiagnoseOptions) -> None:
    """Profile how much MODEL relies on each modality.

    MODEL is a run's folder, a preset, a hub id or a path; nothing is trained. Every item is
    evaluated with image and text, with one of them and with neither, replaced by a blank and by
    another item's. The profile is a page, a plot, CSV and JSON, with intervals. Answers are kept
    in the output folder: the same command continues.

    \b
    Examples:
      steelyard diagnose tiny-vlm
      steelyard diagnose runs/joint-food101-tiny-S-s0-1a2b3c4d --out joint
      steelyard diagnose Qwen/Qwen2-VL-2B-Instruct --tasks pope --data-root ~/POPE \\
          --backbone-set precision=bf16
    """
    from steelyard.harness.reliance.ask import ProfileSettings
    from steelyard.harness.reliance.session import collect_answers
    from steelyard.leaderboards.output.sheet import terminal_tables
    from steelyard.leaderboards.reliance import tables as reliance_tables
    from steelyard.leaderboards.reliance.numbers import Diagnosis

    if options.draws < 1:
        raise UserError(f"--draws {options.draws}: replace a modality once or more.")
    settings = ProfileSettings(options.split, options.limit, options.draws)
    run: Record | None = None
    model = registry.as_typed(model)
    backbone_options = registry.read_options(model, parse_pairs(options.backbone_set))
    title = model
    if (Path(model) / record.RECORD).is_file():
        run = record.read(Path(model))
        title = f"{run.label} (seed {run.spec.seed})"
    else:
        check_model_path(model)
        if label := registry.folders(model, {}).get(model):
            title = label[: label.rindex("#") + 9]  # as on boards
    spec, untrained = (run.spec, None) if run else (None, (model, backbone_options))
    names = _task_names(options.tasks, run)
    corpora = parallel.load_corpora(names, options, spec=spec, model=untrained)
    parallel.quiet_heavy_libraries()
    if run is None:
        parallel.ensure_base_model(model, backbone_options)
    device = pick_device(options.device)
    with console.status("loading the model"):
        backbone = registry.open_model(model, backbone_options, device)
    tables = {
        task: collect_answers(
            backbone, task, corpus, options.out, settings, label=f"{index}/{len(corpora)} {task}"
        )
        for index, (task, corpus) in enumerate(corpora.items(), start=1)
    }
    with console.status("computing the profile"):
        parts = tuple(part for task, rows in tables.items() for part in parts_of(task, [rows]))
        diagnosis = Diagnosis(title, _describe(backbone, corpora, settings, device), parts)
        files = reliance_tables.write(diagnosis, options.out)
    console.print(*terminal_tables(reliance_tables.sheets(diagnosis)[0], console.width, names=2))
    for part in (part for part in diagnosis.parts if not part.subset):
        verdict = f": {reliance_tables.verdict(part)}"
        console.print(Text.assemble((part.name, "bold"), verdict), soft_wrap=True)
    echo(f"{len(files)} files in {options.out}, begin with {files[0]}")


def parts_of(task: str, runs: "Sequence[DataFrame]") -> "list[TaskReliance]":
    """Return the profile of a task and of its parts, from a table of answers per training seed."""
    from steelyard.harness.reliance.ask import profile_metric
    from steelyard.leaderboards.reliance.numbers import profile_task

    info = tasks.info(task)
    metric = profile_metric(info)
    higher = info.metrics.get(metric, True)
    # None, of a number that only describes, is read as higher.
    return profile_task(task, metric, higher_is_better=higher is not False, runs=runs)


def _task_names(texts: Sequence[str], run: Record | None) -> list[str]:
    """Return the tasks, given comma-separated or repeated; a classifier has only its own."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        check_known("task", name, tasks.names())
    # A classifier has one head: the classes of its task.
    if run is None or registry.kind_of(run.spec.backbone) == "vlm":
        return list(dict.fromkeys(names or TASKS))
    check_answerable(run, names)
    return [run.spec.task]


def _describe(
    backbone: "Classifier | Vlm",
    corpora: Mapping[str, Corpus],
    settings: "ProfileSettings",
    device: str,
) -> dict[str, str]:
    from steelyard.harness.reliance.session import fingerprint

    versions = packages()
    return {
        "backbone": backbone.name,
        "weights": fingerprint(backbone),
        "items": f"{settings.split} split, at most {settings.limit or 'all'} per task",
        "other items": f"{settings.draws} draws",
        "data revisions": ", ".join(f"{task} {c.revision}" for task, c in corpora.items()),
        "device": device,
        "versions": ", ".join(f"{name} {versions[name]}" for name in VERSIONS if name in versions),
    }
