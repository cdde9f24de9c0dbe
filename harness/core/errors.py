"""Errors a user can mend: one line, exit code 2, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what was asked for: says what was given, what is allowed, what to do."""


class NonFiniteLoss(Exception):
    """Training produced a NaN or infinite loss; the run is recorded as failed at this step."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"loss became {value} at step {step}")
        self.step = step


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """Error for a name that does not exist, with the nearest name and all the allowed ones."""
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"Unknown {kind} '{given}'.{hint} Known: {', '.join(names) or 'none'}.")
