"""Work spread over processes that tell what they do and do not outlive their parent."""

import atexit
import gc
import itertools
import multiprocessing
import os
import queue
import signal
import sys
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
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

from steelyard.harness.core.errors import UserError

Thing = TypeVar("Thing")
Made = TypeVar("Made")

PARENT_CHECK_SECONDS = 1.0
WAIT_SECONDS = 0.2
PAUSE_SECONDS = 0.02
SWITCH_SECONDS = 0.0005
LAST_SECONDS = 5.0

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
    loaded: Future[None] | None
    """Done once a helper is ready: nothing waits for one that still starts."""

    def share(
        self,
        work: Callable[[Thing, Callable[..., None]], Made],
        left: deque[Thing],
        heard: Callable[..., None],
        done: Callable[[Thing, Made], None],
        most: int,
    ) -> None:
        """Do all that is left: whoever is free takes the next, here or there.

        Args:
            work: called with a thing and what to call to have ``heard`` called.
            left: what there is to do, the longest first; ``done`` may add to it.
            heard: called here with what is told.
            done: called here with each thing and what was made of it, perhaps within ``work``.
            most: helpers at most; one that is not started yet has to be worth the seconds it takes.

        Raises:
            UserError: a helper was killed.
        """
        try:
            _Sharing(self, work, left, heard, done, min(most, self.count)).run()
        except BrokenProcessPool as error:
            raise UserError(
                "A process that helped was killed, most often for want of memory: try --jobs 1."
            ) from error


ALONE = Helpers(0, None, None, None)
"""No helpers: all is done in this process."""


@dataclass(slots=True)
class _Sharing(Generic[Thing, Made]):
    """Work that is shared: what is to be done and who has it."""

    crew: Helpers
    work: Callable[[Thing, Callable[..., None]], Made]
    left: deque[Thing]
    heard: Callable[..., None]
    done: Callable[[Thing, Made], None]
    most: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)
    away: int = 0
    """Things that helpers have."""
    brought: deque[tuple[Thing, Made]] = field(default_factory=deque)
    """What helpers made and ``done`` was not called with."""
    numbers: Iterator[int] = field(default_factory=itertools.count)
    silent: set[int] = field(default_factory=set)
    """Numbers of things that helpers got and of which not all that was told is heard."""

    def run(self) -> None:
        with _quick_turns(), ThreadPoolExecutor(max(1, self.most)) as feeders:
            fed: list[Future[None]] = []
            try:
                while self.open():
                    mine = self.take(away=False)
                    fed = fed or self.begin(feeders)
                    for thing in mine:
                        self.done(thing, self.work(thing, self.told))
                    if not mine:
                        time.sleep(PAUSE_SECONDS)
                    self.told()
                    for each in fed:
                        if each.done():
                            each.result()  # a failure: a feeder ends by no other way
            finally:
                self.over.set()
        with suppress(queue.Empty):  # one killed after its last thing was made says nothing more
            while self.silent:
                self.hear(*self.crew.messages.get(timeout=LAST_SECONDS))

    def begin(self, feeders: ThreadPoolExecutor) -> list[Future[None]]:
        """Give helpers that are ready something before this process is busy with its own."""
        pool, loaded = self.crew.pool, self.crew.loaded
        if pool is None or loaded is None:
            return []
        first = [self.hand(pool) if loaded.done() else [] for _ in range(self.most)]
        return [feeders.submit(self.feed, pool, loaded, each) for each in first]

    def open(self) -> bool:
        """Whether something is still to be done or to be seen."""
        with self.lock:
            return bool(self.left or self.away or self.brought)

    def take(self, *, away: bool) -> list[Thing]:
        """The next thing, unless there is none; ``away`` where a helper is to have it."""
        with self.lock:
            taken = [self.left.popleft()] if self.left else []
            self.away += away and len(taken)
        return taken

    def hand(self, pool: ProcessPoolExecutor) -> list[tuple[Thing, Future[Made]]]:
        """Give the next thing to a helper, unless there is none."""
        things = self.take(away=True)
        numbers = [next(self.numbers) for _ in things]
        self.silent.update(numbers)
        return [
            (thing, pool.submit(_helped, bytes(ForkingPickler.dumps((self.work, thing, number)))))
            for thing, number in zip(things, numbers, strict=True)
        ]

    def feed(
        self,
        pool: ProcessPoolExecutor,
        loaded: Future[None],
        handed: Sequence[tuple[Thing, Future[Made]]],
    ) -> None:
        """Wait for what a helper has and give it the next, one after the other."""
        while not loaded.done():
            if self.over.wait(PAUSE_SECONDS):
                return
        while not self.over.is_set():
            for thing, made in handed:
                self.bring(thing, made.result())
            handed = self.hand(pool)
            if not handed:
                time.sleep(PAUSE_SECONDS)

    def bring(self, thing: Thing, made: Made) -> None:
        with self.lock:
            self.brought.append((thing, made))
            self.away -= 1

    def told(self, *message: Any) -> None:
        """Hear what helpers told until now, see what they made, and then hear this.

        What they made may ask for more, for which they do not wait until a thing is done here.
        """
        while self.crew.messages is not None and not self.crew.messages.empty():
            self.hear(*self.crew.messages.get())
        while self.brought:
            self.done(*self.brought.popleft())
        if message:
            self.heard(*message)

    def hear(self, number: int, *message: Any) -> None:
        if message:
            self.heard(*message)
        else:
            self.silent.discard(number)


@contextmanager
def helpers(count: int, load: Callable[[], None]) -> Iterator[Helpers]:
    """At most ``count`` helpers; the first begins to ``load`` at once, the others when needed."""
    if count < 1:
        yield ALONE
        return
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(count, context, _begin, (messages, _end_at_once, ()))
    try:
        yield Helpers(count, pool, messages, loaded=pool.submit(load))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # they end while this process goes on


def _helped(handed: bytes) -> Any:
    work, thing, number = ForkingPickler.loads(handed)
    made = work(thing, partial(tell, number))
    tell(number)  # the last that is told of it
    return made


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let threads that send and receive wait less for one that computes.

    A large message goes in hundreds of parts, and each waits for its turn.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def tell(*message: Any) -> None:
    """Say something to the parent, from a worker."""
    _messages.put(message)


def _begin(messages: Any, start: Callable[..., None] | None, given: Sequence[Any]) -> None:
    global _messages
    _messages = messages
    atexit.register(gc.freeze)  # without a last search for garbage its end takes half the time
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
