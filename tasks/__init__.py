"""Tasks and their corrupted variants: one YAML and one module a task, no file a corruption.

    corpus = tasks.load("food101", tasks.find_root("food101"))
    for variant in tasks.variants("food101", ["image-noise:1-5", "text-blank"]):  # clean first
        task = build(variant, corpus, limit=100)    # an lmms-eval task

Importing this is fast: lmms-eval is imported when a task object is built.
"""

import functools
import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.errors import UserError, check_known, unknown
from steelyard.harness.core.examples import Corpus, Example, Inputs, Turn
from steelyard.harness.core.files import cache_folder
from steelyard.tasks._lmms import stock
from steelyard.tasks.corruptions.variants import Corruption, expand, parse
from steelyard.tasks.corruptions.variants import Variant as Variant  # re-exported

if TYPE_CHECKING:
    from PIL.Image import Image

    from steelyard.tasks._lmms.memory_task import MemoryTask
    from steelyard.tasks._lmms.stock_task import StockTask
    from steelyard.tasks.metrics import TaskDoc

PREFIX = "steelyard_"
"""Prefix of our task names in stock lmms-eval, which prefers its built-in tasks of equal name."""
NOTHING = "none"
"""Task name in the record of a model that was evaluated as it is, without training."""
DATA_VARIABLE = "STEELYARD_DATA"
WORLD_TRAIN, WORLD_TEST = 2800, 500
WORLD_SEED = 1
"""Not 0: the generator's looks were tuned on the test split of seed 0."""


class TaskModule(Protocol):
    """Functions of a task's module, beside those that its YAML names."""

    def load(self, root: Path, **options: Any) -> Corpus: ...

    def choices(self, classes: Sequence[str]) -> list[str]:
        """Return answer strings in class order; called only for tasks with classes."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Declarations of a task's YAML: metrics, answer format, data source and terms."""

    name: str
    version: int
    main: str
    """Metric that boards rank by."""
    metrics: Mapping[str, bool | None]
    """All metrics, with True if higher is better, False if lower is; None if it only describes."""
    columns: tuple[str, ...]
    """Columns of this task on a board of several tasks: ``metric`` or ``subset.metric``."""
    generative: bool
    """Answered in words; else by class probabilities."""
    max_tokens: int
    """Longest answer, in the model's tokens; 0 for class probabilities."""
    cluster: str
    """Name of what makes items dependent, such as their image; ``id`` if they are independent."""
    text: str
    """Name of the text beside the image; empty if there is none to corrupt."""
    licence: str
    citation: str
    multi_label: bool
    hub: str
    """Copy on the Hugging Face hub, ``organisation/name``; empty if there is none."""
    source: str
    """Where to get the official files, and which terms to accept."""
    layout: str
    """Official files that the loader reads, one path a line."""
    judge: str
    """``none``, or what a judging model would add; no score here needs one."""
    rows: str = ""
    """Form of a row of one's own data; empty where only official files are read."""
    subsets: bool = False
    """Every metric is also computed on each subset of the items."""
    total_only: tuple[str, ...] = ()
    """Metrics over all items only, never over a subset."""
    official: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Published files by name: their rows, counts of a column's values, sha256 if known."""
    hub_files: tuple[str, ...] = ()
    """Patterns of the hub copy's files to fetch; all tables if empty."""


def names() -> list[str]:
    """List tasks of this folder and of packages with an entry point ``steelyard.tasks``."""
    return sorted({*_shipped(), *_outside()})


@functools.cache  # called for every item
def _shipped() -> frozenset[str]:
    return frozenset(path.stem for path in Path(__file__).parent.glob("*.yaml"))


@functools.cache
def _outside() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="steelyard.tasks")}


def module(name: str) -> TaskModule:
    """Import a task's module; UserError if there is no such task."""
    # A task of another package may replace one of ours.
    outside = _outside().get(name)
    if outside is None and name not in _shipped():
        raise unknown("task", name, names())
    return cast(
        TaskModule, outside.load() if outside else importlib.import_module(f"{__name__}.{name}")
    )


