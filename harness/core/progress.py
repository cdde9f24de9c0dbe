"""Report progress, and show it on the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Column, Table

Progress = Callable[[str, float], None]
"""Called with the current stage and the completed fraction in [0, 1]."""

console = Console()


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table; cells are texts with rich's markup, or numbers, and are never cut."""
    table = Table(*(Column(header, overflow="fold") for header in headers), title=title or None)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def no_progress(*message: object) -> None:
    """Do nothing."""


def subtask(progress: Progress, name: str, index: int, count: int) -> Progress:
    """Return the progress callback of one of ``count`` equally long tasks; ``index`` from 0."""
    return lambda stage, fraction: progress(f"{name}: {stage}", (index + fraction) / count)


def progress_bar() -> ProgressBar:
    """Return a bar with the completed fraction and the time left, hidden if not on a terminal."""
    return ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def show_progress(name: str = "starting") -> Iterator[Progress]:
    """Show a bar while the block runs; yield the callback that moves it."""
    with progress_bar() as bar:
        line = bar.add_task(name, total=1.0)
        # Brackets in a stage would be read as markup.
        yield lambda stage, fraction: bar.update(
            line, description=escape(stage), completed=fraction
        )
