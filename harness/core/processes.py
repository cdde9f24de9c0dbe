"""Worker processes that report progress, are replaced when they die, and exit with their parent."""

import atexit
import gc
import io
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any, TypeVar

from steelyard.harness.core.errors import UserError, one_line
from steelyard.harness.core.startup import start_process

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
SendMessage = Callable[..., None]

READY, MESSAGE, RESULT, ERROR, END = "ready", "message", "result", "error", "end"
"""What comes from a worker; the last is added when its process has ended."""
MOST_FAILED_STARTS = 3
"""Workers in succession that may die before they are ready."""
END_SECONDS = 5.0
"""Time that a worker has to remove its temporary files."""


class WorkerDied(UserError):
    """A worker process was killed, or ended itself, in the middle of a job."""


@dataclass(slots=True, eq=False)
class Worker:
    """Process that runs one job at a time."""

    process: SpawnProcess
    connection: "Connection[Any, Any]"
    is_ready: bool = False
    job: Any = None

    def death(self) -> str:
        """Return how the process ended."""
        self.process.join(END_SECONDS)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"worker ended by itself with exit code {code}"
        memory = ", probably out of memory" if -code == signal.SIGKILL else ""
        return f"worker killed by signal {-code}{memory}"


class Workers:
    """Processes beside this one, ``limit`` at most."""

    def __init__(
        self, limit: int, start: Callable[..., None] | None, start_args: Sequence[Any]
    ) -> None:
        self.limit = limit
        self.inbox: SimpleQueue[tuple[Worker, str, Any]] = SimpleQueue()
        self._start = start, start_args
        self._alive: list[Worker] = []
        self._failed_starts = 0

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self._alive if worker.job is not None]

    def add(self) -> None:
        """Start a process, which takes seconds; it says when it is ready."""
        # CUDA does not work in forked processes.
        context = multiprocessing.get_context("spawn")
        connection, remote = context.Pipe()
        process = context.Process(target=_serve, args=(remote, *self._start))
        # Ctrl-C reaches all processes of a terminal, and this one alone reports it: a signal that
        # is blocked now stays so in the new process. The tracker, started later, would unblock it.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        remote.close()
        worker = Worker(process, connection)
        self._alive.append(worker)
        threading.Thread(target=self._receive, args=(worker,), daemon=True).start()

    def _receive(self, worker: Worker) -> None:
        with suppress(EOFError, OSError):
            while True:
                self.inbox.put((worker, *worker.connection.recv()))
        self.inbox.put((worker, END, None))

    def hand_out(self, work: Callable[..., Any], jobs: deque[Any]) -> None:
        """Give jobs to the workers that are ready, and start more for the others."""
        for worker in self._alive:
            if jobs and worker.is_ready and worker.job is None:
                with suppress(OSError):  # it died meanwhile, which its reader will say
                    worker.connection.send((work, jobs[0]))
                    worker.job = jobs.popleft()
        while len(self._alive) < min(self.limit, len(self.busy) + len(jobs)):
            self.add()

    def remove(self, worker: Worker) -> None:
        """Forget a worker that has died.

        Raises:
            UserError: several in succession died before they were ready.
        """
        self._alive.remove(worker)
        self._failed_starts = 0 if worker.is_ready else self._failed_starts + 1
        if self._failed_starts == MOST_FAILED_STARTS:
            raise UserError(f"No worker process can start: {worker.death()}. Try --jobs 0.")

    def end(self) -> None:
        """End all processes; those at work have seconds to remove their temporary files."""
        for worker in self._alive:
            worker.process.terminate()
        for worker in self.busy:
            worker.process.join(END_SECONDS)
            worker.process.kill()


@contextmanager
def start_workers(
    limit: int, start: Callable[..., None] | None = None, start_args: Sequence[Any] = ()
) -> Iterator[Workers]:
    """Start one worker at once, and more when they are needed, ``limit`` at most; may be 0.

    Each calls ``start`` with ``start_args`` once.
    """
    workers = Workers(limit, start, start_args)
    try:
        if limit:
            workers.add()
        yield workers
    finally:
        workers.end()


