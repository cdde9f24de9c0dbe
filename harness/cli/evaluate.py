"""Commands about scores of a model: evaluate, answers."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import click

from steelyard import tasks
from steelyard.harness.cli import list as listing
from steelyard.harness.cli.options import output_file, pass_options
from steelyard.harness.core import ranks
from steelyard.harness.core.characters import escaped
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import check_output, read_items, user_path, write_atomic
from steelyard.harness.core.options import Help, parse_pairs
from steelyard.harness.core.progress import echo
from steelyard.harness.models import registry, vlm_config
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.harness.runs import options as shared
from steelyard.harness.runs import parallel
from steelyard.harness.runs.job import Job, untrained
from steelyard.harness.runs.provenance import check_revision, task_provenance
from steelyard.harness.runs.training import TRAINING
from steelyard.tasks._lmms import stock

COST = Help(
    "FLOPs that training took elsewhere, as you declare them, or unknown",
    "unknown for an adapter; other models count as they are, nothing trained",
    "FLOPS|unknown",
)
ENGINE = Help(
    "What answers tasks in words; vllm and sglang do through lmms-eval, and no record or board "
    "mixes them",
    "transformers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(shared.DataOptions):
    """Options of ``steelyard evaluate``."""

    out: Annotated[Path | None, Help(shared.OUT.text, "runs", is_output=True)] = None
    label: Annotated[str | None, shared.LABEL] = None
    cost: Annotated[str | None, COST] = None
    backbone_set: Annotated[tuple[str, ...], shared.BACKBONE_SET] = ()
    include_path: Annotated[tuple[Path, ...], shared.INCLUDE_PATH] = ()
    limit: Annotated[int | None, shared.LIMIT] = None
    engine: Annotated[Literal["vllm", "sglang"] | None, ENGINE] = None
    device: Annotated[str, shared.DEVICE] = "auto"


@click.command()
@click.argument("model")
@click.argument("variants", nargs=-1)
@pass_options(EvaluateOptions)
def evaluate(model: str, variants: tuple[str, ...], options: EvaluateOptions) -> None:
    """Score MODEL on task VARIANTS.

    MODEL is a run's folder, a preset, a hub id or a path. Scores are added to the run's record;
    another model gets a record of its own, and where it was trained elsewhere its cost is what you
    declare with --cost, shown as such. A variant is TASK or TASK@CORRUPTION[:SEVERITY],
    for our tasks and for any task of lmms-eval with an image; 'stock/pope' is lmms-eval's where
    both have the name.

    \b
    Examples:
      steelyard evaluate runs/joint-food101-tiny-S-s0-1a2b3c4d food101@image-noise:1-5
      steelyard evaluate tiny-vlm pope pope@image-blank
      steelyard evaluate ./checkpoint-500 pope --label mine --cost 3e17
      steelyard evaluate Qwen/Qwen2-VL-2B-Instruct mmstar mmstar@image-shuffle \\
          --backbone-set precision=bf16
    """
    score_model(model, variants, options)


@click.command()
@click.argument("folder", type=Path)
@click.argument("variant")
@click.option("--out", type=user_path, callback=output_file, metavar="FILE",
              help="File to write [default: print].")  # fmt: skip
@pass_options(shared.DataOptions, "data_root", "max_bad")
def answers(folder: Path, variant: str, out: Path | None, options: shared.DataOptions) -> None:
    """Export a run's answers as JSON lines.

    An external judge can rate them. Its file of ids, answers and ratings is read by an option of
    the task's loader.

    \b
    Examples:
      steelyard answers runs/RUN mmhal --out answers.jsonl
      steelyard evaluate tiny-vlm mmhal --data-set ratings=rated.jsonl --out judged
    """
    rows = answer_rows(folder, variant, options)
    # ASCII, which every terminal shows and every file system of a log takes.
    text = "".join(f"{escaped(json.dumps(row))}\n" for row in rows)
    if out is None:
        echo(text.rstrip("\n"))
    else:
        write_atomic(out, text)


def score_model(source: str, names: Sequence[str], options: EvaluateOptions) -> None:
    """Score the variants that the record has not yet, add them and print the record."""
    stock.include(options.include_path)
    folder = Path(source)
    variants = [variant for name in names for variant in _expand(name)]
    # A run that was interrupted before its record has only some of these files.
    if any((folder / name).exists() for name in (record.RECORD, TRAINING, registry.WEIGHTS)):
        job, runs = _job_of_run(folder, variants, options), folder.parent
    else:
        job, runs = _job_of_model(source, variants, options), options.out or shared.RUNS
    if not job.variants:
        raise UserError(f"Say what to score {source} on, for example: pope pope@image-blank.")
    parallel.quiet_heavy_libraries()
    result_folder = runs / job.spec.id
    check_output(result_folder)
    has_record = (result_folder / record.RECORD).is_file()
    old = record.read(result_folder) if has_record else None
    weights = None if job.spec.task == tasks.NOTHING else result_folder / registry.WEIGHTS
    corpora = parallel.load_job_corpora(job, old, options, weights)
    if job.spec.task == tasks.NOTHING:
        parallel.ensure_base_model(job.spec.backbone, job.spec.backbone_options)
        if old is not None:
            revision = registry.revision(job.spec.backbone, job.spec.backbone_options)
            if old.provenance["weights"] != revision:
                raise UserError(
                    f"{job.spec.backbone} has other weights (revision {revision}) than when "
                    f"{old.id} was scored ({old.provenance['weights']}); give another --out."
                )
    job = with_engine(job, old, weights, options.engine)
    settings = shared.RunOptions(runs=runs, device=options.device, jobs=0)
    (result,) = parallel.run_jobs([job], corpora, settings)
    if result.status == "failed":
        sys.exit(1)
    listing.print_record(result_folder)


def with_engine(job: Job, old: Record | None, weights: Path | None, engine: str | None) -> Job:
    """Return the job with an engine that answers for its model, if one is to.

    Raises:
        UserError: the engine is not installed, it cannot answer a variant or have the model, or
            the record has scores by another one.
    """
    from steelyard.harness.evaluation import engines

    before = old.provenance.get("engine", {}).get("name") if old else engine
    if old is not None and old.scores and before != engine:
        remedy = (
            "give another --out"
            if weights is None
            else "have one record a run and engine: train it with 'steelyard train', score it so"
        )
        names = [name or "transformers" for name in (before, engine)]
        raise UserError(f"{old.id} has answers by {names[0]}, not by {names[1]}: {remedy}.")
    if engine is None:
        return job
    if ranks.world() > 1:
        raise UserError(f"--engine {engine} takes the GPUs by itself: start one process.")
    engines.version(engine)  # before a model is loaded
    # On the CPU: the GPU's memory is the engine's.
    spec = job.spec
    model = (
        registry.open_model(spec.backbone, spec.backbone_options, "cpu")
        if weights is None
        else registry.load(weights, "cpu")
    )
    answering = engines.EngineModel(engine, engines.checked(engine, job.variants, model))
    return replace(job, model=cast(Backbone, answering))


def _expand(name: str) -> list[tasks.Variant]:
    """Return the variants of ``task`` or ``task@corruption``: of a group's tasks, of a range."""
    task_or_group, at, corruption = name.partition("@")
    names = tasks.find(task_or_group)
    if not at:
        return [tasks.parse_variant(task) for task in names]
    # The first variant is the clean one.
    return [variant for task in names for variant in tasks.variants(task, [corruption])[1:]]


