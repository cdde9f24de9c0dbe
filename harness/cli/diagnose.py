"""The ``diagnose`` command: what a model relies on, found by asking it, without any training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.cli.console import make_ready, pick_device, reading, report_skipped
from steelyard.harness.core.environment import packages
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import parse_pairs
from steelyard.harness.core.progress import console
from steelyard.harness.models import registry
from steelyard.harness.records import record
from steelyard.harness.reliance import ask
from steelyard.harness.reliance.session import ProfileSettings, collect_answers, fingerprint
from steelyard.harness.runs.corpora import parse_roots

if TYPE_CHECKING:
    from pandas import DataFrame

    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm
    from steelyard.leaderboards.reliance.numbers import Part

TASKS = ("prior_conflict", "pope", "vqa")
"""What a vision-language model is asked unless told otherwise."""
VERSIONS = ("steelyard", "torch", "transformers", "lmms-eval")


def diagnose(model: str, out: Path, given: Mapping[str, Any]) -> None:
    """Ask a model, write its profile into ``out`` and print it."""
    from steelyard.harness.runs.parallel import quiet_heavy_libraries
    from steelyard.leaderboards.reliance import tables as reliance_tables
    from steelyard.leaderboards.reliance.numbers import Diagnosis

    how = _checked(ProfileSettings(given["split"], given["limit"], given["draws"]))
    found = _run_of(model)
    options = parse_pairs(given["backbone_set"])
    named = _task_names(given["tasks"], found)
    corpora = _corpora(named, found, given)
    quiet_heavy_libraries()
    if found is None:
        make_ready(model, options)
    device = pick_device(given["device"])
    with console.status("loading the model"):
        backbone = registry.open_model(model, options, device)
    tables = {
        task: collect_answers(
            backbone, task, corpus, out, how, label=f"{place}/{len(corpora)} {task}"
        )
        for place, (task, corpus) in enumerate(corpora.items(), start=1)
    }
    with console.status("measuring"):
        parts = [part for task, rows in tables.items() for part in parts_of(task, [rows])]
        settings = _settings(backbone, corpora, how, device)
        made = Diagnosis(_name(model, found), settings, tuple(parts))
        files = reliance_tables.write(made, out)
    console.print(reliance_tables.terminal(made))
    for part in made.parts:
        if not part.subset:
            said = f"[bold]{part.name}[/]: {reliance_tables.verdict(part)}"
            console.print(said, highlight=False, soft_wrap=True)
    console.print(f"{len(files)} files in {out}, begin with {files[0]}")


def parts_of(task: str, runs: "Sequence[DataFrame]") -> "list[Part]":
    """The profile of a task and its parts, from one table of answers a training seed."""
    from steelyard.leaderboards.reliance.numbers import parts

    info = tasks.info(task)
    metric = ask.profile_metric(info)
    higher = info.metrics.get(metric, True)
    return parts(task, metric, higher_is_better=higher is not False, runs=runs)


def _checked(how: ProfileSettings) -> ProfileSettings:
    if how.draws < 1:
        raise UserError(f"--draws {how.draws}: replace a side by another item's once or more.")
    return how


def _run_of(model: str) -> record.Record | None:
    """The record where the model is a run's folder."""
    folder = Path(model)
    if (folder / record.RECORD).is_file():
        return record.read(folder)
    if not folder.exists() and folder.parent != Path() and folder.parent.is_dir():
        raise UserError(f"Nothing at {model}: give a run's folder, a checkpoint's or a hub id.")
    return None


def _name(model: str, found: record.Record | None) -> str:
    if found is None:
        return model if not Path(model).exists() else Path(model).resolve().name
    return f"{found.label} (seed {found.spec.seed})"


def _task_names(given: Sequence[str], found: record.Record | None) -> list[str]:
    """The tasks asked for, comma-separated or repeated; a classifier knows only its own."""
    listed = [name.strip() for text in given for name in text.split(",") if name.strip()]
    for name in listed:
        if name not in tasks.names():
            raise unknown("task", name, tasks.names())
    if found is None or registry.kind_of(found.spec.backbone) == "vlm":
        return list(dict.fromkeys(listed or TASKS))
    own = found.spec.task
    if others := sorted(set(listed) - {own}):
        raise UserError(f"{found.id} was trained on {own}, it cannot answer {', '.join(others)}.")
    return [own]


def _corpora(
    named: Sequence[str], found: record.Record | None, given: Mapping[str, Any]
) -> dict[str, Corpus]:
    roots = parse_roots(given["data_root"], named)
    for task in roots:
        if task not in named:
            raise unknown("task of this diagnosis", task, named)
    loader = {key: str(value) for key, value in parse_pairs(given["data_set"]).items()}
    if loader and len(named) > 1:
        raise UserError("--data-set goes with a single task: give it with --tasks.")
    corpora = {}
    with reading():
        for task in named:
            own = found is not None and found.spec.task == task
            known = dict(found.spec.data) if found is not None and own else {}
            known.pop("revision", None)
            root = tasks.find_root(task, roots.get(task))
            corpora[task] = tasks.load(task, root, max_bad=given["max_bad"], **(known | loader))
    for corpus in corpora.values():
        report_skipped(corpus)
    return corpora


def _settings(
    backbone: "Classifier | Vlm", corpora: Mapping[str, Corpus], how: ProfileSettings, device: str
) -> dict[str, str]:
    data = ", ".join(f"{task} {corpus.revision}" for task, corpus in corpora.items())
    versions = packages()
    return {
        "backbone": backbone.name,
        "weights": fingerprint(backbone),
        "items": f"{how.split} split, at most {how.limit or 'all'} a task",
        "other items": f"{how.draws} draws",
        "data revisions": data,
        "device": device,
        "versions": ", ".join(f"{name} {versions[name]}" for name in VERSIONS if name in versions),
    }
