"""Read the data sets of runs: their folders, their loader options, and the recorded revision."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import parse_pairs
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.data import image_scan
from steelyard.harness.datacheck import convert
from steelyard.harness.records.record import Record
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.run import Job
from steelyard.tasks._lmms import stock


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Options of every command that reads data."""

    data_root: tuple[str, ...] = ()
    """``DIR`` or ``TASK=DIR``."""
    data_set: tuple[str, ...] = ()
    """Loader options: ``KEY=VALUE`` or ``TASK.KEY=VALUE``."""
    max_bad: float = 0.01
    """Fraction of unusable rows at which reading fails."""


@contextmanager
def show_reading() -> Iterator[None]:
    """Show a bar while data is read, with the time left once images are decoded."""
    with progress_bar() as bar:
        line = bar.add_task("reading data", total=None)
        with image_scan.report_images(
            lambda done, total: bar.update(line, completed=done, total=total)
        ):
            yield


def load_corpora(
    names: Sequence[str],
    options: DataOptions,
    loader: Mapping[str, Mapping[str, str]],
    further: Sequence[str] = (),
) -> dict[str, Corpus]:
    """Read data sets with progress; print how many rows could not be used.

    ``loader`` has their loader options; those of ``options`` are not used. A ``--data-root``
    without a task is about ``names``, not about the ``further`` data sets.

    Raises:
        UserError: a folder is missing, its data is unusable, or it is of another task.
    """
    roots = parse_roots(options.data_root, names)
    names = list(dict.fromkeys((*names, *further)))
    for task in roots:
        if task not in names:
            raise unknown("task of --data-root", task, names)
    corpora = {}
    with show_reading():
        for name in names:
            root = tasks.find_root(name, roots.get(name))
            corpora[name] = tasks.load(name, root, max_bad=options.max_bad, **loader.get(name, {}))
    for corpus in corpora.values():
        if corpus.skipped:
            rows = "; ".join(f"{row.split}/{row.id}: {row.reason}" for row in corpus.skipped[:3])
            count = len(corpus.skipped)
            console.print(f"[yellow]{corpus.name}: {count} rows skipped[/] ({rows} ...)")
    return corpora


def load_job_corpora(job: Job, record: Record | None, options: DataOptions) -> dict[str, Corpus]:
    """Read the data of the task trained on and of every task scored.

    Raises:
        UserError: data has another revision than the record; an option names another task.
    """
    names = sorted({name.partition("@")[0] for name in job.variants})
    loader = parse_loader_options(options.data_set, names)
    trained_on = job.spec.task
    further = () if trained_on == tasks.NOTHING else (trained_on,)
    for task in further:
        loader[task] = {**loader_options(job.spec), **loader.get(task, {})}
    corpora = load_corpora(names, options, loader, further)
    if record is not None:
        for corpus in corpora.values():
            check_revision(corpus, record)
    # Provenance of an untrained model describes an empty data set.
    if trained_on == tasks.NOTHING:
        corpora[trained_on] = Corpus(trained_on, Path(), (), False, {job.split: ()}, "")
    return corpora


def check_revision(corpus: Corpus, record: Record) -> None:
    """Raise UserError if the record was trained or scored on another revision of the data."""
    provenance = task_provenance(record, corpus.name)
    if provenance and corpus.revision != provenance["data"]["revision"]:
        untrained = record.spec.task == tasks.NOTHING
        remedy = "another --out" if untrained else "the recorded --data-root"
        raise UserError(
            f"The data at {corpus.root} does not match the record of {record.id}: {corpus.name} "
            f"has revision {corpus.revision}, recorded is {provenance['data']['revision']}. Give "
            f"{remedy}."
        )


def task_provenance(record: Record, task: str) -> Mapping[str, Any]:
    """Return the recorded data of a task; empty if the record has no scores on it."""
    if task == record.spec.task:
        return record.provenance
    provenance: Mapping[str, Any] = record.provenance.get("scored", {}).get(task, {})
    return provenance


def loader_options(spec: RunSpec) -> dict[str, str]:
    """Return the loader options that a run's data was read with."""
    return {key: value for key, value in spec.data.items() if key != "revision"}


def parse_loader_options(pairs: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read ``KEY=VALUE`` for the only task, or ``TASK.KEY=VALUE``, into options by task."""
    options: dict[str, dict[str, str]] = {}
    for text, value in parse_pairs(pairs).items():
        task, dot, key = text.rpartition(".")
        if not dot:
            if len(names) != 1:
                raise UserError(f"--data-set {text}: with several tasks write TASK.{text}=...")
            task = names[0]
        if task not in names:
            raise unknown("task of --data-set", task, names)
        options.setdefault(task, {})[key] = str(value)
    return options


def parse_roots(texts: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Read ``DIR`` for the only task, or ``TASK=DIR``; ``stock/`` may be left out of a name.

    The data set of a hub id is converted into the user's cache folder.
    """
    roots = {}
    for text in texts:
        task, equals, root = text.partition("=")
        if not equals:
            if len(names) != 1:
                raise UserError(f"--data-root {text}: with several tasks write TASK=DIR.")
            task, root = names[0], text
        if task not in names and stock.PREFIX + task in names:
            task = stock.PREFIX + task
        # A shell does not expand the ~ of TASK=~/folder.
        if (folder := Path(root).expanduser()).is_dir():
            roots[task] = folder
        elif task not in tasks.names() or not convert.is_hub_id(root):
            raise UserError(f"--data-root: no folder at {root}.")
        else:
            roots[task] = _convert_hub_copy(task, root)
    return roots


def _convert_hub_copy(task: str, hub_id: str) -> Path:
    with progress_bar() as bar:
        line = bar.add_task(f"converting {hub_id}", total=None)
        return convert.ensure(task, hub_id, lambda rows: bar.update(line, completed=rows))
