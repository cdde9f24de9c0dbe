"""One run: train, evaluate each variant, write the record last; every finished part is kept."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steelyard import methods, tasks
from steelyard.harness import classifier_config, provenance, record
from steelyard.harness.budget import BudgetSpent, Meter, measure, parse_budget
from steelyard.harness.data import Corpus
from steelyard.harness.errors import NonFiniteLoss, UserError
from steelyard.harness.record import Ledger, Record, Score
from steelyard.harness.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.harness.batches import TrainData
    from steelyard.harness.classifier import Classifier
    from steelyard.harness.encoders import Encoder

log = logging.getLogger("steelyard")
WEIGHTS, TRAINING, PARTS = "weights", "training.json", "parts"
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the run that is finished."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run and how it is to be evaluated."""

    spec: RunSpec
    label: str
    """Its name on the board."""
    variants: tuple[str, ...]
    """Names of variants: ``clean``, ``image-noise:3`` ..."""
    split: str = "test"
    limit: int | None = None
    """Evaluate only this many items."""


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
    scored = {score.variant for score in found.scores}
    complete = scored.issuperset(job.variants) and _same_items(found, job)
    known = complete or found.status == "failed"
    return found if known and found.label == job.label else None


def _same_items(found: Record, job: Job) -> bool:
    """Whether a record was scored on the items the job asks for."""
    made = found.provenance
    return bool(made["limit"] == job.limit and made["data"]["split"] == job.split)


def run(job: Job, corpus: Corpus, runs: Path, device: str, progress: Progress) -> Record:
    """Train and evaluate one job, or what of it is not done yet, and write its record.

    A loss that is not finite, or a budget too small for one step, gives a record with status
    ``failed`` that names the step; a method's bug is raised.
    """
    if (done := finished(job, runs)) is not None:
        return done
    folder = runs / job.spec.id
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / record.RECORD).is_file():  # some variants, or another name: keep what it had
        had = _split_into_parts(record.read(folder), job, folder)
        job = replace(job, variants=tuple(dict.fromkeys((*job.variants, *had))))
        (folder / record.RECORD).unlink()  # its items are about to be replaced
    trained = _restore(folder) or _train(job.spec, corpus, folder, device, progress)
    scores: tuple[Score, ...] = ()
    if trained.status == "done" and job.variants:
        scores = _evaluate(job, corpus, folder, device, progress)
    files = [tasks.definition(job.spec.task)]
    made = provenance.describe(corpus, [*files, *(f.with_suffix(".py") for f in files)], job.split)
    weights = folder / WEIGHTS / "model.safetensors"
    made["weights"] = provenance.file_hash(weights) if weights.is_file() else None
    made["limit"] = job.limit
    result = Record(
        id=job.spec.id,
        label=job.label,
        spec=job.spec,
        status=trained.status,
        failure=trained.failure,
        ledger=trained.ledger,
        scores=scores,
        provenance=made,
        diagnostics=trained.diagnostics,
    )
    record.write(result, folder)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return result


def untrained(spec: RunSpec, corpus: Corpus, device: str) -> "Classifier":
    """The backbone before training: equal for every method of one seed."""
    from steelyard.harness import classifier

    config = classifier_config.configure(spec.backbone, spec.backbone_options)
    texts = [example.text for example in corpus.splits["train"] if example.text]
    seed = spec.seed_for("weights")
    return classifier.build(
        spec.backbone, config, corpus.classes, corpus.multi_label, texts, seed
    ).to(device)


def train_data(backbone: "Classifier", corpus: Corpus) -> "TrainData":
    """The training split, ready for this backbone."""
    from steelyard.harness import batches
    from steelyard.tasks.images import store_of

    images = store_of(corpus.root, "train")
    return batches.prepare(
        backbone,
        corpus.splits["train"],
        lambda example: images.get(example.image) if example.image else None,
    )


