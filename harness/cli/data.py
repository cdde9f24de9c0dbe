"""Commands about data sets: check, data."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click
from rich.table import Table
from rich.text import Text

from steelyard import tasks
from steelyard.harness.cli.options import output_folder, pass_options
from steelyard.harness.core.files import user_path
from steelyard.harness.core.options import Help
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.data import card, tables
from steelyard.harness.runs.options import OUT, DataOptions, parse_loader_options, parse_roots


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions(DataOptions):
    """Options of ``steelyard check``."""

    out: Annotated[Path | None, Help(OUT.text, "in the user's cache", is_output=True)] = None


@click.command()
@click.argument("task")
@pass_options(CheckOptions)
def check(task: str, options: CheckOptions) -> None:
    """Check a dataset folder before training on it.

    Checks layout, unreadable images, duplicates, train/test leakage and a text-only baseline, and
    writes a data card (card.json, card.md). The last lines name all that was wrong, left out,
    leaked or not found. Exit code 1 if a run would refuse the data.

    \b
    Examples:
      steelyard check food101 --data-root ~/food101
      steelyard check hateful_memes --data-root ~/memes --data-set test=unseen --out card
    """
    from rich.markdown import Markdown

    from steelyard.harness.data.image_scan import report_images
    from steelyard.harness.datacheck import card_page, report

    tasks.module(task)  # an unknown task is an error before a missing folder
    loader = parse_loader_options(options.data_set, [task]).get(task, {})
    root = tasks.find_root(task, parse_roots(options.data_root, [task]).get(task))
    with progress_bar() as bar:
        line = bar.add_task("", total=None)

        def on_stage(stage: str) -> None:
            bar.update(line, description=stage, total=None)

        def on_images(done: int, total: int) -> None:
            bar.update(line, description="reading images", completed=done, total=total)

        with report_images(on_images):
            content, folder = report.check(task, root, loader, options.max_bad, on_stage)
    console.print(Markdown(card_page.markdown(content, card_page.TERMINAL_ROWS)))
    # Not wrapped by rich: paths and commands in it are copied.
    for text in card_page.closing(content):
        console.print(text, soft_wrap=True)
    # The check has already written the card into the cache.
    if options.out is not None:
        card.write(options.out, content, card_page.markdown(content))
    page = (options.out or folder) / card.MARKDOWN
    console.print(f"Data card {content['card'] or 'none'} of {root}: {page}", soft_wrap=True)
    if content["problems"]:
        sys.exit(1)


@click.command()
@click.argument("task", required=False)
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    help="Folder of tables (parquet, arrow), archive, or data set of the hub.",
)
@click.option(
    "--to",
    type=user_path,
    metavar="PATH",
    callback=output_folder,
    help="New folder for the official layout.",
)
def data(task: str | None, source: str | None, to: Path | None) -> None:
    """Show how to get a data set, or convert a copy of it.

    Without TASK all data sets are listed. Nothing is downloaded except the hub id given as --from;
    steelyard redistributes no data.

    \b
    Examples:
      steelyard data
      steelyard data pope
      steelyard data pope --from lmms-lab-encoder/POPE --to ~/pope
      steelyard data food101 --from ~/Downloads/archive.zip --to ~/food101
    """
    if (source is None) != (to is None) or (source and not task):
        raise click.UsageError("to convert a copy: steelyard data TASK --from SOURCE --to DIR")
    if task and source and to:
        convert(task, source, to)
    elif task:
        print_steps(task)
    else:
        print_sources()


def print_sources() -> None:
    """Print where to get each data set, its published files and its terms."""
    table = Table()
    table.add_column("task", no_wrap=True)
    for header in ("source", "copy on the hub", "as published", "terms"):
        table.add_column(header, overflow="fold")
    for name in tasks.names():
        about = tasks.info(name)
        checksums = sum("sha256" in file for file in about.official.values())
        sizes = f"sizes of {len(about.official)} files" if about.official else "not known"
        published = sizes + (f", {checksums} checksums" if checksums else "")
        table.add_row(name, about.source, about.hub, published, about.licence)
    console.print(table)
    console.print("Steps for one data set: steelyard data TASK")


def print_steps(task: str) -> None:
    """Print how to get one data set legally, its layout and its published files."""
    from steelyard.harness.datacheck.annotations import count_text

    about = tasks.info(task)
    console.print(Text.assemble((task, "bold"), f": {about.citation}"))
    for number, step in enumerate(_steps(about), start=1):
        console.print(f"{number}. {step}", soft_wrap=True)
    console.print("\nLayout:")
    for line in about.layout.splitlines():
        console.print(f"  {line}")
    if about.rows:
        console.print("\nA row of your own data:")
    for line in about.rows.splitlines():
        console.print(f"  {line}", soft_wrap=True)
    if about.official:
        console.print("\nAs published (sha256, file, rows):")
    for file, facts in about.official.items():
        counts = [
            f"{column} {count_text(values)}"
            for column, values in facts.items()
            if column not in ("rows", "sha256")
        ]
        rows = count_text(facts["rows"])
        line = "; ".join([f"{facts.get('sha256', '')}  {file}  {rows}", *counts])
        console.print(f"  {line.strip()}", soft_wrap=True)


def _steps(about: tasks.TaskInfo) -> list[str]:
    from steelyard.harness.datacheck.convert import is_convertible

    name = about.name
    if about.source == "generated":
        own = f"; your own: steelyard check {name} --data-root DIR" if about.rows else ""
        return [
            f"Nothing to get: 'steelyard run' writes it when needed. {about.licence}.",
            f"Check it: steelyard check {name}{own}",
        ]
    steps = [f"Terms: {about.licence}. Download the files yourself; steelyard redistributes none."]
    steps.append(f"Official files: {about.source}. Arrange them as in the layout below.")
    if about.hub and is_convertible(name):
        steps.append(
            f"Or convert the hub's copy: steelyard data {name} --from {about.hub} --to DIR"
            f" (or a downloaded folder of it), or give its id: --data-root {name}={about.hub}"
        )
    elif is_convertible(name):
        steps.append(f"Or convert a copy in tables: steelyard data {name} --from FOLDER --to DIR")
    steps.append(f"Or unpack an archive of them: steelyard data {name} --from FILE.zip --to DIR")
    steps.append(f"Check the folder: steelyard check {name} --data-root DIR")
    return steps


def convert(task: str, source: str, to: Path) -> None:
    """Convert a copy into the official layout and print the files."""
    from steelyard.harness.core import folders
    from steelyard.harness.datacheck import annotations, layout
    from steelyard.harness.datacheck import convert as conversion

    copy = conversion.find(task, source)
    with progress_bar() as bar:
        line = bar.add_task(f"converting {copy.name}", total=tables.count(copy.path))
        conversion.convert(task, copy, to, lambda rows: bar.update(line, completed=rows))
    files = folders.walk(to)
    images = sum(map(layout.is_image, files))
    for file in annotations.examine(to, files, tasks.info(task).official):
        state = f", {file.official}" if file.official else ""
        rows = annotations.count_text(file.rows)
        console.print(f"{file.path}: {rows} rows{state}", soft_wrap=True)
    console.print(f"{len(files):,} files, {images:,} of them images, in {to}", soft_wrap=True)
    console.print(
        f"Next: steelyard check {task} --data-root {shlex.quote(str(to))}", soft_wrap=True
    )
