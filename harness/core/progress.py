"""How far the making of boards has come: what is done now and the share that is done."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Report = Callable[[str, float], None]


def silent(doing: str, share: float) -> None:
    """Tell nobody."""


def unheard(share: float) -> None:
    """Tell nobody a share that is done."""


def part(report: Report, about: str, place: int, count: int) -> Report:
    """A report for one of ``count`` things of equal size, the ``place``-th from 0."""
    return lambda doing, share: report(f"{about}: {doing}", (place + share) / count)


console = Console()


def progress_bar() -> Progress:
    """A bar with the share done and the time left; nothing where nobody looks."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
