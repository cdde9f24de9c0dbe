"""Errors that the user can fix (one line, exit code 2, no traceback), and ends of a run."""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

LONGEST = 300
"""Most characters of a word in a message."""
LONG_WORD = re.compile(rf"(\S{{{LONGEST}}})\S+")


def brief(text: str) -> str:
    """Return a text of files for a message: without line ends, and with its long words cut."""
    return LONG_WORD.sub(r"\1...", text.replace("\n", "\\n"))


class UserError(Exception):
    """Mistake in the user's input: the message says what was given, what is allowed, what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        return brief(super().__str__())


class RunFailed(Exception):
    """Run that the rest of a command needs failed; its exit code is 1."""


class ItemError(UserError):
    """Item that a model cannot take; whoever knows the ids of the batch names it."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class Interrupted(BaseException):
    """A progress callback ends a run: a signal came or time is up; a later call continues it.

    No ``Exception``, so that neither a method nor a trainer takes it for an error of training.
    """


class LeaseLost(Interrupted):
    """Another process took the run over, so this one writes nothing more into its folder."""


class NonFiniteLoss(Exception):
    """Training produced a NaN or infinite loss or gradient; the run is recorded as failed."""

    def __init__(self, step: int, value: float, name: str = "loss") -> None:
        super().__init__(f"{name} became {value} at step {step}")
        self.step = step


class NonFiniteOutput(Exception):
    """A model's output is NaN or infinite for items of a batch."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"outputs that are not finite in rows {', '.join(map(str, rows))}")
        self.rows = rows


def one_line(error: BaseException) -> str:
    """Return the first line of an error, with its type unless it speaks to the user."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def unknown(kind: str, name: str, names: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest and all allowed names."""
    names = sorted(names)
    if not names:
        return UserError(f"There is no {kind}: leave out '{name}'.")
    return UserError(
        f"Unknown {kind} '{name}'.{did_you_mean(name, names)} Known: {', '.join(names)}."
    )


def check_known(kind: str, name: str, names: Collection[str]) -> None:
    """Raise the error of ``unknown`` unless the name is one of ``names``."""
    if name not in names:
        raise unknown(kind, name, names)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest name, or an empty string."""
    nearest = get_close_matches(name, sorted(names), n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
