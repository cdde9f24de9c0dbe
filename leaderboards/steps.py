"""How far the making of boards has come: what is done now and the share that is done."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Report = Callable[[str, float], None]
Item = TypeVar("Item")


def silent(doing: str, share: float) -> None:
    """Tell nobody."""


def part(report: Report, about: str, place: int, count: int) -> Report:
    """A report for one of ``count`` things of equal size, the ``place``-th from 0."""
    return lambda doing, share: report(f"{about}: {doing}", (place + share) / count)


@dataclass(slots=True)
class Steps:
    """A number of steps known beforehand, taken to be of equal size."""

    report: Report
    total: int
    done: int

    def of(self, doing: str, items: Iterable[Item], name: Callable[[Item], str]) -> Iterator[Item]:
        """The items, each reported as a step when it is its turn."""
        for item in items:
            self.report(f"{name(item)}: {doing}", self.done / self.total)
            self.done += 1
            yield item
