"""corpora."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import parse_pairs
from steelyard.harness.core.progress import progress_bar
from steelyard.harness.records.record import Record
from steelyard.harness.runs.run import Job
from steelyard.tasks._lmms import stock


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


def parse_roots(given: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """``DIR`` for the only task, or ``TASK=DIR`` for one of several; ``stock/`` may be left out."""
    found = {}
    for text in given:
        task, equals, folder = text.partition("=")
        if not equals:
            if len(names) != 1:
                raise UserError(f"--data-root {text}: with several tasks write TASK=DIR.")
            task, folder = names[0], text
        if task not in names and stock.PREFIX + task in names:
            task = stock.PREFIX + task
        found[task] = _root(task, folder)
    return found


def _root(task: str, given: str) -> Path:
    """A folder, or the official tree made of a data set of the hub that was named."""
    from steelyard.harness.datacheck import convert

    # A shell leaves the ~ in TASK=~/folder as it is.
    if (folder := Path(given).expanduser()).is_dir():
        return folder
    if task not in tasks.names() or not convert.is_hub_id(given):
        raise UserError(f"--data-root: no folder at {given}.")
    with progress_bar() as bar:
        line = bar.add_task(f"converting {given}", total=None)
        return convert.ensure(task, given, lambda rows: bar.update(line, completed=rows))
