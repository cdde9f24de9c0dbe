"""Curves of a training in TensorBoard, trackio or Weights & Biases; off unless asked for.

A curve is drawn over the FLOPs executed so far, the axis on which methods are comparable, and
begins and ends as the run's own ``log.jsonl`` does. Importing this imports none of the packages.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from steelyard.harness.core.environment import require_package
from steelyard.harness.records.spec import RunSpec

Tracker = Literal["tensorboard", "trackio", "wandb"]
Row = Mapping[str, float]
"""Values of one step by name; ``step`` and ``flops`` are among them."""
PROJECT = "steelyard"
STEP_FLOPS = 1e6
"""FLOPs between two steps of TensorBoard's axis, which takes whole numbers of 63 bits."""


def check_packages(trackers: Sequence[Tracker]) -> None:
    """Raise UserError if a package is not installed."""
    for name in trackers:
        require_package(name, "log", f"--log {name}")


@contextmanager
def opened(
    trackers: Sequence[Tracker], folder: Path, spec: RunSpec
) -> Iterator[Callable[[Row], None]]:
    """Yield a function that writes a row with all packages; they are closed at the end."""
    with ExitStack() as stack:
        writers = [stack.enter_context(WRITERS[name](folder, spec)) for name in trackers]

        def write(row: Row) -> None:
            for writer in writers:
                writer(row)

        yield write


@contextmanager
def _tensorboard(folder: Path, spec: RunSpec) -> Iterator[Callable[[Row], None]]:
    """Write below the run's folder, one axis step per million FLOPs."""
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def write(row: Row) -> None:
            position = int(row["flops"] / STEP_FLOPS)
            for name, value in row.items():
                writer.add_scalar(name, value, position)

        yield write


@contextmanager
def _trackio(folder: Path, spec: RunSpec) -> Iterator[Callable[[Row], None]]:
    import trackio

    trackio.init(project=PROJECT, name=spec.id, config=asdict(spec))
    try:
        yield lambda row: trackio.log(dict(row), step=int(row["step"]))
    finally:
        trackio.finish()


@contextmanager
def _wandb(folder: Path, spec: RunSpec) -> Iterator[Callable[[Row], None]]:
    import wandb

    run: Any = wandb.init(project=PROJECT, name=spec.id, config=asdict(spec), dir=str(folder))
    run.define_metric("*", step_metric="flops")
    try:
        yield lambda row: run.log(dict(row))
    finally:
        run.finish()


WRITERS = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}
