"""Commands about answers made elsewhere: items, score."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import click

from steelyard import tasks
from steelyard.harness.cli import list as listing
from steelyard.harness.cli.evaluate import COST, parse_cost
from steelyard.harness.cli.options import pass_options
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import file_hash
from steelyard.harness.core.options import Help
from steelyard.harness.core.progress import console, show_progress
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.records import record
from steelyard.harness.runs import options as shared
from steelyard.harness.runs import parallel
from steelyard.harness.runs.job import Job, untrained
from steelyard.harness.runs.provenance import check_revision
from steelyard.harness.runs.run import run
from steelyard.tasks._lmms import stock


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOptions(shared.DataOptions):
    """Options of ``steelyard items``."""

    out: Annotated[Path, shared.OUT] = Path("items")
    include_path: Annotated[tuple[Path, ...], shared.INCLUDE_PATH] = ()
    limit: Annotated[int | None, shared.LIMIT] = None
    split: Annotated[str, Help("Split to ask")] = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions(ItemOptions):
    """Options of ``steelyard score``."""

    out: Annotated[Path, Help("Folder of runs", is_output=True)] = shared.RUNS
    label: Annotated[str | None, Help("Name of the model on boards", "the file's name")] = None
    cost: Annotated[str, COST] = "unknown"


@click.command()
@click.argument("variant")
@pass_options(ItemOptions)
def items(variant: str, options: ItemOptions) -> None:
    """Write the questions and images of a task for a model elsewhere.

    VARIANT is TASK or TASK@CORRUPTION[:SEVERITY]. The folder gets items.jsonl, with the id, hash,
    prompt, images and choices of every item, and its images as the model has to see them.

    \b
    Example:
      steelyard items pope@image-noise:3 --out pope-noise
    """
    from steelyard.harness.evaluation.recorded import ITEMS, export_items

    parsed, corpus = _load(variant, options)
    if options.out.exists() and any(options.out.iterdir()):
        raise UserError(f"--out {options.out} is not empty: give another folder.")
    count = export_items(parsed, corpus, options.split, options.limit, options.out)
    console.print(
        f"{count} items in {options.out / ITEMS}. Next: a file with a row of id, hash and "
        f"answer for each, then: steelyard score FILE {shlex.join([variant, *_words(options)])}",
        soft_wrap=True,
    )


@click.command()
@click.argument("file", type=Path)
@click.argument("variant")
@pass_options(ScoreOptions)
def score(file: Path, variant: str, options: ScoreOptions) -> None:
    """Score answers that were made elsewhere.

    FILE has a row per item of 'steelyard items VARIANT', with its id, its hash and the answer as
    text: JSON lines or a list, CSV with a head, or Parquet. Further variants with one label are one
    record, which goes on boards like any other.

    \b
    Example:
      steelyard score answers.jsonl pope@image-noise:3 --label "some API" --cost unknown
    """
    from steelyard.harness.evaluation.recorded import RecordedAnswers

    parsed, corpus = _load(variant, options)
    if not file.is_file():
        raise UserError(f"No file of answers at {file}.")
    label = options.label or file.stem
    answers = {str(parsed): {"file": file.name, "hash": file_hash(file)}}
    spec = untrained(label, options.limit)
    folder = options.out / spec.id
    if (folder / record.RECORD).is_file():
        old = record.read(folder)
        check_revision(corpus, old)
        before: Mapping[str, Any] = old.provenance.get("elsewhere", {}).get("answers", {})
        if before.get(str(parsed), answers[str(parsed)]) != answers[str(parsed)]:
            raise UserError(
                f"{folder} has scores of other answers to {parsed}: give another --label or --out."
            )
        answers = {**before, **answers}
    model = RecordedAnswers.read(file, parsed, corpus, options.split, options.limit)
    job = Job(
        spec,
        label,
        (str(parsed),),
        options.split,
        options.limit,
        elsewhere={"flops": parse_cost(options.cost), "answers": answers},
        model=cast(Backbone, model),
    )
    nothing = Corpus(tasks.NOTHING, Path(), (), False, {options.split: ()}, "")
    with show_progress() as progress:
        run(job, {corpus.name: corpus, tasks.NOTHING: nothing}, options.out, "cpu", progress)
    listing.print_record(folder)


def _words(options: ItemOptions) -> list[str]:
    """Return the options that ``score`` needs to ask the same items."""
    words = [f"--data-root={root}" for root in options.data_root]
    words += [f"--data-set={pair}" for pair in options.data_set]
    words += [f"--include-path={path}" for path in options.include_path]
    words += [] if options.limit is None else [f"--limit={options.limit}"]
    return words + ([] if options.split == "test" else [f"--split={options.split}"])


def _load(name: str, options: ItemOptions) -> tuple[tasks.Variant, Corpus]:
    """Return the variant and its data; UserError for an attack, which needs the model."""
    stock.include(options.include_path)
    variant = tasks.parse_variant(name)
    if "adversarial" in variant.name:
        raise UserError(f"{name} is computed by the model that is scored: score it with evaluate.")
    parallel.quiet_heavy_libraries()
    (corpus,) = parallel.load_corpora([variant.task], options).values()
    return variant, corpus
