"""One run: train, evaluate each variant, write the record last; every finished part is kept."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steelyard import methods, tasks
from steelyard.harness.budget.audit import Audit, BehindMeter
from steelyard.harness.budget.flops import measure
from steelyard.harness.budget.guard import ForeignData, only_training_images
from steelyard.harness.budget.meter import BudgetSpent, Meter
from steelyard.harness.core.errors import NonFiniteLoss
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import (
    file_hash,
    weights_hash,
    write_atomic,
    write_items,
    write_json,
)
from steelyard.harness.models import registry
from steelyard.harness.models.registry import WEIGHTS
from steelyard.harness.records import record
from steelyard.harness.records.budget import parse_budget
from steelyard.harness.records.record import Ledger, Record, RecordKind, Score
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import provenance
from steelyard.harness.runs import run as beside
from steelyard.tasks.corruptions import missing

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.harness.models.backbone import Backbone
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.encoders import Encoder
    from steelyard.harness.models.vlm import Vlm
    from steelyard.harness.training.train_data import TrainData

log = logging.getLogger("steelyard")
TRAINING, PARTS = "training.json", "parts"
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the run that is finished."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run and how it is to be evaluated."""

    spec: RunSpec
    label: str
    """Its name on the board."""
    variants: tuple[str, ...]
    """What it is scored on: ``food101``, ``food101@image-noise:3``, ``pope`` ..."""
    split: str = "test"
    limit: int | None = None
    """Evaluate only this many items."""
    kind: RecordKind = "entry"
    tuning: Mapping[str, Any] | None = None
    """The trials that chose its options, for the record."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training left behind, as written to ``training.json`` after the weights."""

    status: Literal["done", "failed"]
    failure: str
    ledger: Ledger
    diagnostics: dict[str, float]


def finished(job: Job, runs: Path) -> Record | None:
    """The job's record if it exists and holds every variant asked for."""
    folder = runs / job.spec.id
    if not (folder / record.RECORD).is_file():
        return None
    found = record.read(folder)
    scored = {_full_name(score) for score in found.scores}
    complete = scored.issuperset(job.variants) and _same_items(found, job)
    known = complete or found.status == "failed"
    return found if known and found.label == job.label else None


def _full_name(score: Score) -> str:
    return score.task if score.variant == "clean" else f"{score.task}@{score.variant}"


def _same_items(found: Record, job: Job) -> bool:
    """Whether a record was scored on the items the job asks for."""
    made = found.provenance
    return bool(made["limit"] == job.limit and made["data"]["split"] == job.split)


def run(
    job: Job, corpora: Mapping[str, Corpus], runs: Path, device: str, progress: Progress
) -> Record:
    """Train and evaluate one job, or what of it is not done yet, and write its record.

    ``corpora`` holds the data of the task trained on and of every task scored on. A loss that is
    not finite, or a budget too small for one step, gives a record with status ``failed`` that
    names the step; a method's bug is raised.
    """
    if (done := finished(job, runs)) is not None:
        return done
    folder = runs / job.spec.id
    folder.mkdir(parents=True, exist_ok=True)
    before: Mapping[str, Any] = {}
    if (folder / record.RECORD).is_file():  # some variants, or another name: keep what it had
        known = record.read(folder)
        had = _split_into_parts(known, job, folder)
        job = replace(job, variants=tuple(dict.fromkeys((*job.variants, *had))))
        job = replace(job, tuning=job.tuning or known.provenance.get("tuning"))
        before = known.provenance.get("scored", {})
        beside.bring_back(folder, known.provenance)
    if job.spec.task == tasks.NOTHING:
        trained = _untouched(job.spec, device)
    else:
        trained = _restore(folder) or _train(job.spec, corpora, folder, device, progress)
    scores: tuple[Score, ...] = ()
    if trained.status == "done" and job.variants:
        scores = _evaluate(job, corpora, folder, device, progress)
    result = Record(
        id=job.spec.id,
        label=job.label,
        spec=job.spec,
        status=trained.status,
        failure=trained.failure,
        ledger=trained.ledger,
        scores=scores,
        provenance=_provenance(job, corpora, folder, before),
        diagnostics=trained.diagnostics,
        kind=job.kind,
    )
    result = record.write(result, folder)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return result