def definition(name: str) -> Path:
    """Return the path of a task's YAML file, which is beside its module."""
    return Path(str(vars(module(name))["__file__"])).with_suffix(".yaml")


def is_stock(name: str) -> bool:
    """Return True for lmms-eval's own tasks and for those of a user's ``--include-path``."""
    return name.startswith(stock.PREFIX)


def find(name: str) -> list[str]:
    """List the tasks of a name: one of ours, else those that lmms-eval has under it."""
    return [name] if name in names() else stock.leaves(name, names())


def files(name: str) -> list[Path]:
    """List the files that define a task, whose hash is in records; none for ``NOTHING``."""
    if name == NOTHING:
        return []
    if is_stock(name):
        return stock.files(name)
    # Shared code is covered by the hash of all code in a record.
    yaml_file = definition(name)
    return [yaml_file, yaml_file.with_suffix(".py")]


def info(name: str) -> TaskInfo:
    content = stock.read_yaml(definition(name))
    metadata, generation = content["metadata"], content.get("generation_kwargs")
    # Keys under ``metadata`` have the names of the fields.
    declared: dict[str, Any] = {"columns": [metadata["main"]]}
    declared |= {key.name: metadata[key.name] for key in fields(TaskInfo) if key.name in metadata}
    # Lists of the YAML become tuples, as immutable as ``TaskInfo``.
    declared = {key: tuple(v) if isinstance(v, list) else v for key, v in declared.items()}
    return TaskInfo(
        name=name,
        metrics={row["metric"]: row["higher_is_better"] for row in content["metric_list"]},
        generative=generation is not None,
        max_tokens=(generation or {}).get("max_new_tokens", 0),
        **declared,
    )


def has_text(name: str) -> bool:
    return not is_stock(name) and bool(info(name).text)


def prompt(name: str, doc: Any) -> str:
    """Build a document's prompt, text and instruction, with the ``doc_to_text`` of the YAML."""
    return str(function(name, "doc_to_text")(doc))


def target(name: str, doc: Any) -> str:
    """Return a document's right answer, with the ``doc_to_target`` of the YAML."""
    return str(function(name, "doc_to_target")(doc))


@functools.cache
def function(name: str, key: str) -> Any:
    """Import the function that a task's YAML names under ``key``, such as ``process_results``."""
    return pkgutil.resolve_name(stock.read_yaml(definition(name))[key])


def find_root(name: str, root: Path | None = None) -> Path:
    """Return the folder of a task's data: ``root``, else ``$STEELYARD_DATA/name``, else generated.

    The generated world is written once to ``steelyard`` in the user's cache folder. A task of
    lmms-eval without a folder gets ``Path()``: its data is read from where its YAML says.
    """
    if root is not None:
        return root
    parent = os.environ.get(DATA_VARIABLE)
    if is_stock(name):
        # ``stock/mmstar`` is a folder ``stock`` with one folder a task.
        folder = Path(parent or "", name)
        return folder if parent and folder.is_dir() else Path()
    return Path(parent) / name if parent else world_folder(name)


def world_folder(name: str, **parameters: float) -> Path:
    """Return the folder of a task's generated data, written to the user's cache if absent.

    ``parameters`` change its probabilities, see ``tasks.world.build``.
    """
    from steelyard.tasks.world.build import SETS, WorldSpec, ensure

    if name not in SETS:
        raise UserError(f"{name} has no generated data: give --data-root {name}=DIR.")
    # Fixed sizes and seed: every machine generates the data that published records are about.
    spec = WorldSpec(name, WORLD_TRAIN, WORLD_TEST, WORLD_SEED, parameters=parameters)
    return ensure(spec, cache_folder())


def load(name: str, root: Path, **options: Any) -> Corpus:
    """Read a task's data set with the options of its loader; lmms-eval's tasks have no options."""
    if is_stock(name):
        stock.check(name)
        # Here, for importing lmms-eval is slow.
        import_lmms_eval()
        from steelyard.tasks._lmms import stock_task

        return stock_task.load(name, root)
    check_options(name, options)
    return module(name).load(root, **options)


