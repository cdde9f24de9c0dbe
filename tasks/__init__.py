"""Tasks and their variants: one YAML and one module a task, no file a corruption.

Importing this stays light; lmms-eval is imported when a task object is built.
"""

import functools
import importlib
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import yaml

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus, Example, Inputs, Turn
from steelyard.harness.core.files import cache_folder
from steelyard.tasks._lmms import stock
from steelyard.tasks.corruptions import variants as grammar
from steelyard.tasks.corruptions.variants import Variant as Variant

if TYPE_CHECKING:
    from PIL.Image import Image

    from steelyard.tasks._lmms.memory_task import MemoryTask
    from steelyard.tasks._lmms.stock_task import StockTask
    from steelyard.tasks.metrics import Doc, Question

PREFIX = "steelyard_"
"""Begins our task names in stock lmms-eval, where an outside task cannot shadow a built-in one."""
NOTHING = "none"
"""What a model that is asked as it is was trained on, in place of a task's name."""
DATA_VARIABLE = "STEELYARD_DATA"
WORLD_TRAIN, WORLD_TEST = 2800, 500
WORLD_SEED = 1
"""Not 0: the generator's looks were tuned on the test split of seed 0."""


class TaskModule(Protocol):
    """What a task's module offers beside the functions its YAML names."""

    def load(self, root: Path, **options: Any) -> Corpus:
        """Read the data set."""

    def choices(self, classes: Sequence[str]) -> list[str]:
        """Answer strings in class order; not asked of a task without classes."""

    def doc_to_text(self, doc: "Any") -> str:
        """Prompt of a row: its evidence and the instruction."""

    def doc_to_target(self, doc: "Any") -> str:
        """Right answer of a row, in the words of the choices."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a task's YAML declares about it."""

    name: str
    version: int
    main: str
    """The metric that ranks."""
    metrics: Mapping[str, bool | None]
    """Every metric, and whether higher is better; None for one that only describes."""
    shown: tuple[str, ...]
    """What a board over several tasks gives a column: ``metric`` or ``subset.metric``."""
    subsets: bool
    """Whether every metric is also taken over each part of the task's items."""
    generative: bool
    """Whether it is answered in words; else by class probabilities."""
    max_tokens: int
    """Longest answer, in the model's tokens; 0 where probabilities are asked for."""
    cluster: str
    """What makes items dependent; ``id`` where they are independent."""
    text: str
    """What the text beside the image is, in words; empty where there is none to corrupt."""
    licence: str
    citation: str
    multi_label: bool
    hub: str
    """Data set of the hub that holds a copy, ``organisation/name``; empty where there is none."""
    source: str
    """Where the official files come from and what has to be agreed to."""
    layout: str
    """The official tree that the loader reads, one path a line."""
    judge: str
    """``none``, or what a judging model would add; no score here needs one."""
    whole: tuple[str, ...] = ()
    """Metrics taken over all items alone, not over parts of them."""
    official: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Published files by name: their rows, counts of a column's values, sha256 where known."""
    hub_files: tuple[str, ...] = ()
    """Patterns of the files of the hub's copy that are needed; all tables where there are none."""


def names() -> list[str]:
    """Tasks of this folder and those other packages offer by entry point ``steelyard.tasks``."""
    return sorted({*_own(), *_outside()})


def module(name: str) -> TaskModule:
    """A task's module."""
    outside = _outside().get(name)
    if outside is None and name not in _own():
        raise unknown("task", name, names())
    found = outside.load() if outside else importlib.import_module(f"{__name__}.{name}")
    return cast(TaskModule, found)


def definition(name: str) -> Path:
    """A task's YAML file: it has the name of the module and lies beside it."""
    return Path(str(vars(module(name))["__file__"])).with_suffix(".yaml")


def is_stock(name: str) -> bool:
    """Whether a task is lmms-eval's own, or one of a user's folder of such."""
    return name.startswith(stock.PREFIX)


def find(name: str) -> list[str]:
    """The tasks a name stands for: one of ours, else what lmms-eval has under it.

    Raises:
        UserError: neither has it.
    """
    return [name] if name in names() else stock.leaves(name, names())


def files(name: str) -> list[Path]:
    """The files that define a task: its YAML and its module; none define ``NOTHING``."""
    if name == NOTHING:
        return []
    if is_stock(name):
        return stock.files(name)
    yaml_file = definition(name)
    return [yaml_file, yaml_file.with_suffix(".py")]


def info(name: str) -> TaskInfo:
    """What the task declares."""
    declared = yaml.load(definition(name).read_text(encoding="utf-8"), _NamesOnly)
    about = declared["metadata"]
    return TaskInfo(
        name=name,
        version=about["version"],
        main=about["main"],
        metrics={row["metric"]: row["higher_is_better"] for row in declared["metric_list"]},
        shown=tuple(about.get("shown", [about["main"]])),
        subsets=about.get("subsets", False),
        generative="generation_kwargs" in declared,
        max_tokens=declared.get("generation_kwargs", {}).get("max_new_tokens", 0),
        cluster=about["cluster"],
        text=about["text"],
        licence=about["licence"],
        citation=about["citation"],
        multi_label=about["multi_label"],
        hub=about["hub"],
        source=about["source"],
        layout=about["layout"],
        judge=about["judge"],
        whole=tuple(about.get("whole", ())),
        official=about.get("official", {}),
        hub_files=tuple(about.get("hub_files", ())),
    )


def has_text(name: str) -> bool:
    """Whether a task has text beside the image to damage; of lmms-eval's that is not known."""
    return not is_stock(name) and bool(info(name).text)


