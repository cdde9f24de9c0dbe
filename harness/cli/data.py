"""What ``steelyard check`` and ``steelyard data`` do, free of click."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from steelyard import tasks
from steelyard.harness.core.options import parse_pairs
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.data import card, image_scan
from steelyard.harness.datacheck import annotations, card_page, layout
from steelyard.harness.datacheck import convert as copies
from steelyard.harness.datacheck.report import check
from steelyard.harness.runs.corpora import parse_roots


def check_data(
    task: str, data_root: Sequence[str], data_set: Sequence[str], max_bad: float, out: Path | None
) -> bool:
    """Print a task's data card, write it, and say whether a run would accept the data."""
    tasks.module(task)  # a task that does not exist is said before its folder is looked for
    options = {key: str(value) for key, value in parse_pairs(data_set).items()}
    root = tasks.find_root(task, parse_roots(data_root, [task]).get(task))
    with progress_bar() as bar:
        line = bar.add_task("", total=None)

        def tell(doing: str) -> None:
            bar.update(line, description=doing, total=None)

        def seen(done: int, total: int) -> None:
            bar.update(line, description="reading images", completed=done, total=total)

        with image_scan.report_images(seen):
            made, kept = check(task, root, options, max_bad, tell)
    console.print(Markdown(card_page.markdown(made, card_page.TERMINAL_ROWS)))
    console.print(escape(card_page.verdict(made)), highlight=False, soft_wrap=True)
    if out is not None:
        card.write(out, made, card_page.markdown(made))
    page = (out or kept) / card.MARKDOWN
    console.print(f"Data card {made['card'] or 'none'} of {root}: {page}", soft_wrap=True)
    return not made["problems"]


def print_sources() -> None:
    """A table of all data sets: where to get each, its size as published, its terms."""
    table = Table()
    table.add_column("task", no_wrap=True)
    for header in ("where from", "copy on the hub", "as published", "terms"):
        table.add_column(header, overflow="fold")
    for name in tasks.names():
        about = tasks.info(name)
        sums = sum("sha256" in known for known in about.official.values())
        sizes = f"sizes of {len(about.official)} files" if about.official else "not known"
        published = sizes + (f", {sums} checksums" if sums else "")
        table.add_row(*map(escape, (name, about.source, about.hub, published, about.licence)))
    console.print(table)
    console.print("Steps for one of them: steelyard data TASK")


def print_steps(task: str) -> None:
    """How to get one data set legally, the tree it has to have, and what is known of its files."""
    about = tasks.info(task)
    console.print(f"[bold]{task}[/]: {escape(about.citation)}", highlight=False)
    for number, step in enumerate(_steps(about), start=1):
        console.print(f"{number}. {escape(step)}", highlight=False, soft_wrap=True)
    console.print("\nThe tree that is read:")
    for line in about.layout.splitlines():
        console.print(f"  {line}", highlight=False, markup=False)
    if about.official:
        console.print("\nAs published (sha256, file, rows):")
    for file, known in about.official.items():
        counts = [
            f"{column} {annotations.count_text(values)}"
            for column, values in known.items()
            if column not in ("rows", "sha256")
        ]
        line = "; ".join([f"{known.get('sha256', '')}  {file}  {_rows(known)}", *counts])
        console.print(f"  {line.strip()}", highlight=False, markup=False, soft_wrap=True)


def _rows(known: Mapping[str, Any]) -> str:
    return annotations.count_text(known["rows"])


def _steps(about: tasks.TaskInfo) -> list[str]:
    name = about.name
    if about.source == "generated":
        return [
            f"Nothing to get: 'steelyard run' writes it when needed. {about.licence}.",
            f"Look at it: steelyard check {name}",
        ]
    steps = [f"Terms: {about.licence}. You fetch the files; steelyard passes nothing on."]
    steps.append(f"Official files: {about.source}. Lay them out as below.")
    if about.hub and copies.is_convertible(name):
        steps.append(
            f"Or convert the hub's copy: steelyard data {name} --from {about.hub} --to DIR"
            f" (or a downloaded folder of it), or name it: --data-root {name}={about.hub}"
        )
    elif copies.is_convertible(name):
        steps.append(f"Or convert a copy in tables: steelyard data {name} --from FOLDER --to DIR")
    steps.append(f"Or unpack an archive of them: steelyard data {name} --from FILE.zip --to DIR")
    steps.append(f"Check what you have: steelyard check {name} --data-root DIR")
    return steps


def convert(task: str, source: str, to: Path) -> None:
    """Make a copy into the official tree and say what was written."""
    found = copies.find(task, source)
    with progress_bar() as bar:
        line = bar.add_task(f"converting {found.name}", total=copies.count(found.path))
        copies.convert(task, found, to, lambda rows: bar.update(line, completed=rows))
    files = layout.walk(to)
    images = sum(map(layout.is_image, files))
    for row in annotations.examine(to, files, tasks.info(task).official):
        state = f", {row['official']}" if row["official"] else ""
        rows = annotations.count_text(row["rows"])
        console.print(f"{row['path']}: {rows} rows{state}", soft_wrap=True)
    console.print(f"{len(files):,} files, {images:,} of them images, in {to}", soft_wrap=True)
    console.print(f"Next: steelyard check {task} --data-root {to}", soft_wrap=True)
