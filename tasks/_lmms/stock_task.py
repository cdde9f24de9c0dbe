"""A task of lmms-eval as its YAML has it, with one variant's damage done to its images."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import tenacity
from huggingface_hub import get_token
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.utils import load_yaml_config
from PIL import Image

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.tasks._lmms import stock
from steelyard.tasks._shared import images
from steelyard.tasks.corruptions import apply, missing
from steelyard.tasks.corruptions.variants import Variant

SPLIT = "test"
"""What the split that a task is scored on is called here, whatever its YAML calls it."""
ID_COLUMNS = ("uid", "id", "question_id", "questionId", "qid", "index", "idx")
"""Where a document's name is looked for; the first that names each one differently is taken."""
SPLIT_KEYS = ("test_split", "validation_split")
PLAIN_SPLITS = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test"}
"""How the ``datasets`` library calls the split of a file named so."""
MARKER = "<image>"
"""Where a prompt says its image goes. Here the image is first, as with lmms-eval's own models."""
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp")
FIRST_LOOK = 20
"""Documents that are looked at for what they show: of a task without a column of images, where
there must be one among the first, else of those with the most images in their columns."""

See = Callable[[int], images.Images]
Documents = Mapping[str, Any]
"""Data sets of the ``datasets`` library by split."""


class StockTask(ConfigurableTask):  # type: ignore[misc]  # lmms-eval is untyped
    """One of lmms-eval's tasks, asked and scored as it says, in memory once read.

    Where its code or its data fail, a UserError says so; lmms-eval would try five times and hide
    the cause.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        documents: tuple[Documents, Documents] | None = None,
        see: See | None = None,
        items: Sequence[Example] = (),
    ) -> None:
        self.documents, self.see, self.items = documents, see or self.pictures, items
        self.dataset: Documents = {}
        super().__init__(config=copy.deepcopy(dict(config)))

    @property
    def split(self) -> str:
        """The split that is scored, by the task's own name."""
        return str(self.config.test_split or self.config.validation_split)

    @property
    def name(self) -> str:
        """``stock/mmstar`` or ``stock/mmstar@image-blank``."""
        return str(self.config.task)

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Read the data once, or take what was read: whole, and without images."""
        if self.documents is None:
            ConfigurableTask.download.__wrapped__(self, dataset_kwargs)
            if self.split not in self.dataset:
                raise UserError(
                    f"{self.name}: its data has the splits {', '.join(self.dataset)} and not "
                    f"'{self.split}', which the task is scored on."
                )
            self.documents = self.dataset, self._bare()
        self.dataset, self.dataset_no_image = self.documents

    def _bare(self) -> Documents:
        if self.config.process_results_use_image:
            return dict(self.dataset)
        whole = self.dataset[self.split]
        return {self.split: whole.remove_columns(pictured(whole))}

    def pictures(self, place: int) -> images.Images:
        """The images of a document.

        Raises:
            UserError: it has something else to look at or listen to.
        """
        with blamed(f"{self.name}: the image of document {place} cannot be made"):
            found = self.doc_to_visual(self.dataset[self.split][place]) or []
        return [_as_image(self.name, place, each) for each in found]

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> Instance:
        """One request for a greedy answer, with the document's damaged images."""
        if not isinstance(ctx, str):
            raise UserError(f"{self.name}: its prompt is a list of texts, not one.")
        settings = copy.deepcopy(self.config.generation_kwargs)
        place = (doc_id, self.config.task, self.split)
        seen = partial(_shown, self.see, doc_id)
        return Instance(
            request_type="generate_until",
            arguments=(ctx.replace(MARKER, "").strip(), settings, seen, *place),
            idx=0,
            **kwargs,
        )

    def doc_to_text(self, doc: Mapping[str, Any]) -> Any:
        """The prompt."""
        with blamed(f"{self.name}: its prompt cannot be made of the data"):
            return super().doc_to_text(doc)

    def process_results(
        self, doc: Mapping[str, Any], results: Sequence[Any], full_docs: Any = None
    ) -> dict[str, Any]:
        """Score one answer by the task's own rule."""
        with blamed(f"{self.name}: its scorer fails on the answer {str(results[0])[:60]!r}"):
            scored = ConfigurableTask.process_results.__wrapped__(self, doc, results, full_docs)
        return dict(scored)

    def apply_filters(self) -> None:
        """Cut the answer out, without decoding the images again for it."""
        with blamed(f"{self.name}: its answers cannot be filtered"):
            for pipeline in self._filters:
                pipeline.apply(self._instances, self.eval_docs_no_media)

    def aggregation(self) -> dict[str, Callable[..., Any]]:
        """The task's own, each saying which metric failed."""
        return {name: _named(self.name, name, rule) for name, rule in super().aggregation().items()}

    @property
    def filter_name(self) -> str:
        """lmms-eval's name for the answers that are scored."""
        return str(self._filters[0].name)


