"""The ``evaluate`` command: more variants for a finished run, or a record of a model as it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard import methods, tasks
from steelyard.harness.cli.console import make_ready, pick_device, reading
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.options import parse_pairs
from steelyard.harness.core.progress import progress_bar
from steelyard.harness.models import registry
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.corpora import corpora_of
from steelyard.harness.runs.run import TRAINING, Job, run
from steelyard.tasks._lmms import stock

SPLIT = "test"
BUDGET = "XS"
"""Of a model that nothing is spent on: the smallest."""


def evaluate(source: str, variants: Sequence[str], out: Path | None, **given: Any) -> None:
    """Score a run's folder, or a vision-language model by preset, hub id or path.

    What is scored already is not scored again; the rest is added to the record and shown.
    """
    from steelyard.harness.cli import list as listing
    from steelyard.harness.runs.parallel import quiet_heavy_libraries

    stock.include(given["include_path"])
    folder = Path(source)
    wanted = [variant for name in variants for variant in _asked(name)]
    if any((folder / name).exists() for name in (record.RECORD, TRAINING, registry.WEIGHTS)):
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
    if others and registry.kind_of(found.spec.backbone) == "classifier":
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
    registry.configure(source, options)
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


def _check_weights(spec: RunSpec, known: Record | None) -> None:
    """Refuse to add the scores of other weights to a record."""
    if known is None:
        return
    now = registry.revision(spec.backbone, spec.backbone_options)
    if known.provenance["weights"] != now:
        raise UserError(
            f"{spec.backbone} has other weights (revision {now}) than when {known.id} was scored "
            f"({known.provenance['weights']}); give another --out."
        )
