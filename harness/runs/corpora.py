"""corpora."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.cli.console import (
    parse_roots,
)
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.options import parse_pairs
from steelyard.harness.records.record import Record
from steelyard.harness.runs.run import Job


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