def spread(
    work: Callable[[JobT, SendMessage], ResultT],
    jobs: deque[JobT],
    workers: Workers,
    on_message: SendMessage,
    *,
    parent_works: bool = False,
) -> Iterator[tuple[JobT, "Future[ResultT]"]]:
    """Run jobs in processes; yield each job with its finished future, as they finish.

    Args:
        work: called with a job and a function that sends the arguments of ``on_message``.
        jobs: removed and started in this order; the caller may add more.
        workers: processes that run jobs. One that dies is replaced; its job is not run again, the
            future has the error ``WorkerDied``.
        on_message: called in this process with every message.
        parent_works: run jobs in this process too, always the first one that is left; their errors
            are raised at once. Workers get jobs once they have started.

    Raises:
        UserError: no worker can start.
    """
    done: deque[tuple[JobT, Future[ResultT]]] = deque()

    def receive(*, wait: bool = False) -> None:
        while wait or not workers.inbox.empty():
            worker, kind, value = workers.inbox.get()
            wait = False
            if kind == MESSAGE:
                on_message(*value)
                continue
            if kind == READY:
                worker.is_ready = True
            elif worker.job is not None:
                future: Future[ResultT] = Future()
                if kind == RESULT:
                    future.set_result(value)
                else:
                    future.set_exception(WorkerDied(worker.death()) if kind == END else value)
                done.append((worker.job, future))
                worker.job = None
            if kind == END:
                workers.remove(worker)
        workers.hand_out(work, jobs)

    def on_parent_message(*message: Any) -> None:
        receive()
        on_message(*message)

    while jobs or done or workers.busy:
        parent_jobs = [jobs.popleft()] if parent_works and jobs else []
        workers.hand_out(work, jobs)
        for job in parent_jobs:
            future: Future[ResultT] = Future()
            future.set_result(work(job, on_parent_message))
            done.append((job, future))
        receive(wait=not done and not parent_jobs)
        while done:
            yield done.popleft()


def _serve(
    connection: "Connection[Any, Any]", start: Callable[..., None] | None, start_args: Sequence[Any]
) -> None:
    """Run the jobs that come, one by one, until the parent ends this process or is gone."""
    start_process()
    signal.signal(signal.SIGTERM, _interrupt_once)
    atexit.register(gc.freeze)  # a last search for garbage would take part of a second
    jobs: SimpleQueue[tuple[Callable[..., Any], Any]] = SimpleQueue()

    def read_jobs() -> None:
        # Nobody ends this worker if the parent was killed; sys.exit would end this thread only.
        try:
            while True:
                jobs.put(connection.recv())
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(END_SECONDS)
            os._exit(1)

    def send(kind: str, value: Any) -> None:
        try:
            connection.send((kind, value))
        except OSError:  # the parent is gone, which is no fault of the job
            raise KeyboardInterrupt from None

    with suppress(KeyboardInterrupt):
        threading.Thread(target=read_jobs, daemon=True).start()
        if start is not None:
            start(*start_args)
        send(READY, None)
        while True:
            work, job = jobs.get()
            try:
                answer = RESULT, work(job, lambda *message: send(MESSAGE, message))
            except Exception as error:
                answer = ERROR, _portable(error)
            send(*answer)


def _interrupt_once(*_: object) -> None:
    """End what this process does by an exception, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def call_bytes(call: Callable[..., Any]) -> bytes:
    """Return what a process would be sent of a call, equal for equal arguments; to be hashed."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out)
    pickler.fast = True  # else equal arguments differ in which of their parts are one object
    pickler.dump(call)
    return out.getvalue()


def _portable(error: Exception) -> Exception:
    """Return an error that another process can read, with its traceback as a note."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(one_line(error))
    if not isinstance(error, UserError):
        error.add_note(traceback.format_exc())
    return error