def _train(spec: RunSpec, corpus: Corpus, folder: Path, device: str, progress: Progress) -> Trained:
    import torch

    from steelyard.harness import classifier

    progress("preparing", 0.0)
    method = methods.load(spec.method)
    config = methods.configure(method, spec.options)
    backbone = untrained(spec, corpus, device)
    data = train_data(backbone, corpus)
    meter = Meter(parse_budget(spec.budget), device)
    for module in backbone.metered_modules:
        meter.watch(module)
    meter.on_progress = lambda share: progress("training", share)
    torch.manual_seed(spec.seed_for("training"))
    stopped: Literal["finished", "budget"] = "finished"
    failure = ""
    with meter:
        try:
            if backbone.config.frozen:
                with meter.phase("features"):
                    meter.charge(feature_cost(backbone, data))
            method.train(backbone, data, meter, config, spec.seed_for("method"))
        except BudgetSpent as spent:
            stopped = "budget"
            failure = "" if meter.steps else f"budget too small for one step: {spent}"
        except NonFiniteLoss as error:
            failure = str(error)
    trained = Trained(
        "failed" if failure else "done", failure, meter.ledger(stopped), meter.diagnostics
    )
    _write_lines(folder / "log.jsonl", meter.history)
    if not failure:
        classifier.save(backbone, folder / WEIGHTS)
    record.write_json(folder / TRAINING, asdict(trained))
    return trained


def feature_cost(backbone: "Classifier", data: "TrainData") -> float:
    """FLOPs of encoding every training item once with frozen encoders.

    Charged to each run in full, also when the features were still in memory from another run.
    """
    from PIL import Image

    costs: dict[tuple[str, int], float] = {}  # of one item, by side and shape

    def cost(encoder: "Encoder", item: "Image.Image | str") -> float:
        inputs, _ = encoder.prepare([item])
        key = (encoder.kind, inputs[0].numel())
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
    job: Job, corpus: Corpus, folder: Path, device: str, progress: Progress
) -> tuple[Score, ...]:
    import pandas as pd

    from steelyard.harness import classifier

    backbone = classifier.load(folder / WEIGHTS).to(device)
    scores: list[Score] = []
    items: list[pd.DataFrame] = []
    for position, name in enumerate(job.variants):
        progress(f"evaluating {name}", position / len(job.variants))
        found, rows = _variant(job, name, backbone, corpus, folder)
        scores += found
        items.append(rows)
    write_items(pd.concat(items, ignore_index=True), folder / record.ITEMS)
    return tuple(scores)


def _split_into_parts(found: Record, job: Job, folder: Path) -> list[str]:
    """Lay out a record's variants as parts, so that none of them is evaluated again."""
    import pandas as pd

    if not found.scores or not _same_items(found, job):
        return []
    items = pd.read_parquet(folder / record.ITEMS)
    names = list(dict.fromkeys(score.variant for score in found.scores))
    for name in names:
        table, summary = _part(folder, job, name)
        write_items(items[items["variant"] == name], table)
        scores = [asdict(score) for score in found.scores if score.variant == name]
        record.write_json(summary, scores)
    return names


def _part(folder: Path, job: Job, name: str) -> tuple[Path, Path]:
    """Files of one variant's items and scores in an unfinished run, apart for other items."""
    stem = folder / PARTS / f"{job.split}-{job.limit or 'all'}" / name.replace(":", "-")
    stem.parent.mkdir(parents=True, exist_ok=True)
    return stem.with_suffix(".parquet"), stem.with_suffix(".json")


def _variant(
    job: Job, name: str, backbone: "Classifier", corpus: Corpus, folder: Path
) -> "tuple[Sequence[Score], pd.DataFrame]":
    """Scores and items of one variant, from the interrupted run's part if there is one."""
    import pandas as pd

    from steelyard.harness.evaluate import evaluate

    table, summary = _part(folder, job, name)
    if summary.is_file():  # written after its table
        raw = json.loads(summary.read_text(encoding="utf-8"))
        return [Score(**score) for score in raw], pd.read_parquet(table)
    task = job.spec.task
    variant = tasks.parse_variant(task if name == "clean" else f"{task}@{name}")
    result = evaluate(backbone, variant, corpus, split=job.split, limit=job.limit)
    write_items(result.items, table)
    record.write_json(summary, [asdict(score) for score in result.scores])
    return result.scores, result.items


def write_items(items: "pd.DataFrame", path: Path) -> None:
    """Write a table of items so that it is either whole or absent."""
    part = path.with_name(path.name + ".part")
    try:
        items.to_parquet(part, index=False, compression="zstd")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error