def _job_of_run(folder: Path, variants: Sequence[tasks.Variant], options: EvaluateOptions) -> Job:
    """Return the job that scores a run; by default on the task it was trained on."""
    of_models = {"--out": options.out, "--backbone-set": options.backbone_set,
                 "--cost": options.cost}  # fmt: skip
    for name, value in of_models.items():
        if value:
            raise UserError(f"{name} goes with a model; {folder} is a run and keeps its own.")
    old = record.read(folder)
    if old.origin == "answers from a file":
        raise UserError(f"{folder} has answers of a file, and no model: use 'steelyard score'.")
    trained_on = old.spec.task
    if not variants and trained_on != tasks.NOTHING:
        variants = [tasks.Variant(trained_on)]
    check_answerable(old, [variant.task for variant in variants])
    # By default the same items as its other variants.
    limit, split = options.limit or old.provenance["limit"], old.provenance["data"]["split"]
    label = options.label or old.label
    elsewhere = old.provenance.get("elsewhere")
    names = tuple(map(str, variants))
    return Job(old.spec, label, names, split, limit, old.kind, elsewhere=elsewhere)


def check_answerable(run: Record, names: Iterable[str]) -> None:
    """Raise UserError for another task than a classifier's own, whose classes its head has."""
    foreign = sorted({*names} - {run.spec.task})
    if foreign and registry.kind_of(run.spec.backbone) == "classifier":
        raise UserError(
            f"{run.id} was trained on {run.spec.task}, it cannot answer {', '.join(foreign)}."
        )


