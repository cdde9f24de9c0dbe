"""Report progress, and print to the terminal what is safe to print."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from steelyard.harness.core.characters import visible

Progress = Callable[[str, float], None]
"""Called with the current stage and the completed fraction in [0, 1]."""


class Terminal(Console):
    """Console for text of strangers: no characters that do not show, and no markup in strings."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            # Rich's own sequences are its controls and styles, and never part of a text.
            yield segment if segment.control else segment._replace(text=visible(segment.text))


console = Terminal()
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|")
"""Cell of a table that is not broken into lines."""
LINE_SECONDS = 60.0
"""Least time between two lines of progress off a terminal."""


def echo(text: str, error: bool = False) -> None:
    """Print lines as they are, neither broken nor styled; ``error`` to standard error."""
    click.echo(visible(text), err=error)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """Return a table to print; cells are texts or numbers, and are never cut. Only texts break."""
    cells = [[cell if isinstance(cell, Text) else str(cell) for cell in row] for row in rows]
    result = Table(title=title or None)
    for header, column in zip_longest(headers, zip(*cells, strict=True), fillvalue=()):
        is_number = bool(column) and all(NUMBER.fullmatch(str(cell)) for cell in column)
        result.add_column(str(header), overflow="fold", no_wrap=is_number)
    for row in cells:
        result.add_row(*row)
    return result


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a ``table``."""
    console.print(table(headers, rows, title))


def no_progress(*message: object) -> None:
    """Do nothing."""


def subtask(progress: Progress, name: str, index: int, count: int) -> Progress:
    """Return the progress callback of one of ``count`` equally long tasks; ``index`` from 0."""
    return lambda stage, fraction: progress(f"{name}: {stage}", (index + fraction) / count)


class Bar(ProgressBar):
    """Bar with the completed fraction and the time left; off a terminal, a line a minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            get_time=clock,
        )
        self._printed = clock()

    def update(self, task_id: TaskID, *args: Any, **kwargs: Any) -> None:
        super().update(task_id, *args, **kwargs)
        self._print_line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._print_line(task_id)

    def _print_line(self, task_id: TaskID) -> None:
        now = self.get_time()
        if console.is_terminal or now - self._printed < LINE_SECONDS:
            return
        self._printed = now
        task = next(task for task in self.tasks if task.id == task_id)
        elapsed = task.elapsed or 0.0
        line = f"{elapsed / 60:.0f} min: {task.description}, {task.completed:.3g}"
        if task.total:
            done = task.completed / task.total
            left = f", about {elapsed * (1 - done) / done / 60:.0f} min left" if done else ""
            line = f"{line} of {task.total:.3g} ({100 * done:.0f} %){left}"
        console.print(line, soft_wrap=True)


def progress_bar(clock: Callable[[], float] = time.monotonic) -> Bar:
    """Return a bar on the terminal; elsewhere it prints a line at most once a minute."""
    return Bar(clock)


@contextmanager
def show_progress(name: str = "starting") -> Iterator[Progress]:
    """Show a bar while the block runs; yield the callback that moves it."""
    with progress_bar() as bar:
        line = bar.add_task(name, total=1.0)
        yield lambda stage, fraction: bar.update(line, description=stage, completed=fraction)
