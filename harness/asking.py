"""The ``evaluate`` command: more variants for a finished run, or a record of a model as it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard import methods, tasks
from steelyard.harness import backbones, record
from steelyard.harness.commands import (
    make_ready,
    parse_pairs,
    parse_roots,
    pick_device,
    progress_bar,
    reading,
)
from steelyard.harness.data import Corpus
from steelyard.harness.errors import UserError, unknown
from steelyard.harness.record import Record
from steelyard.harness.run import TRAINING, Job, run
from steelyard.harness.spec import RunSpec
from steelyard.tasks import stock

SPLIT = "test"
BUDGET = "XS"
"""Of a model that nothing is spent on: the smallest."""


def evaluate(source: str, variants: Sequence[str], out: Path | None, **given: Any) -> None:
    """Score a run's folder, or a vision-language model by preset, hub id or path.

    What is scored already is not scored again; the rest is added to the record and shown.
    """
    from steelyard.harness import listing
    from steelyard.harness.pool import quiet_heavy_libraries

    stock.include(given["include_path"])
    folder = Path(source)
    wanted = [variant for name in variants for variant in _asked(name)]
    if any((folder / name).exists() for name in (record.RECORD, TRAINING, backbones.WEIGHTS)):
        job, runs = _more(folder, wanted, out, given), folder.parent
    else:
        job, runs = _as_it_is(source, wanted, given), out or Path("runs")
    quiet_heavy_libraries()
    known = _record(runs / job.spec.id)
    with reading():
        corpora = corpora_of(job, known, given)
    if job.spec.task == tasks.NOTHING:
        make_ready(job.spec.backbone, job.spec.backbone_options)
        _check_weights(job.spec, known)
    with progress_bar() as bar:
        line = bar.add_task("starting", total=1.0)

        def report(doing: str, share: float) -> None:
            bar.update(line, description=doing, completed=share)

        run(job, corpora, runs, pick_device(given["device"]), report)
    listing.show(runs / job.spec.id)


def _asked(name: str) -> list[tasks.Variant]:
    """``task``, or ``task@corruption`` also with a range of severities; of a group, its tasks."""
    given, at, corruption = name.partition("@")
    found = tasks.find(given)
    if not at:
        return [tasks.parse_variant(task) for task in found]
    return [made for task in found for made in tasks.variants(task, [corruption])[1:]]


def _more(
    folder: Path, wanted: Sequence[tasks.Variant], out: Path | None, given: Mapping[str, Any]
) -> Job:
    """What a finished run is to be asked; without a wish, the task it was trained on."""
    if out is not None or given["backbone_set"]:
        option = "--out" if out is not None else "--backbone-set"
        raise UserError(f"{option} goes with a model; {folder} is a run and keeps its own.")
    found = record.read(folder)
    if not wanted and found.spec.task == tasks.NOTHING:
        raise _nothing_asked(str(folder))
    chosen = wanted or [tasks.Variant(found.spec.task)]
    others = sorted({variant.task for variant in chosen} - {found.spec.task})
    if others and backbones.kind_of(found.spec.backbone) == "classifier":
        raise UserError(
            f"{folder} was trained on {found.spec.task}, it cannot answer {', '.join(others)}."
        )
    made = found.provenance
    limit = given["limit"] or made["limit"]  # the items its other variants were scored on
    return Job(
        found.spec, found.label, tuple(map(str, chosen)), made["data"]["split"], limit, found.kind
    )


def _as_it_is(source: str, wanted: Sequence[tasks.Variant], given: Mapping[str, Any]) -> Job:
    """A model that nobody trained here; of some items only, it has a record of its own."""
    if not wanted:
        raise _nothing_asked(source)
    folder = Path(source)
    if not folder.exists() and folder.parent != Path() and folder.parent.is_dir():
        raise UserError(f"Nothing at {source}: give a run's folder, a checkpoint's or a hub id.")
    options = parse_pairs(given["backbone_set"])
    backbones.configure(source, options)
    limit = given["limit"]
    spec = RunSpec(
        method=methods.idle(),
        task=tasks.NOTHING,
        backbone=source.rstrip("/"),
        budget=BUDGET,
        seed=0,
        backbone_options=options,
        data={"limit": str(limit)} if limit else {},
    )
    changed = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
    name = Path(spec.backbone).name
    label = f"{name}({changed})" if changed else name
    return Job(spec, label, tuple(map(str, wanted)), SPLIT, limit)


def _nothing_asked(source: str) -> UserError:
    return UserError(f"Say what to ask {source}, for example: pope pope@image-blank.")


def _record(folder: Path) -> Record | None:
    return record.read(folder) if (folder / record.RECORD).is_file() else None


def corpora_of(job: Job, known: Record | None, given: Mapping[str, Any]) -> dict[str, Corpus]:
    """The data of the task trained on and of every task asked now."""
    own = job.spec.task
    asked = sorted({name.partition("@")[0] for name in job.variants})
    roots = parse_roots(given["data_root"], asked)
    options = _options(given["data_set"], asked)
    found = {
        task: _corpus(task, job, known, roots.get(task), given["max_bad"], options.get(task, {}))
        for task in asked
    }
    if own == tasks.NOTHING:
        found[own] = Corpus(own, Path(), (), False, {job.split: ()}, "")
    elif own not in found:
        found[own] = _corpus(own, job, known, roots.get(own), given["max_bad"], {})
    return found


def _options(given: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Loader options by task: ``KEY=VALUE`` for the only task, or ``TASK.KEY=VALUE``."""
    found: dict[str, dict[str, str]] = {}
    for text, value in parse_pairs(given).items():
        task, dot, key = text.rpartition(".")
        if not dot:
            if len(names) != 1:
                raise UserError(f"--data-set {text}: with several tasks write TASK.{text}=...")
            task = names[0]
        if task not in names:
            raise unknown("task of --data-set", task, names)
        found.setdefault(task, {})[key] = str(value)
    return found


def _corpus(
    task: str,
    job: Job,
    known: Record | None,
    given: Path | None,
    bad: float,
    options: Mapping[str, str],
) -> Corpus:
    """The data of a task as a record knew it, or a UserError where it is other data."""
    made = known.provenance if known else {}
    before = made if task == job.spec.task else made.get("scored", {}).get(task)
    loader = {key: value for key, value in job.spec.data.items() if key != "revision"}
    root = tasks.find_root(task, given)
    own = loader if task == job.spec.task else {}
    corpus = tasks.load(task, root, max_bad=bad, **{**own, **options})
    if before and corpus.revision != before["data"]["revision"]:
        where = "another --out" if job.spec.task == tasks.NOTHING else "its --data-root"
        raise UserError(
            f"The data at {root} is not what {job.spec.id} knew of {task} (revision "
            f"{corpus.revision}, not {before['data']['revision']}); give {where}."
        )
    return corpus


def _check_weights(spec: RunSpec, known: Record | None) -> None:
    """Refuse to add the scores of other weights to a record."""
    if known is None:
        return
    now = backbones.revision(spec.backbone, spec.backbone_options)
    if known.provenance["weights"] != now:
        raise UserError(
            f"{spec.backbone} has other weights (revision {now}) than when {known.id} was scored "
            f"({known.provenance['weights']}); give another --out."
        )