def check_options(name: str, options: Iterable[str]) -> None:
    parameters = inspect.signature(module(name).load).parameters
    allowed = parameters.keys() - {"root", "max_bad"}
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for option in options:
        # ``max_bad`` is valid, but not offered in the message.
        if option not in (*allowed, "max_bad") and not open_ended:
            raise unknown(f"data option of {name}", option, allowed)


def document(corpus: Corpus, split: str, example: Example, text: str | None) -> "TaskDoc":
    """Build lmms-eval's document of an item, with ``text`` in place of its own."""
    image = str(example.image) if example.image else None
    if corpus.classes:
        return {
            "id": example.id,
            "image": image,
            "text": text,
            "labels": list(example.labels),
            "classes": list(corpus.classes),
            "split": split,
        }
    return {
        "id": example.id,
        "image": image,
        "text": text,
        "answers": list(example.answers),
        "choices": list(example.choices),
        "subset": example.subset,
        "cluster": example.cluster,
        "facts": example.facts,
        "split": split,
    }


def training_turn(task: str, corpus: Corpus, example: Example, image: "Image | None") -> Turn:
    """Build the training conversation of an item: the prompt of evaluation and the right answer.

    A multi-label answer lists several classes, so it has no closed set of choices.
    """
    doc = document(corpus, "train", example, example.text)
    choices = example.choices
    if corpus.classes:
        choices = () if corpus.multi_label else tuple(module(task).choices(corpus.classes))
    inputs = Inputs(image, example.text, prompt(task, doc))
    return Turn(inputs, target(task, doc), choices)


def parse_variant(text: str) -> Variant:
    """Read ``task`` or ``task@corruption``, in the syntax of ``corruptions.variants``."""
    task, at, rest = text.partition("@")
    if task not in names() and not is_stock(task):
        raise unknown("task", task, names())
    return _variant(task, rest, parse(rest)) if at else Variant(task)


def variants(task: str, corruptions: Iterable[str]) -> list[Variant]:
    """List the clean task, then its variants under ``image-noise:1-5``, ``text-blank`` ..."""
    corrupted = [_variant(task, text, parts) for text in corruptions for parts in expand(text)]
    # Two ranges may name the same variant.
    return list(dict.fromkeys([parse_variant(task), *corrupted]))


def _variant(task: str, text: str, corruptions: tuple[Corruption, ...]) -> Variant:
    variant, fault = Variant(task, corruptions), ""
    if any(corruption.modality != "image" for corruption in corruptions) and not has_text(task):
        reason = " (lmms-eval does not declare which part of a prompt is text)"
        fault = f"{task} has no text beside the image to corrupt{reason if is_stock(task) else ''}"
    elif variant.attack is not None and is_stock(task):
        fault = "an attack needs right answers, and lmms-eval's tasks declare none"
    if fault:
        raise UserError(f"'{task}@{text}': {fault}.")
    return variant


def corrupts_text(text: str) -> bool:
    """Return True if a corruption, as ``variants`` reads it, changes the text."""
    return any(part.modality != "image" for parts in expand(text) for part in parts)


def doc_to_visual(doc: "TaskDoc") -> "list[Image]":
    """Return the document's image in a list, as lmms-eval wants it; empty if it has none."""
    from steelyard.harness.data.images import open_image

    return [open_image(Path(doc["image"]))] if doc["image"] else []


def build(
    variant: Variant, corpus: Corpus, split: str = "test", limit: int | None = None
) -> "MemoryTask | StockTask":
    """Build the variant as an lmms-eval task over a split of ``corpus``.

    ``limit`` takes that many items, with the fractions of answers and subsets that all have. A
    smaller limit gives a subset of a larger one.
    """
    check_known(f"split of {corpus.name}", split, corpus.splits)
    import_lmms_eval()
    from steelyard.tasks._lmms import memory_task, stock_task

    if is_stock(variant.task):
        return stock_task.build(variant, corpus, split, limit)
    return memory_task.build(variant, corpus, split, limit)
