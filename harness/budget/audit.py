"""Spot check of the meter: compare it with torch's FLOP counter in a few windows of a run.

The meter counts calls of the modules it watches, so a model that is called past its hooks would
cost nothing. Torch's own counter sees every matrix product but is slow, so it runs in windows only:

    start .. step 1        ``STEPS`` drawn steps        from ``LATE`` of the budget, or the first
    (sparse)               (full)                       refused pass, to the end (sparse)

A full window counts everything. In a sparse window the counter is off inside watched calls, whose
cost is known, so that it slows nothing there.

On a CPU, whose peak torch does not keep, the bytes of tensors are counted in all of these windows.

Gradients of gradients and ``torch.func`` have no price in the meter. A run that uses them is
``exact`` from then on: every step is a sparse window, and is charged what the counter saw.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from steelyard.harness.budget.flops import total_counter

if TYPE_CHECKING:
    from steelyard.harness.budget.live_bytes import LiveBytes

STEPS = 4
LATE = 0.98
STATE = (
    "_due", "_enabled", "_open", "_full", "_exact", "_missed", "_seen", "_expected", "_posted",
    "_prepaid", "windows", "worst", "finding",
)  # fmt: skip
"""Attributes that a checkpoint has; between two steps no watched call is under way."""
TOLERANCE = 0.01
"""Fraction of a window's FLOPs that may be unaccounted: products of losses and metrics."""


class BehindMeter(Exception):
    """Raised if FLOPs were executed that the meter did not count; fails the run."""


class Audit:
    """Compares windows of a run with torch's counter; without a seed it does nothing.

    ``memory`` counts bytes in the same windows, or in all steps if the caller has entered it.
    """

    def __init__(self, seed: int | None = None, memory: "LiveBytes | None" = None) -> None:
        draw = random.Random(seed)
        self._due = [(i + draw.random()) / STEPS for i in range(STEPS)] if seed is not None else []
        self._enabled = seed is not None
        self._counter: Any = None  # torch's, whose methods have no types in some versions
        self._memory, self._counts_bytes = memory, False
        self._open = self._full = False
        self._exact = self._missed = False
        self._calls = 0
        # FLOPs of the open window: by torch's counter, those of the meter that it should see, and
        # all of the meter's. Prepaid ones may be executed in any window.
        self._seen = self._expected = self._posted = self._prepaid = 0.0
        self.windows = 0
        self.worst = 0.0
        """Largest fraction of a window's FLOPs that was unaccounted."""
        self.finding = ""

    def begin(self, *, full: bool = False) -> None:
        """Open a window, unless one is open; ``full`` counts inside watched calls too."""
        if not self._enabled or self._open:
            return
        self._open, self._full = True, full
        self._seen = self._expected = self._posted = 0.0
        self._count_bytes(True)
        self._start_counter()

    def begin_if_due(self, fraction: float) -> None:
        """Open a window before the next step if one is due at this fraction of the budget."""
        due = [start for start in self._due if start <= fraction]
        self._due = self._due[len(due) :]
        if due or fraction >= LATE or self._exact:
            self.begin(full=bool(due))

    def count_exactly(self, *, in_backward: bool) -> None:
        """Charge this step and all later ones by torch's counter."""
        if self._exact:
            return
        self._exact = self._enabled = True
        if in_backward:
            # The counter cannot start here: without a window this step is charged like the next.
            self._missed = not self._open
        else:
            self.begin()

    def end(self, position: str) -> float:
        """Close the open window, if any, and compare; ``position`` is for the finding.

        Returns:
            FLOPs still to charge, negative if too many were charged; 0 unless charged exactly.

        Raises:
            BehindMeter: more than ``TOLERANCE`` of it was executed behind the meter.
        """
        if not self._open:
            return 0.0
        self._stop_counter()
        self._count_bytes(False)
        self._open, self._calls = False, 0
        excess = self._seen - self._expected
        paid = max(0.0, min(excess, self._prepaid))
        excess, self._prepaid = excess - paid, self._prepaid - paid
        self.windows += 1
        if self._exact:
            steps, self._missed = 1 + self._missed, False
            return steps * excess
        excess = max(0.0, excess)
        unaccounted = excess / (self._posted + excess) if excess else 0.0
        self.worst = max(self.worst, unaccounted)
        if unaccounted > TOLERANCE:
            self.finding = (
                f"{excess:.3g} FLOPs were executed behind the meter up to {position}, beside "
                f"{self._posted:.3g} that it counted: watch every module and call it by its name"
            )
            raise BehindMeter(self.finding)
        return 0.0

    def post(self, flops: float, *, backward: bool, executed: bool = True) -> None:
        """Note what the meter counted; outside watched calls only backward passes are executed.

        What was charged by tokens is never compared: its calls are counted in no window.
        """
        self._posted += flops
        if executed and (self._full or backward):
            self._expected += flops

    def prepay(self, flops: float) -> None:
        """Note a charge for passes that are executed later, such as frozen encoders' features."""
        self._prepaid += flops

    def enter_call(self, *, paid: bool = False) -> None:
        """Stop counting inside a watched call, in a full window only if its tokens were paid."""
        if self._open and (paid or not self._full):
            self._calls += 1
            self._stop_counter()

    def leave_call(self) -> None:
        if self._open and self._calls:
            self._calls -= 1
            self._start_counter()

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Exclude what happens inside: the harness's own overhead."""
        counting = self._counter is not None
        self._stop_counter()
        with self._memory.paused() if self._memory else nullcontext():
            try:
                yield
            finally:
                if counting:
                    self._start_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two steps, with what an open window has counted so far."""
        with self.unseen():
            return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue as the audit whose state this is; a window of this one is dropped."""
        self._stop_counter()
        self._count_bytes(False)
        for name in STATE:
            setattr(self, name, state[name])
        if self._open:
            self._count_bytes(True)
            self._start_counter()

    @property
    def peak_bytes(self) -> int:
        """Most bytes of tensors in a window so far; 0 if they are not counted."""
        return 0 if self._memory is None else self._memory.most

    def _count_bytes(self, on: bool) -> None:
        """Begin or end to count bytes, always around torch's counter: modes are a stack."""
        if self._memory is not None and on != self._counts_bytes:
            self._counts_bytes = on
            self._memory.__enter__() if on else self._memory.__exit__(None, None, None)

    def _start_counter(self) -> None:
        if self._counter is None and not self._calls:
            self._counter = total_counter()
            self._counter.__enter__()

    def _stop_counter(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._seen += self._counter.get_total_flops()
            self._counter = None
