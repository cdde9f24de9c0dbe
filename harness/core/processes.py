"""Worker processes that report progress and exit with their parent."""

import atexit
import gc
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from steelyard.harness.core.errors import UserError

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
SendMessage = Callable[..., None]

PARENT_CHECK_SECONDS = 1.0
WAIT_SECONDS = 0.2

_messages: Any
"""Queue from a worker to its parent."""


class Workers(NamedTuple):
    """Processes beside this one."""

    limit: int
    executor: ProcessPoolExecutor
    messages: Any
    """Queue to this process."""
    ready: Future[int]
    """Done when the first worker has started, which takes seconds."""


@contextmanager
def start_workers(
    limit: int, start: Callable[..., None] | None = None, start_args: Sequence[Any] = ()
) -> Iterator[Workers]:
    """Start one worker at once, and more when they are needed, ``limit`` at most; may be 0.

    Each calls ``start`` with ``start_args`` once.
    """
    # CUDA does not work in forked processes.
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    init_args = (messages, start, start_args)
    # The executor refuses a limit of 0, and starts a process only when a job is submitted.
    executor = ProcessPoolExecutor(max(1, limit), context, _start_worker, init_args)
    try:
        yield Workers(limit, executor, messages, executor.submit(os.getpid) if limit else Future())
    finally:
        # Without waiting: after an error the running jobs may take many minutes.
        executor.shutdown(wait=False, cancel_futures=True)


def spread(
    work: Callable[[JobT, SendMessage], ResultT],
    jobs: deque[JobT],
    workers: Workers,
    on_message: SendMessage,
    *,
    parent_works: bool = False,
) -> Iterator[tuple[JobT, Future[ResultT]]]:
    """Run jobs in processes; yield each job with its finished future, as they finish.

    Args:
        work: called with a job and a function that sends the arguments of ``on_message``.
        jobs: removed and started in this order; the caller may add more.
        workers: processes that run jobs.
        on_message: called in this process with every message.
        parent_works: run jobs in this process too, always the first one that is left; their errors
            are raised at once. Workers get jobs once one of them has started.

    Raises:
        UserError: a worker was killed.
    """
    running: dict[Future[ResultT], JobT] = {}

    def receive() -> None:
        while not workers.messages.empty():
            on_message(*workers.messages.get())

    def hand_out() -> None:
        # No more than can start at once: this process takes jobs from the same queue.
        while jobs and sum(not future.done() for future in running) < workers.limit:
            if parent_works and not workers.ready.done():
                break
            job = jobs.popleft()
            running[workers.executor.submit(_work_in_worker, work, job)] = job

    def on_parent_message(*message: Any) -> None:
        receive()
        on_message(*message)
        hand_out()

    try:
        while jobs or running:
            parent_jobs = [jobs.popleft()] if parent_works and jobs else []
            hand_out()
            for job in parent_jobs:
                future: Future[ResultT] = Future()
                future.set_result(work(job, on_parent_message))
                yield job, future
            # This process does not wait while it has jobs of its own to run.
            timeout = 0 if parent_jobs else WAIT_SECONDS
            done, _ = wait(running, timeout=timeout, return_when=FIRST_COMPLETED)
            receive()
            for future in done:
                if isinstance(error := future.exception(), BrokenProcessPool):
                    raise error
                yield running.pop(future), future
    except BrokenProcessPool:
        raise UserError(
            "A worker process was killed, probably out of memory: try --jobs 1."
        ) from None


def _work_in_worker(work: Callable[[JobT, SendMessage], ResultT], job: JobT) -> ResultT:
    return work(job, lambda *message: _messages.put(message))


def _start_worker(
    messages: Any, start: Callable[..., None] | None, start_args: Sequence[Any]
) -> None:
    global _messages
    _messages = messages
    messages.cancel_join_thread()  # unread messages must not keep a worker alive
    atexit.register(gc.freeze)  # a last search for garbage would take part of a second
    parent = os.getppid()

    def exit_with_parent() -> None:
        # Nobody shuts this worker down if the parent was killed.
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        # sys.exit would end this thread only.
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    if start is not None:
        start(*start_args)
