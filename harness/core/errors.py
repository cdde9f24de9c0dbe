"""Errors that the user can fix (one line, exit code 2, no traceback), and a loss that diverged."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in the user's input: the message says what was given, what is allowed, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class NonFiniteLoss(Exception):
    """Training produced a NaN or infinite loss; the run is recorded as failed at this step."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"loss became {value} at step {step}")
        self.step = step


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist, with the closest and all allowed names."""
    names = sorted(allowed)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return UserError(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