def _provenance(
    job: Job, corpora: Mapping[str, Corpus], folder: Path, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Where the run's numbers come from: code, weights, and the data trained and scored on.

    ``before`` tells it of tasks that were scored earlier, whose data need not be here now.
    """
    spec = job.spec
    made = provenance.describe(corpora[spec.task], tasks.files(spec.task), job.split)
    names = (name.partition("@")[0] for name in job.variants)
    others = [name for name in dict.fromkeys(names) if name != spec.task]
    if others:
        made["scored"] = {
            name: (
                provenance.describe_task(corpora[name], tasks.files(name), job.split)
                if name in corpora
                else before[name]
            )
            for name in others
        }
    made["weights"] = weights_hash(folder / WEIGHTS)
    if spec.task == tasks.NOTHING:
        made["weights"] = registry.revision(spec.backbone, spec.backbone_options)
    made["limit"] = job.limit
    made["rules"] = record.RULES
    tables = {record.items_file(name, spec.task) for name in (spec.task, *others)}
    tables |= beside.missing_tables(job.variants, job.split)
    found = {name: folder / name for name in sorted(tables) if (folder / name).is_file()}
    made["tables"] = {name: file_hash(path) for name, path in found.items()}
    costs = beside.attacks(folder)
    if attacked := [name for name in job.variants if name in costs]:
        made["attacks"] = {name: dict(costs[name]) for name in attacked}
    if job.tuning is not None:
        made["tuning"] = dict(job.tuning)
    return made


def _train(
    spec: RunSpec, corpora: Mapping[str, Corpus], folder: Path, device: str, progress: Progress
) -> Trained:
    """Train with everything watched: the meter, its audit, and what files are opened."""
    import torch

    from steelyard.harness.training.train_data import train_data

    progress("preparing", 0.0)
    corpus = corpora[spec.task]
    method = methods.load(spec.method)
    config = methods.configure(method, spec.options, registry.kind_of(spec.backbone))
    backbone = registry.build_untrained(spec, corpus, device)
    _check_images(backbone, corpora)
    if spec.learning_rate is not None:
        backbone.recipe = replace(backbone.recipe, learning_rate=spec.learning_rate)
    data = train_data(backbone, spec.task, corpus)
    budget = parse_budget(spec.budget, spec.track, spec.wall)
    meter = Meter(budget, device, Audit(spec.seed_for("audit")))
    for module in backbone.metered_modules:
        meter.watch(module)
    meter.on_progress = lambda share: progress("training", share)
    torch.manual_seed(spec.seed_for("training"))
    stopped: Literal["finished", "budget"] = "finished"
    failure = ""
    images = (example.image for example in data.examples if example.image)
    roots = [each.root for each in corpora.values() if each.root != Path()]
    with meter, only_training_images(images, roots, [folder]) as guard:
        try:
            charge_features(backbone, data, meter)
            method.train(backbone, data, meter, config, spec.seed_for("method"))
            stopped = "budget" if meter.fraction >= 1 else "finished"
        except BudgetSpent as spent:
            stopped = "budget"
            failure = "" if meter.steps else f"budget too small for one step: {spent}"
        except (NonFiniteLoss, BehindMeter, ForeignData) as error:
            failure = str(error)
    # A method may have caught what was raised; what was found stays found.
    failure = meter.audit.finding or guard.finding or failure
    trained = Trained(
        "failed" if failure else "done", failure, meter.ledger(stopped), meter.diagnostics
    )
    _write_lines(folder / "log.jsonl", meter.history)
    if not failure:
        registry.save(backbone, folder / WEIGHTS)
    write_json(folder / TRAINING, asdict(trained))
    return trained


def _check_images(backbone: "Backbone", corpora: Mapping[str, Corpus]) -> None:
    """Refuse before anything is spent what the model could not be shown."""
    from steelyard.harness.models.registry import check_images

    for name, corpus in corpora.items():
        check_images(backbone, name, corpus.at_once)


def _untouched(spec: RunSpec, device: str) -> Trained:
    """What a model as it is has spent: nothing."""
    with Meter(parse_budget(spec.budget), device) as meter:
        return Trained("done", "", meter.ledger("finished"), {})


def charge_features(backbone: "Classifier | Vlm", data: "TrainData", meter: Meter) -> None:
    """Charge what frozen encoders of a classifier cost before training begins."""
    from steelyard.harness.models.classifier import Classifier

    if isinstance(backbone, Classifier) and backbone.config.frozen:
        with meter.phase("features"):
            meter.charge(feature_cost(backbone, data))


def feature_cost(backbone: "Classifier", data: "TrainData") -> float:
    """FLOPs of encoding every training item once with frozen encoders.

    Charged to each run in full, also when the features were still in memory from another run.
    """
    from PIL import Image

    costs: dict[tuple[str, int], float] = {}  # of one item, by side and shape

    def cost(encoder: "Encoder", item: "Image.Image | str") -> float:
        inputs, _ = encoder.prepare([item])
        key = (encoder.modality, inputs[0].numel())
        if key not in costs:
            costs[key] = measure(encoder, [t.to(backbone.device) for t in inputs], {}).forward
        return costs[key]

    images = sum(example.image is not None for example in data.examples)
    texts = [example.text for example in data.examples if example.text]
    # Processors give all images one shape, so a single one stands for them.
    of_images = images * cost(backbone.image_encoder, Image.new("RGB", (64, 64)))
    return of_images + sum(cost(backbone.text_encoder, text) for text in texts)


def _restore(folder: Path) -> Trained | None:
    """What an interrupted run had already trained; ``training.json`` is written after weights."""
    path = folder / TRAINING
    if not path.is_file():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Trained(**{**raw, "ledger": Ledger(**raw["ledger"])})


def _evaluate(
    job: Job, corpora: Mapping[str, Corpus], folder: Path, device: str, progress: Progress
) -> tuple[Score, ...]:
    import pandas as pd

    backbone = _model(job.spec, folder, device)
    _check_images(backbone, corpora)
    scores: list[Score] = []
    items: dict[str, list[pd.DataFrame]] = {}
    for position, name in enumerate(job.variants):

        def within(share: float, position: int = position, name: str = name) -> None:
            progress(f"evaluating {name}", (position + share) / len(job.variants))

        within(0.0)
        variant = tasks.parse_variant(name)
        beside.write_missing(folder, variant, job.split, corpora.get(variant.task))
        found, rows = _variant(job, variant, backbone, corpora, folder, within)
        scores += found
        items.setdefault(variant.task, []).append(rows)
    (folder / record.RECORD).unlink(missing_ok=True)  # its items are about to be replaced
    for task, tables in items.items():
        file = record.items_file(task, job.spec.task)
        write_items(pd.concat(tables, ignore_index=True), folder / file)
    return tuple(scores)


def _model(spec: RunSpec, folder: Path, device: str) -> "Backbone":
    """What a run trained, or the model that is asked as it is."""
    if spec.task == tasks.NOTHING:
        return registry.open_model(spec.backbone, spec.backbone_options, device)
    return registry.load(folder / WEIGHTS).to(device)


def _split_into_parts(found: Record, job: Job, folder: Path) -> list[str]:
    """Lay out a record's variants as parts, so that none of them is evaluated again."""
    import pandas as pd

    if not found.scores or not _same_items(found, job):
        return []
    names = list(dict.fromkeys(map(_full_name, found.scores)))
    for name in names:
        variant = tasks.parse_variant(name)
        items = pd.read_parquet(folder / record.items_file(variant.task, job.spec.task))
        table, summary = _part(folder, job, name)
        write_items(items[items["variant"] == variant.name], table)
        scores = [asdict(score) for score in found.scores if _full_name(score) == name]
        write_json(summary, scores)
    return names


def _part(folder: Path, job: Job, name: str) -> tuple[Path, Path]:
    """Files of one variant's items and scores in an unfinished run, apart for other items."""
    file = re.sub("[@:/]", "-", name)
    parts = folder / PARTS / f"{job.split}-{job.limit or 'all'}"
    parts.mkdir(parents=True, exist_ok=True)
    return parts / f"{file}.parquet", parts / f"{file}.json"


def _variant(
    job: Job,
    variant: tasks.Variant,
    backbone: "Backbone",
    corpora: Mapping[str, Corpus],
    folder: Path,
    progress: Callable[[float], None],
) -> "tuple[Sequence[Score], pd.DataFrame]":
    """Scores and items of one variant, from the interrupted run's part if there is one."""
    import pandas as pd

    from steelyard.harness.evaluation.evaluate import evaluate

    table, summary = _part(folder, job, str(variant))
    if summary.is_file():  # written after its table
        raw = json.loads(summary.read_text(encoding="utf-8"))
        return [Score(**score) for score in raw], pd.read_parquet(table)
    result = evaluate(
        backbone,
        variant,
        corpora[variant.task],
        split=job.split,
        limit=job.limit,
        progress=progress,
    )
    write_items(result.items, table)
    beside.add_attack(folder, str(variant), result.attack)
    write_json(summary, [asdict(score) for score in result.scores])
    return result.scores, result.items


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


ATTACKS = "attacks.json"
Cost = Mapping[str, float]
"""FLOPs and seconds of an attack on all items of a variant, its epsilon and its steps."""


def write_missing(folder: Path, variant: tasks.Variant, split: str, corpus: Corpus | None) -> None:
    """Write the table of a variant whose items lose something; nothing for any other variant.

    Without the data, or without the split, there is nothing that could be scored either.
    """
    if variant.missing is None or corpus is None or split not in corpus.splits:
        return
    path = folder / missing_table(variant, split)
    write_atomic(path, missing.table(missing.of(variant, split, corpus.splits[split])))


def missing_table(variant: tasks.Variant, split: str) -> str:
    """Where the table lies in a run's folder: ``missing/food101-test-image-missing-70.csv``."""
    return f"{missing.FOLDER}/{missing.file_name(variant.task, split, variant.name)}"


def missing_tables(variants: Iterable[str], split: str) -> set[str]:
    """Where the tables of all variants lie that have one."""
    parsed = map(tasks.parse_variant, variants)
    return {missing_table(variant, split) for variant in parsed if variant.missing}


def add_attack(folder: Path, variant: str, cost: Cost | None) -> None:
    """Remember what an attack cost, before the variant counts as scored."""
    if cost is not None:
        write_json(folder / ATTACKS, {**attacks(folder), variant: dict(cost)})


def attacks(folder: Path) -> dict[str, Cost]:
    """Costs of all attacks on a run's model, by variant."""
    path = folder / ATTACKS
    found: dict[str, Cost] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def bring_back(folder: Path, provenance: Mapping[str, Mapping[str, Cost]]) -> None:
    """Write the costs that a record holds, where it came without their file."""
    known = provenance.get("attacks", {})
    if known:
        write_json(folder / ATTACKS, {**known, **attacks(folder)})
