"""Worker processes that report progress and exit with their parent."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from steelyard.harness.core.errors import UserError

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
SendMessage = Callable[..., None]

PARENT_CHECK_SECONDS = 1.0
WAIT_SECONDS = 0.2

_messages: Any
"""Queue from a worker to its parent."""


def spread(
    work: Callable[[JobT, SendMessage], ResultT],
    jobs: Sequence[JobT],
    workers: int,
    on_message: SendMessage,
    start: Callable[..., None] | None = None,
    start_args: Sequence[Any] = (),
    *,
    parent_works: bool = False,
) -> Iterator[tuple[int, Future[ResultT]]]:
    """Run jobs in processes; yield the index and the finished future of each, as they finish.

    ``work`` is called with a job and a function that sends the arguments of ``on_message`` to this
    process; ``start`` with ``start_args`` once in each worker. There are at most ``workers``
    processes beside this one. With ``parent_works`` this one runs jobs too, even alone; their
    errors are raised at once.

    Raises:
        UserError: a worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    count = max(1, min(workers, len(jobs)))
    pool = ProcessPoolExecutor(count, context, _start_worker, (messages, start, start_args))

    def receive(*message: Any) -> None:
        while not messages.empty():
            on_message(*messages.get())
        if message:
            on_message(*message)

    waiting = deque(enumerate(jobs))
    running: dict[Future[ResultT], int] = {}
    try:
        while waiting or running:
            # The parent takes the first job: workers need seconds to start.
            parent_jobs = [waiting.popleft()] if parent_works and waiting else []
            while waiting and len(running) < workers:
                index, job = waiting.popleft()
                running[pool.submit(_work_in_worker, work, job)] = index
            for index, job in parent_jobs:
                future: Future[ResultT] = Future()
                future.set_result(work(job, receive))
                yield index, future
            timeout = 0 if parent_jobs else WAIT_SECONDS
            done, _ = wait(running, timeout, FIRST_COMPLETED)
            receive()
            for future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    raise UserError(
                        "A worker process was killed, probably out of memory: try --jobs 1."
                    )
                yield running.pop(future), future
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _work_in_worker(work: Callable[[JobT, SendMessage], ResultT], job: JobT) -> ResultT:
    return work(job, lambda *message: _messages.put(message))


def _start_worker(
    messages: Any, start: Callable[..., None] | None, start_args: Sequence[Any]
) -> None:
    global _messages
    _messages = messages
    messages.cancel_join_thread()  # unread messages must not keep a worker alive
    parent = os.getppid()

    def exit_with_parent() -> None:
        # Nobody shuts this worker down if the parent was killed.
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    if start is not None:
        start(*start_args)