def _shown(see: See, place: int, doc: Any) -> list[Image.Image]:
    """What a request shows; the document that lmms-eval hands over has no image in it."""
    return list(see(place))


def _named(task: str, metric: str, rule: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(rule)  # lmms-eval reads its parameters
    def aggregate(*args: Any, **kwargs: Any) -> Any:
        with blamed(f"{task}: its metric '{metric}' cannot be computed"):
            return rule(*args, **kwargs)

    return aggregate


def _as_image(task: str, place: int, found: Any) -> Image.Image:
    if isinstance(found, Image.Image):
        return found.convert("RGB")
    if isinstance(found, str) and found.lower().endswith(PICTURE_SUFFIXES):
        with blamed(f"{task}: the image of document {place} cannot be read"):
            return Image.open(found).convert("RGB")
    raise UserError(f"{task}: document {place} shows a {type(found).__name__}, not an image.")


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Tell any failure of a task's own code as one line that begins with ``what``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while isinstance(cause, tenacity.RetryError):
            cause = cause.last_attempt.exception()
        said = " ".join(str(cause).split())
        raise UserError(f"{what} ({type(cause).__name__}: {said[:300]}).") from error


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A task that has been read."""

    config: Mapping[str, Any]
    task: StockTask
    corpus: Corpus


def load(name: str, root: Path) -> Corpus:
    """The documents of ``stock/...`` as items; their images are named by content, not by path.

    ``root`` holds a copy of the hub data set, or is ``Path()`` for where the YAML says.

    Raises:
        UserError: the task cannot be asked here, or its data is not to be had or has no image.
    """
    return _opened(stock.definition(name), name, root).corpus


def build(variant: Variant, corpus: Corpus, split: str, limit: int | None) -> StockTask:
    """See ``steelyard.tasks.build``; ``limit`` takes the documents of an image uncut."""
    if split not in corpus.splits:
        raise unknown(f"split of {corpus.name}", split, corpus.splits)
    source = _opened(stock.definition(corpus.name), corpus.name, corpus.root)
    everyone = corpus.splits[split]
    place = {example.id: number for number, example in enumerate(everyone)}
    chosen = apply.some(everyone, limit, whole=True)
    store = _store(source)

    def read(example: Example) -> Inputs:
        first, *more = store.get(place[example.id]) or (None,)
        return Inputs(first, None, more=tuple(more))

    shown = apply.shown(variant, "image", everyone, missing.of(variant, split, everyone), read)
    rows = [place[example.id] for example in chosen]
    whole, bare = (
        {source.task.split: part[source.task.split].select(rows)}
        for part in (source.task.dataset, source.task.dataset_no_image)
    )
    config = {**source.config, "task": str(variant), "repeats": 1}
    return StockTask(config, (whole, bare), lambda number: shown(chosen[number]).images, chosen)


@functools.lru_cache(maxsize=4)
def _opened(file: Path, name: str, root: Path) -> Source:
    with blamed(f"{name}: its code cannot be loaded"):
        config = {**load_yaml_config(str(file), mode="full"), "task": name}
    here = {**config, **_location(config, root)}
    path, short = config["dataset_path"], name.removeprefix(stock.PREFIX)
    missing = f"{name}: its data cannot be read; it is '{path}' of the hub. Where that is in reach,"
    fetch = f"fetch it ('hf download {path} --repo-type dataset --local-dir DIR')"
    with blamed(f"{missing} {fetch} and give --data-root {short}=DIR"):
        task = StockTask(here)
    return Source(here, task, _corpus(name, root, task))


@functools.lru_cache(maxsize=1)
def _store(source: Source) -> images.ImageStore[int]:
    """Decoded images by document, of the task that was asked last."""
    return images.ImageStore(source.task.pictures)


def _location(config: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The part of a configuration that says where the data is."""
    extra = dict(config.get("dataset_kwargs") or {})
    if extra.get("token") is True and (root != Path() or get_token() is None):
        del extra["token"]  # public sets need none, and asking for one fails where none is saved
    if root == Path():
        return {"dataset_kwargs": extra}
    if (root / "dataset_dict.json").is_file():
        extra["load_from_disk"] = True
    card, name = root / "README.md", config.get("dataset_name")
    known = card.is_file() and f"config_name: {name}" in card.read_text(encoding="utf-8")
    # Without a card that names the splits, they are named by what their files are called.
    told = card.is_file() or "load_from_disk" in extra
    splits = {key: config[key] for key in SPLIT_KEYS if config.get(key) and not told}
    return {key: PLAIN_SPLITS.get(split, split) for key, split in splits.items()} | {
        "dataset_path": str(root),
        "dataset_name": name if known else None,
        "dataset_kwargs": extra,
    }


def _corpus(name: str, root: Path, task: StockTask) -> Corpus:
    rows = task.dataset[task.split]
    columns = pictured(rows)
    names, counts, revision = _scan(rows, columns)
    if not columns:
        names, counts = _looked_at(task, len(rows))
    if not any(names):
        raise UserError(f"{name}: none of its documents shows an image.")
    column, ids = _ids(rows)
    examples = tuple(
        Example(
            id=f"{name.removeprefix(stock.PREFIX)}/{given}",
            image=Path(image) if image else None,
            text=None,
            labels=(),
            cluster=image,
        )
        for given, image in zip(ids, names, strict=True)
    )
    most = sorted(range(len(rows)), key=lambda place: -counts[place])[:FIRST_LOOK]
    return Corpus(
        name=name,
        root=root,
        classes=(),
        multi_label=False,
        splits={SPLIT: examples},
        revision=revision,
        notes={
            "hub": str(task.config.dataset_path) if root == Path() else "a copy of it",
            "subset": str(task.config.dataset_name or ""),
            "split": task.split,
            "commit": _commit(rows),
            "ids": column,
        },
        at_once=max(len(task.pictures(place)) for place in most),  # also refuses soon
    )


def pictured(rows: Any) -> list[str]:
    """Columns that hold images."""
    return [
        name
        for name, kind in rows.features.items()
        if isinstance(kind.feature if isinstance(kind, datasets.List) else kind, datasets.Image)
    ]


def _ids(rows: Any) -> tuple[str, list[str]]:
    """The column that names each document differently, and the names; else their numbers."""
    for column in ID_COLUMNS:
        if column in rows.features:
            names = [str(value) for value in rows[column]]
            if len(set(names)) == len(names):
                return column, names
    return "row number", [str(number) for number in range(len(rows))]


def _commit(rows: Any) -> str:
    """The hub's commit the data was taken from; empty where it is not known."""
    known = list(rows.info.download_checksums or {})
    return known[0].partition("@")[2].partition("/")[0] if known and "@" in known[0] else ""


def _scan(rows: Any, columns: Sequence[str]) -> tuple[list[str], list[int], str]:
    """Each document's images named by their content, how many there are, and a hash of all.

    Nothing is decoded.
    """
    names: list[str] = []
    counts: list[int] = []
    whole = blake2b(digest_size=8)
    for table in rows.with_format("arrow").iter(batch_size=64):
        for row in table.to_pylist():
            held = [row.pop(column) for column in columns]
            name = _digest(held) if any(held) else ""
            names.append(name)
            counts.append(sum(len(each) if isinstance(each, list) else bool(each) for each in held))
            whole.update(f"{name} {_digest(row)}\n".encode())
    return names, counts, whole.hexdigest()


def _digest(value: Any) -> str:
    state = blake2b(digest_size=8)
    for part in _parts(value):
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """What a value is made of; a file by its content, wherever it lies."""
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        path = Path(value["path"] or "")
        stored = value["bytes"]
        yield stored if stored is not None else path.read_bytes() if path.is_file() else b""
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield key.encode()
            yield from _parts(value[key])
    elif isinstance(value, list):
        for part in value:
            yield from _parts(part)
    else:
        yield value if isinstance(value, bytes) else repr(value).encode()


def _looked_at(task: StockTask, count: int) -> tuple[list[str], list[int]]:
    """Images named by their pixels, of a task that keeps them elsewhere than in a column."""
    names, counts = [""] * count, [0] * count
    for place in range(count):
        if place == FIRST_LOOK and not any(names):
            break
        shown = task.pictures(place)
        counts[place] = len(shown)
        if shown:
            names[place] = _digest(
                [part for each in shown for part in (each.tobytes(), *each.size)]
            )
    return names, counts
