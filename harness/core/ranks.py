"""Ranks: processes that torchrun started for one command, which share every run of it.

Each rank does the same in the same order; it reads all data, works on its part of each batch, and
sees one GPU as if there were no other. Rank 0 alone writes and prints. One process, which is rank 0
of 1, pays nothing for any of these functions.

torchrun --nproc_per_node 2 $(which steelyard) run METHOD --budget S
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from steelyard.harness.core.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
ResultT = TypeVar("ResultT")
NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR")
"""Variables that torchrun sets, and MPI and srun do not."""
VARIABLES = re.compile(r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|MASTER_\w+|TORCHELASTIC_\w+")
HOURS = 24  # that the ranks wait for one another: rank 0 may read and convert data meanwhile
LONE_SECONDS = 60.0  # that a rank with an error waits for the others to have one too
BUCKET = 1 << 24  # gradient entries that are averaged in one message

_world, _rank = 1, 0
_variables: dict[str, str] = {}
_control: Any = None
"""Group of processes for values that are no gradients, on the CPU."""
_meetings: Any = None
"""Group for ``meet`` alone: what waits in another group is not taken for an answer."""


class FailedElsewhere(Exception):
    """Raised where another rank has raised an error, which that rank reports."""


def world() -> int:
    """Return the number of ranks."""
    return _world


def rank() -> int:
    """Return the number of this process, from 0."""
    return _rank


def is_main() -> bool:
    """Return whether this process writes and prints."""
    return _rank == 0


def name() -> tuple[int, ...]:
    """Return what the name of a random stream adds on this rank: nothing on rank 0."""
    return (_rank,) if _rank else ()


def adopt(environment: Mapping[str, str]) -> bool:
    """Take this process for a rank if torchrun started several; show it the GPU of its own.

    Call it before torch looks for GPUs.
    """
    global _world, _rank
    *numbers, address = (environment.get(name, "") for name in NAMES)
    if not address or not all(map(str.isdecimal, numbers)) or int(numbers[0]) < 2:
        return False
    _world, _rank, local, _ = map(int, numbers)
    _variables.update((n, v) for n, v in environment.items() if VARIABLES.fullmatch(n))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = list(map(str, range(local + 1))) if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local] if local < len(gpus) else ""
    if not is_main():
        # Rank 0 says it all. ``sys.__stderr__`` stays, for an error that only this rank has.
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    return True


def connect() -> None:
    """Connect the ranks.

    Raises:
        UserError: some ranks have a GPU and others have none.
    """
    global _control, _meetings
    if _world == 1:
        return
    import torch
    from torch import distributed

    timeout = timedelta(hours=HOURS)
    has_gpu = torch.cuda.is_available()
    # torchrun's variables, without which libraries take this process for the only one.
    os.environ.update(_variables)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=timeout)
    finally:
        for name in _variables:
            del os.environ[name]
    _control, _meetings = (distributed.new_group(backend="gloo", timeout=timeout) for _ in range(2))
    have = gather(has_gpu)
    if len(set(have)) > 1:
        raise UserError(
            f"{have.count(True)} of {_world} ranks have a GPU: start one process a GPU "
            "(torchrun --nproc_per_node)."
        )


def close() -> None:
    """Disconnect from the ranks, which have all come to their end."""
    if _control is None:  # most commands run without torch, whose import takes seconds
        return
    from torch import distributed

    distributed.barrier(_control)
    distributed.destroy_process_group()


def meet(problem: str = "") -> None:
    """Wait for all ranks; this process ends if it has a problem and the others do not come.

    They may wait for this one in the middle of a step, for hours: torchrun ends them with it.
    """
    if _control is None:
        return
    from torch import distributed

    seconds = LONE_SECONDS if problem else HOURS * 3600
    try:
        distributed.barrier(_meetings, async_op=True).wait(timedelta(seconds=seconds))
    except RuntimeError:
        if not problem:
            raise
        if sys.__stderr__ is not None:
            sys.__stderr__.write(f"error: rank {_rank} alone: {problem}\n")
            sys.__stderr__.flush()
        os._exit(1)


def gather(value: T) -> list[T]:
    """Return the value of every rank, in their order; the ranks wait for one another."""
    if _control is None:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * _world
    distributed.all_gather_object(values, value, _control)
    return values


def mean_values(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each number over the ranks that have it."""
    if _world == 1:
        return dict(values)
    rows = gather(dict(values))
    columns = {name: [row[name] for row in rows if name in row] for row in rows for name in row}
    return {name: sum(column) / len(column) for name, column in columns.items()}


@contextmanager
def together() -> Iterator[None]:
    """Raise on all ranks what the block raises on any of them; they meet at its end.

    The block itself has nothing for which ranks wait.
    """
    if _world == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    reports = gather(None if error is None else (isinstance(error, UserError), one_line(error)))
    if error is not None:
        raise error
    for is_mistake, text in filter(None, reports):
        raise UserError(text) if is_mistake else FailedElsewhere(text)


def share(work: Callable[[], ResultT]) -> ResultT:
    """Let rank 0 work; return its result, or raise its error, on all ranks."""
    if _world == 1:
        return work()
    results: list[ResultT] = []
    with together():
        if is_main():
            results.append(work())
    return gather(results)[0][0]


def main_first(work: Callable[[], ResultT]) -> ResultT:
    """Let rank 0 work, then the others, which find what it left in files."""
    results: list[ResultT] = []
    share(lambda: results.append(work()))
    return results[0] if results else work()


def deal(items: Iterable[T], work: Callable[[T], ResultT]) -> list[ResultT]:
    """Work on the items in turns, one each; return all results in order, on all ranks."""
    items = list(items)
    if _world == 1:
        return [work(item) for item in items]
    with together():
        results = [work(item) for item in items[_rank::_world]]
    rows = gather(results)
    return [rows[index % _world][index // _world] for index in range(len(items))]


def slice_of(items: Sequence[T]) -> Sequence[T]:
    """Return this rank's equal part of consecutive items."""
    size = len(items) // _world
    return items[_rank * size : (_rank + 1) * size]


def in_turn(draw: Callable[[], ResultT]) -> ResultT:
    """Draw once for each rank, in their order, and return this one's.

    A generator that all ranks have alike then gives each the numbers that one process would have
    drawn in the same place.
    """
    return [draw() for _ in range(_world)][_rank]


def average(parameters: Iterable["nn.Parameter"]) -> None:
    """Replace gradients by their mean over the ranks.

    A parameter without a gradient on some ranks only, such as a projector on rows without an image,
    has a gradient of zero there.
    """
    if _world == 1:
        return
    import torch
    from torch import distributed

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    flags = gather([parameter.grad is not None for parameter in trained])
    used = [p for p, *present in zip(trained, *flags, strict=True) if any(present)]
    gradients = []
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        distributed.all_reduce(flat)
        flat /= _world
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def mean_tensor(value: "Tensor") -> "Tensor":
    """Return the mean over ranks of a tensor of one shape, in single precision or more."""
    if _world == 1:
        return value
    from torch import distributed

    total = value.detach().clone() if value.is_floating_point() else value.float()
    distributed.all_reduce(total)
    return total / _world


def _buckets(tensors: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Yield tensors of one precision, ``BUCKET`` entries or one tensor at a time."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or size + tensor.numel() > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
