"""Runs jobs one after another or several at a time, each worker with one CPU thread."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.processes import spread
from steelyard.harness.records.record import Record
from steelyard.harness.runs.run import Job, run

Report = Callable[[str, str, float], None]
"""Called with a run's id, what it is doing and its finished share."""
REPORT_SECONDS = 0.3


@dataclass(slots=True)
class _Worker:
    """What a worker process holds between jobs."""

    corpora: Mapping[str, Corpus]
    runs: Path
    device: str


_worker: _Worker


def execute(
    jobs: Iterable[Job],
    corpora: Mapping[str, Corpus],
    runs: Path,
    *,
    device: str,
    workers: int,
    report: Report,
) -> Iterable[Record]:
    """Yield each job's record as it is finished. A bug in one job is raised after the others."""
    waiting = list(jobs)
    if workers <= 1 or len(waiting) <= 1:
        quiet_heavy_libraries()
        for job in waiting:
            yield run(job, corpora, runs, device, _reporter(job, report))
        return
    bugs: list[BaseException] = []
    given = (corpora, runs, device)
    for _, future in spread(_work, waiting, workers, report, _start, given):
        if (bug := future.exception()) is not None:
            bugs.append(bug)
        else:
            yield future.result()
    if bugs:
        raise bugs[0]


def quiet_heavy_libraries() -> None:
    """One CPU thread, no advice from tokenizers, no progress bars from transformers."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from steelyard.harness.core.compat import prepare_imports

    prepare_imports()
    import torch
    from transformers.utils import logging as transformers_logging

    # On small models two threads are far slower than one, and sums differ with their number.
    torch.set_num_threads(1)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _start(corpora: Mapping[str, Corpus], runs: Path, device: str) -> None:
    global _worker
    _worker = _Worker(corpora, runs, device)
    quiet_heavy_libraries()


def _work(job: Job, report: Report) -> Record:
    return run(job, _worker.corpora, _worker.runs, _worker.device, _reporter(job, report))


def _reporter(job: Job, report: Report) -> Callable[[str, float], None]:
    """Thin out progress to a few messages a second."""
    told, told_at = "", 0.0

    def progress(doing: str, share: float) -> None:
        nonlocal told, told_at
        now = time.monotonic()
        if doing != told or now - told_at > REPORT_SECONDS:
            told, told_at = doing, now
            report(job.spec.id, doing, share)

    return progress
