"""Start a process the same way under every terminal, launcher and setting of Python."""

import errno
import io
import os
import re
import signal
import sys
import traceback
import warnings
from typing import Any

from steelyard.harness.core import ranks
from steelyard.harness.core.errors import UserError, one_line

COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE",
          "SLURM_STEP_NUM_TASKS")  # fmt: skip
"""Variables of torchrun, MPI and srun with the number of processes that they started."""
LAUNCHER = re.compile(
    r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)"
    r"|(TORCHELASTIC|ACCELERATE|FSDP|OMPI|PMI|PMIX|MV2)_\w+|MPI_LOCAL\w+"
)
"""Variables from which libraries conclude that other processes wait, or how to train."""
NUMBERS = re.compile(r"\w+_(NUM|MAX)_THREADS|HF_HUB_\w+_TIMEOUT")
"""Variables that some library reads as a whole number, and fails to be imported if it is none."""
SOON = 0.01  # seconds, after which a finaliser has ended
TORCH = "torch", "<module>"
"""Module and function that run while torch is imported."""


def start_process() -> None:
    """Make this process and those it starts independent of how they are started.

    Output that cannot be shown is no error, variables of a launcher and of ``accelerate`` have no
    effect, and warnings stay warnings. Only torchrun makes it one of several ``ranks``.

    Raises:
        UserError: another launcher started several processes of one command.
    """
    _open_streams()
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _interrupt_later
    if sys.flags.optimize > 1:
        raise UserError("Python was told to drop all docstrings, of which help texts are made: "
                        "unset PYTHONOPTIMIZE or give 1.")  # fmt: skip
    has_ranks = ranks.adopt(os.environ)
    for name in COUNTS:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 1 and not has_ranks:
            raise UserError(
                f"{name}={value}: a launcher started {value} processes, and steelyard is one that "
                f"starts its own (--jobs). Start it without the launcher, or unset {name}; several "
                "GPUs in one run: torchrun."
            )
    for name, value in list(os.environ.items()):
        if LAUNCHER.fullmatch(name) or (NUMBERS.fullmatch(name) and not value.isdecimal()):
            del os.environ[name]
    os.environ["MPLBACKEND"] = "agg"  # figures are saved and never shown
    # Libraries warn while they are imported.
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("ignore")
        sys.warnoptions.clear()  # workers would get them as options
        os.environ.pop("PYTHONWARNINGS", None)


def _interrupt_later(fault: "sys.UnraisableHookArgs") -> None:
    """Raise KeyboardInterrupt again where it can be caught: in a finaliser Python drops it."""
    if fault.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(fault)
        return
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, SOON)


def ignore_signals() -> None:
    """Let no signal interrupt the end of this process, whose work is done."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def explain_import(error: Exception) -> str:
    """Return one line about an exception that torch raised while it was imported; "" of others.

    Torch reads its variables then, and does not say which of them it cannot read.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not any((f.f_globals.get("__name__"), f.f_code.co_name) == TORCH for f in frames):
        return ""
    names = [name for name in os.environ if name.startswith(("TORCH_", "PYTORCH_"))]
    remedy = f"correct or unset {', '.join(sorted(names))}" if names else "install it again"
    return f"torch cannot be imported ({one_line(error)}): {remedy}."


class Output(io.FileIO):
    """Standard stream that drops what cannot be written: finished work is not lost by it."""

    failure = ""
    """Why a stream could not be written, other than that its reader has ended, as ``head`` does."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                Output.failure = error.strerror or str(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def _open_streams() -> None:
    """Replace standard output and error by streams on which no text and no reader fails."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would get this number
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor, errors in (("stdout", 1, "replace"), ("stderr", 2, "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            buffer = io.BufferedWriter(Output(descriptor, "w", closefd=False))
            encoding, by_line = "utf-8", False
            if stream is not None:
                stream.flush()
                encoding = stream.encoding
                by_line = stream.line_buffering or stream.write_through
            setattr(sys, name, io.TextIOWrapper(buffer, encoding, errors, "\n", by_line))
        elif isinstance(stream, io.TextIOWrapper):  # of whoever calls ``main`` in his process
            stream.reconfigure(errors=errors)
