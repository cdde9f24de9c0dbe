"""Work spread over processes that tell what they do and do not outlive their parent."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True, slots=True)
class Helpers:
    """Processes that take a share of the work of the one that started them."""

    count: int
    """At most; 0 leaves all work to this process."""
    pool: ProcessPoolExecutor | None
    messages: Any
    """Their queue to this process."""

    def share(
        self,
        work: Callable[[Thing, Callable[..., None]], Made],
        things: Sequence[Thing],
        heard: Callable[..., None],
    ) -> list[Made]:
        """What is made of each thing, in order: whoever is free takes the next, here or there.

        Args:
            work: called with a thing and what to call to have ``heard`` called.
            things: what there is to do, the longest first.
            heard: called here with what is told.

        Raises:
            BrokenProcessPool: a helper was killed.
        """
        left = deque(enumerate(things))
        made: dict[int, Made] = {}
        silent: set[int] = set()
        """Places of things done by helpers of which not all that was told is heard."""

        def hear(place: int, *message: Any) -> None:
            if message:
                heard(*message)
            else:
                silent.discard(place)

        def told(*message: Any) -> None:
            while self.pool is not None and not self.messages.empty():
                hear(*self.messages.get())
            if message:
                heard(*message)

        def feed(pool: ProcessPoolExecutor) -> None:
            try:
                for place, thing in _taken(left):
                    silent.add(place)
                    made[place] = pool.submit(_helped, work, thing, place).result()
            finally:
                left.clear()  # after a failure nothing more is begun

        helping = min(self.count, len(things) - 1)
        with ThreadPoolExecutor(max(1, helping)) as feeders:
            fed = []
            if self.pool is not None:
                fed = [feeders.submit(feed, self.pool) for _ in range(helping)]
            try:
                for place, thing in _taken(left):
                    made[place] = work(thing, told)
                while wait(fed, timeout=WAIT_SECONDS).not_done:
                    told()
            finally:
                left.clear()
        for each in fed:
            each.result()
        while silent:
            hear(*self.messages.get())
        return [made[place] for place in range(len(things))]


@contextmanager
def helpers(count: int, load: Callable[[], None]) -> Iterator[Helpers]:
    """At most ``count`` helpers; the first begins to ``load`` at once, the others when needed."""
    if count < 1:
        yield Helpers(0, None, None)
        return
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(count, context, _begin, (messages, _end_at_once, ()))
    try:
        pool.submit(load)
        yield Helpers(count, pool, messages)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # they end while this process goes on


def _taken(left: deque[Thing]) -> Iterator[Thing]:
    """The things that nobody else has taken."""
    while True:
        try:
            yield left.popleft()
        except IndexError:
            return


def _helped(work: Callable[[Thing, Callable[..., None]], Made], thing: Thing, place: int) -> Made:
    made = work(thing, partial(tell, place))
    tell(place)  # the last that is told of it
    return made


def tell(*message: Any) -> None:
    """Say something to the parent, from a worker."""
    _messages.put(message)


def _begin(messages: Any, start: Callable[..., None] | None, given: Sequence[Any]) -> None:
    global _messages
    _messages = messages
    messages.cancel_join_thread()  # what a parent that failed does not hear keeps no worker alive
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    if start is not None:
        start(*given)


def _end_at_once() -> None:
    """Ctrl-C ends a helper without a word: it holds nothing that is to be put away."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _exit_with_parent(parent: int) -> None:
    """A killed parent cannot stop its workers: they see that they were orphaned and leave."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
