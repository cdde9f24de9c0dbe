"""Work spread over processes that tell what they do and do not outlive their parent."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

Thing = TypeVar("Thing")
Made = TypeVar("Made")

PARENT_CHECK_SECONDS = 1.0
WAIT_SECONDS = 0.2

_messages: Any
"""A worker's queue to its parent."""


def spread(
    work: Callable[[Thing], Made],
    things: Sequence[Thing],
    workers: int,
    heard: Callable[..., None],
    start: Callable[..., None] | None = None,
    given: Sequence[Any] = (),
) -> Iterator[tuple[int, Future[Made]]]:
    """Each thing's place and its finished future, in the order in which they are done.

    Args:
        work: done in a worker for each thing; calls ``tell`` with what ``heard`` is to be called.
        things: what there is to do.
        workers: processes at most.
        heard: called here with what workers tell.
        start: called with ``given`` once in each worker.
        given: arguments of ``start``.
    """
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        min(workers, len(things)),
        mp_context=context,
        initializer=_begin,
        initargs=(messages, start, given),
    )
    try:
        places = {pool.submit(work, thing): place for place, thing in enumerate(things)}
        pending = set(places)
        while pending:
            done, pending = wait(pending, timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED)
            while not messages.empty():
                heard(*messages.get())
            yield from ((places[future], future) for future in done)
    finally:
        pool.shutdown(cancel_futures=True)


def tell(*message: Any) -> None:
    """Say something to the parent, from a worker."""
    _messages.put(message)


def _begin(messages: Any, start: Callable[..., None] | None, given: Sequence[Any]) -> None:
    global _messages
    _messages = messages
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    if start is not None:
        start(*given)


def _exit_with_parent(parent: int) -> None:
    """A killed parent cannot stop its workers: they see that they were orphaned and leave."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
