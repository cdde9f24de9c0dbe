"""The meter's spot check: torch's counter, on for a while, against what was posted meanwhile.

The meter counts calls of the modules it watches, so a model that is called past its hooks would
cost nothing. Three stretches of a run are compared with torch's own counter, which sees every
matrix product: all before the first step, ``STEPS`` steps drawn by name, and all after ``LATE`` of
the budget or after the meter has refused a pass. The drawn steps are counted whole; in the other
stretches the counter rests inside watched calls, whose cost is known, and so slows nothing there.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steelyard.harness.budget.flops import total_counter

STEPS = 4
LATE = 0.98
TOLERANCE = 0.01
"""Share of a stretch's FLOPs that may go unposted: the matrix products of losses and metrics."""


class BehindMeter(Exception):
    """FLOPs were executed that the meter was not told of; fails the run."""


class Audit:
    """Compares stretches of a run with torch's counter. Without a seed it never looks."""

    def __init__(self, seed: int | None = None) -> None:
        draw = random.Random(seed)
        self._due = [(i + draw.random()) / STEPS for i in range(STEPS)] if seed is not None else []
        self._looks = seed is not None
        self._counter: Any = None  # torch's, whose methods have no types in some versions
        self._open = self._whole = False
        self._resting = 0
        self._seen = self._expected = self._posted = self._prepaid = 0.0
        self.windows = 0
        self.worst = 0.0
        """Largest share of a stretch's FLOPs that went unposted."""
        self.finding = ""

    def begin(self, *, whole: bool = False) -> None:
        """Open a stretch; ``whole`` counts inside watched calls too."""
        if not self._looks or self._open:
            return
        self._open, self._whole = True, whole
        self._seen = self._expected = self._posted = 0.0
        self._count()

    def step(self, steps: int, fraction: float) -> None:
        """Close the stretch that ends with this step, and open another where one is due.

        Raises:
            BehindMeter: more than ``TOLERANCE`` of it was executed behind the meter.
        """
        self.end(f"step {steps}")
        due = [share for share in self._due if share <= fraction]
        self._due = self._due[len(due) :]
        if due or fraction >= LATE:
            self.begin(whole=bool(due))

    def end(self, where: str) -> None:
        """Close the open stretch, if any, and judge it."""
        if not self._open:
            return
        self._rest()
        self._open, self._resting = False, 0
        excess = max(0.0, self._seen - self._expected)
        paid = min(excess, self._prepaid)
        excess, self._prepaid = excess - paid, self._prepaid - paid
        self.windows += 1
        share = excess / (self._posted + excess) if excess else 0.0
        self.worst = max(self.worst, share)
        if share > TOLERANCE:
            self.finding = (
                f"{excess:.3g} FLOPs were executed behind the meter up to {where}, beside "
                f"{self._posted:.3g} that it counted: watch every module and call it by its name"
            )
            raise BehindMeter(self.finding)

    def post(self, flops: float, *, backward: bool) -> None:
        """The meter counted this; outside watched calls only backward passes are executed."""
        self._posted += flops
        if self._whole or backward:
            self._expected += flops

    def prepay(self, flops: float) -> None:
        """This was charged before it is executed, as the features of frozen encoders are."""
        self._prepaid += flops

    def enter_call(self) -> None:
        """An outermost watched call begins."""
        if self._open and not self._whole:
            self._resting += 1
            self._rest()

    def leave_call(self) -> None:
        """That call has ended."""
        if self._open and not self._whole and self._resting:
            self._resting -= 1
            self._count()

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """What happens inside is the harness's own overhead."""
        counting = self._counter is not None
        self._rest()
        try:
            yield
        finally:
            if counting:
                self._count()

    def _count(self) -> None:
        if self._counter is None and not self._resting:
            self._counter = total_counter()
            self._counter.__enter__()

    def _rest(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._seen += self._counter.get_total_flops()
            self._counter = None