def _job_of_model(source: str, variants: Sequence[tasks.Variant], options: EvaluateOptions) -> Job:
    """Return the job that scores an untrained model; a limit gives a record of its own."""
    check_model_path(source := registry.as_typed(source))
    backbone_options = registry.read_options(source, parse_pairs(options.backbone_set))
    registry.check_packages(source, backbone_options)
    spec = untrained(
        source,
        options.limit,
        backbone_options=backbone_options,
        folders=registry.folders(source, backbone_options),
    )
    changes = ", ".join(f"{key}={value}" for key, value in sorted(spec.model_options.items()))
    name = f"{spec.model_name}({changes})" if changes else spec.model_name
    label = options.label or name
    elsewhere = None
    # Scored further, a model keeps what was said of it before.
    folder = (options.out or shared.RUNS) / spec.id
    if (folder / record.RECORD).is_file():
        old = record.read(folder)
        label, elsewhere = options.label or old.label, old.provenance.get("elsewhere")
    elif "adapter" in backbone_options or vlm_config.base_of_adapter(spec.backbone):
        elsewhere = {"flops": None}
    if options.cost is not None:
        elsewhere = {"flops": parse_cost(options.cost)}
    names = tuple(map(str, variants))
    return Job(spec, label, names, limit=options.limit, elsewhere=elsewhere)


def parse_cost(text: str) -> float | None:
    """Read ``--cost``: a number of FLOPs, None for ``unknown``."""
    if text == "unknown":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise UserError(f"--cost {text}: give the FLOPs of training, such as 3e17, or unknown.")
    return value


def check_model_path(model: str) -> None:
    """Raise UserError for a path that does not exist in a folder that does."""
    path = Path(model)
    # A hub id ORG/NAME is a path, too, but has no folder ORG here.
    if not path.exists() and path.parent != Path() and path.parent.is_dir():
        raise UserError(f"Nothing at {model}: give the folder of a run or checkpoint, or a hub id.")


def answer_rows(folder: Path, name: str, options: shared.DataOptions) -> list[dict[str, Any]]:
    """Return id, question, references and answer of every item of a variant, sorted by id.

    Raises:
        UserError: the run has no scores on the variant, has class probabilities instead of
            answers, or was scored on other data.
    """
    import pandas as pd

    result, variant = record.read(folder), tasks.parse_variant(name)
    path = folder / record.items_file(variant.task, result.spec.task)
    items = pd.DataFrame()
    if path.is_file():
        table = read_items(path)
        if "answer" not in table:
            raise UserError(f"{path} has class probabilities, no answers in words to judge.")
        items = table.loc[table["variant"] == variant.name, ["id", "answer"]]
    if items.empty:
        raise UserError(f"{folder} has no answers to {name}: steelyard evaluate {folder} {name}.")
    (corpus,) = parallel.load_corpora([variant.task], options, spec=result.spec).values()
    check_revision(corpus, result)
    split = task_provenance(result, variant.task)["data"]["split"]
    examples = {example.id: example for example in corpus.splits[split]}
    return [
        {
            "id": item,
            "question": examples[item].text,
            "references": list(examples[item].answers),
            "answer": answer,
        }
        for item, answer in zip(items["id"], items["answer"], strict=True)
    ]