def find_root(name: str, root: Path | None = None) -> Path:
    """Folder of a task's data: the one given, else that under ``STEELYARD_DATA``, else generated.

    The generated world is written once to ``steelyard`` in the user's cache folder. For a task of
    lmms-eval without a folder it is ``Path()``: its data is looked for where its YAML says.
    """
    if root is not None:
        return root
    shelf = os.environ.get(DATA_VARIABLE)
    if is_stock(name):
        own = Path(shelf or "", name)
        return own if shelf and own.is_dir() else Path()
    if shelf:
        return Path(shelf) / name
    return world_folder(name)


def world_folder(name: str, **parameters: float) -> Path:
    """Folder of a task's generated data, written to the user's cache if absent.

    ``parameters`` change its probabilities, see ``tasks.world.build``.
    """
    from steelyard.tasks.world.build import WorldSpec, ensure

    spec = WorldSpec(name, WORLD_TRAIN, WORLD_TEST, WORLD_SEED, parameters=parameters)
    return ensure(spec, cache_folder())


def load(name: str, root: Path, **options: Any) -> Corpus:
    """Read a task's data set with the options of its loader; one of lmms-eval's has none."""
    if is_stock(name):
        stock.check(name)
        from steelyard.harness.core.compat import import_lmms_eval

        import_lmms_eval()
        from steelyard.tasks._lmms import stock_task

        return stock_task.load(name, root)
    check_options(name, options)
    return module(name).load(root, **options)


def check_options(name: str, options: Iterable[str]) -> None:
    """UserError for an option that a task's loader does not have."""
    parameters = inspect.signature(module(name).load).parameters
    known = parameters.keys() - {"root", "max_bad"}
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for option in options:
        if option not in (*known, "max_bad") and not open_ended:
            raise unknown(f"data option of {name}", option, known)


def row(corpus: Corpus, split: str, example: Example, text: str | None) -> "Doc | Question":
    """The row of a task that an item makes, with ``text`` for its evidence."""
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


def turn(task: str, corpus: Corpus, example: Example, image: "Image | None") -> Turn:
    """The training conversation of an example: the prompt of evaluation and the right answer.

    A multi-label answer lists its classes after one another, so it has no closed set of choices.
    """
    asked = module(task)
    doc = row(corpus, "train", example, example.text)
    if not corpus.classes:
        choices = example.choices
    else:
        choices = () if corpus.multi_label else tuple(asked.choices(corpus.classes))
    inputs = Inputs(image, example.text, asked.doc_to_text(doc))
    return Turn(inputs, asked.doc_to_target(doc), choices)


def parse_variant(text: str) -> Variant:
    """Read ``task`` or ``task@damage``, the damage written as ``grammar`` says.

    Without a severity, a corruption that has severities takes the middle one.
    """
    task, at, rest = text.partition("@")
    if task not in names() and not is_stock(task):
        raise unknown("task", task, names())
    return _corrupted(task, rest, grammar.parse(rest)) if at else Variant(task)


def variants(task: str, corruptions: Iterable[str]) -> list[Variant]:
    """The clean task, then the corruptions asked for, as ``image-noise:1-5`` or ``text-blank``."""
    corrupted = [
        _corrupted(task, text, choice) for text in corruptions for choice in grammar.expand(text)
    ]
    return list(dict.fromkeys([parse_variant(task), *corrupted]))


def touches_text(corruption: str) -> bool:
    """Whether a corruption, as ``variants`` reads it, changes evidence."""
    corruptions = (corruption for choice in grammar.expand(corruption) for corruption in choice)
    return any(corruption.modality != "image" for corruption in corruptions)


def build(
    variant: Variant, corpus: Corpus, split: str = "test", limit: int | None = None
) -> "MemoryTask | StockTask":
    """The variant as an lmms-eval task over a split of ``corpus``.

    ``limit`` takes that many items, chosen by a hash of their ids and not from the front: files
    are often sorted by class. A smaller limit gives a subset of a larger one.

    Raises:
        UserError: no such split, or ``limit`` is not positive.
    """
    from steelyard.harness.core.compat import import_lmms_eval

    import_lmms_eval()
    from steelyard.tasks._lmms import memory_task, stock_task

    if is_stock(variant.task):
        return stock_task.build(variant, corpus, split, limit)
    return memory_task.build(variant, corpus, split, limit)


def doc_to_visual(doc: "Doc | Question") -> "list[Image]":
    """The row's image in a list, as lmms-eval passes images; empty where there is none."""
    from steelyard.tasks._shared.images import open_image

    return [open_image(Path(doc["image"]))] if doc["image"] else []


class _NamesOnly(yaml.SafeLoader):
    """Reads ``!function a.b.c`` as the string ``a.b.c``, importing nothing."""


_NamesOnly.add_constructor("!function", lambda loader, node: str(node.value))


@functools.cache
def _own() -> frozenset[str]:
    """Asked for each row, so the folder is read once."""
    return frozenset(path.stem for path in Path(__file__).parent.glob("*.yaml"))


@functools.cache
def _outside() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="steelyard.tasks")}


def _corrupted(task: str, text: str, corruptions: tuple[grammar.Corruption, ...]) -> Variant:
    """A task's variant; evidence that the task does not have is not damaged."""
    if any(corruption.modality != "image" for corruption in corruptions) and not has_text(task):
        why = " (lmms-eval does not say what of its prompts is evidence)" if is_stock(task) else ""
        raise UserError(f"'{task}@{text}': {task} has no text beside the image to corrupt{why}.")
    made = Variant(task, corruptions)
    if made.attack is not None and is_stock(task):
        raise UserError(
            f"'{task}@{text}': an attack needs right answers, and lmms-eval tells none."
        )
    return made
