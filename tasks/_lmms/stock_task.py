"""Tasks of lmms-eval as their YAML defines them, with one variant's corruption of the images."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.harness.core.files import digest
from steelyard.harness.core.readers import read_text
from steelyard.harness.data import images
from steelyard.harness.data.reading import IMAGE_SUFFIXES
from steelyard.tasks._lmms import stock
from steelyard.tasks.corruptions import apply
from steelyard.tasks.corruptions.variants import Variant

SPLIT = "test"
"""Our name of the split that a task is scored on, which its YAML may call otherwise."""
ID_COLUMNS = ("uid", "id", "question_id", "questionId", "qid", "index", "idx")
"""Columns of document ids; the first one with unique values is used."""
SPLIT_KEYS = ("test_split", "validation_split")
PLAIN_SPLITS = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test"}
"""Split names of the ``datasets`` library for files with these names."""
MARKER = "<image>"
"""Position of the image in a prompt. Here the image is first, as in lmms-eval's own models."""
PROBED = 20
"""Documents whose images are read at once: the first ones of a task without a column of images,
where at least one must have one, else those with the most images in their columns."""

ImageReader = Callable[[int], images.Images]
Documents = Mapping[str, Any]
"""Data sets of the ``datasets`` library by split."""


class StockTask(ConfigurableTask):  # type: ignore[misc]  # lmms-eval is untyped
    """Task of lmms-eval with its own prompt and scorer, kept in memory once read.

    If its code or its data fail, a UserError says so; lmms-eval would try five times and hide the
    cause.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        documents: tuple[Documents, Documents] | None = None,
        read: ImageReader | None = None,
        items: Sequence[Example] = (),
    ) -> None:
        self.documents, self.read, self.items = documents, read or self.images_of, items
        self.dataset: Documents = {}
        # lmms-eval removes keys from ``dataset_kwargs`` as it reads them.
        super().__init__(config=copy.deepcopy(dict(config)))

    @property
    def split(self) -> str:
        """Split that is scored, as the task calls it."""
        return str(self.config.test_split or self.config.validation_split)

    @property
    def name(self) -> str:
        """``stock/mmstar`` or ``stock/mmstar@image-blank``."""
        return str(self.config.task)

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Read the data once, or take it from memory: complete, and without images."""
        if self.documents is None:
            # Without lmms-eval's decorator, which would retry five times.
            ConfigurableTask.download.__wrapped__(self, dataset_kwargs)
            # lmms-eval would fail later with a bare KeyError.
            if self.split not in self.dataset:
                raise UserError(
                    f"{self.name}: its data has the splits {', '.join(self.dataset)} but not "
                    f"'{self.split}', which the task is scored on."
                )
            without_images, rows = dict(self.dataset), self.dataset[self.split]
            if not self.config.process_results_use_image:
                without_images = {self.split: rows.remove_columns(image_columns(rows))}
            self.documents = self.dataset, without_images
        self.dataset, self.dataset_no_image = self.documents

    def images_of(self, index: int) -> images.Images:
        """Read the images of a document; UserError for other media, such as video or sound."""
        with failing_as(f"{self.name}: the image of document {index} cannot be read"):
            try:
                media = self.doc_to_visual(self.dataset[self.split][index]) or []
                return [_as_image(self.name, index, medium) for medium in media]
            except images.ImageError as error:
                raise UserError(f"{self.name}: document {index}: {error}") from error

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> Instance:
        """Ask for a greedy answer about the document's corrupted images."""
        if not isinstance(ctx, str):
            raise UserError(f"{self.name}: its prompt is a list of texts, not one.")
        # Models remove keys from these, and all requests share them.
        settings = copy.deepcopy(self.config.generation_kwargs)
        where = (doc_id, self.config.task, self.split)

        # By index: the document that lmms-eval passes has no images.
        def visual(doc: Any) -> list[Image.Image]:
            return list(self.read(doc_id))

        return Instance(
            request_type="generate_until",
            arguments=(ctx.replace(MARKER, "").strip(), settings, visual, *where),
            idx=0,
            **kwargs,
        )

    def doc_to_text(self, doc: Mapping[str, Any]) -> Any:
        with failing_as(f"{self.name}: its prompt cannot be built from the data"):
            return super().doc_to_text(doc)

    def process_results(
        self, doc: Mapping[str, Any], results: Sequence[Any], full_docs: Any = None
    ) -> dict[str, Any]:
        with failing_as(f"{self.name}: its scorer fails on the answer {str(results[0])[:60]!r}"):
            # Without the decorator, as in ``download``.
            scored = ConfigurableTask.process_results.__wrapped__(self, doc, results, full_docs)
        return dict(scored)

    def apply_filters(self) -> None:
        """Apply the task's filters to the answers, without decoding images again."""
        with failing_as(f"{self.name}: its answers cannot be filtered"):
            for pipeline in self._filters:
                pipeline.apply(self._instances, self.eval_docs_no_media)

    def aggregation(self) -> dict[str, Callable[..., Any]]:
        """Return the task's aggregations; each names its metric if it fails."""

        def checked(metric: str, rule: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(rule)  # lmms-eval reads its parameters
            def aggregate(*args: Any, **kwargs: Any) -> Any:
                with failing_as(f"{self.name}: its metric '{metric}' cannot be computed"):
                    return rule(*args, **kwargs)

            return aggregate

        return {metric: checked(metric, rule) for metric, rule in super().aggregation().items()}

    @property
    def filter_name(self) -> str:
        """Name of the first filter, whose answers are scored."""
        return str(self._filters[0].name)


def _as_image(task: str, index: int, medium: Any) -> Image.Image:
    if isinstance(medium, Image.Image):
        return images.as_rgb(medium)
    if isinstance(medium, str) and Path(medium).suffix.lower() in IMAGE_SUFFIXES:
        return images.open_image(Path(medium))
    raise UserError(f"{task}: document {index} has a {type(medium).__name__}, not an image.")


_decode_example = datasets.Image.decode_example


def _decode_by_rules(feature: Any, value: Any, token_per_repo_id: Any = None) -> Any:
    """Decode an image of the ``datasets`` library like all others.

    Its own way keeps modes that the tasks' ``convert("RGB")`` clips, and fails on broken EXIF.
    """
    if isinstance(value, Mapping) and value["bytes"] is not None:
        return images.decode(value["bytes"], value["path"] or "its bytes").image
    if isinstance(value, Mapping) and value["path"] and Path(value["path"]).exists():
        return images.open_image(Path(value["path"]))
    # On the hub, or decoded before.
    return images.as_rgb(_decode_example(feature, value, token_per_repo_id))


# For the full process: documents are decoded by the code of tasks, too.
datasets.Image.decode_example = _decode_by_rules


@contextmanager
def failing_as(message: str) -> Iterator[None]:
    """Turn any failure of a task's code into a UserError that begins with ``message``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        # Some tasks retry by themselves: report the error that they retried.
        while isinstance(cause, tenacity.RetryError):
            cause = cause.last_attempt.exception()
        reason = " ".join(str(cause).split())[:300]
        raise UserError(f"{message} ({type(cause).__name__}: {reason}).") from error


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTask:
    config: Mapping[str, Any]
    task: StockTask
    corpus: Corpus


def load(name: str, root: Path) -> Corpus:
    """Read the documents of ``stock/...`` as items; the content names their images, not a path.

    ``root`` has a copy of the hub data set; with ``Path()`` the data is where the YAML says.
    """
    # The file is part of the cache key: ``--include-path`` may change which file a name means.
    return _loaded(stock.definition(name), name, root).corpus


def build(variant: Variant, corpus: Corpus, split: str, limit: int | None) -> StockTask:
    """Build a variant, see ``tasks.build``; ``limit`` takes all documents of an image or none."""
    loaded = _loaded(stock.definition(corpus.name), corpus.name, corpus.root)
    everyone = corpus.splits[split]
    index = {example.id: number for number, example in enumerate(everyone)}
    items = apply.limited(everyone, limit, by_cluster=True)
    store = _store(loaded)

    def read(example: Example) -> Inputs:
        # A document may have no image or several.
        first, *more = store.get(index[example.id]) or (None,)
        return Inputs(first, None, more=tuple(more))

    read_corrupted = apply.corrupted_reader(variant, "image", split, everyone, read)
    rows = [index[example.id] for example in items]
    with_images, without_images = (
        {loaded.task.split: data[loaded.task.split].select(rows)}
        for data in (loaded.task.dataset, loaded.task.dataset_no_image)
    )
    # lmms-eval scores only the first of repeated answers.
    config = {**loaded.config, "task": str(variant), "repeats": 1}
    return StockTask(
        config, (with_images, without_images), lambda row: read_corrupted(items[row]).images, items
    )


@functools.lru_cache(maxsize=4)
def _loaded(file: Path, name: str, root: Path) -> LoadedTask:
    with failing_as(f"{name}: its code cannot be loaded"):
        config = {**load_yaml_config(str(file), mode="full"), "task": name}
    # Before ``_location``: the message names the hub's path, not the local copy's.
    path, short = config["dataset_path"], name.removeprefix(stock.PREFIX)
    config |= _location(config, root)
    with failing_as(
        f"{name}: its data cannot be read; it is '{path}' on the hub. With network access, fetch "
        f"it ('hf download {path} --repo-type dataset --local-dir DIR') and give "
        f"--data-root {short}=DIR"
    ):
        task = StockTask(config)
    return LoadedTask(config, task, _corpus(name, root, task))


@functools.lru_cache(maxsize=1)
def _store(loaded: LoadedTask) -> images.ImageStore[int]:
    """Return the decoded images by document; only for the last task."""
    return images.ImageStore(loaded.task.images_of)


def _location(config: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return the keys of a configuration that locate the data, changed for ``root``."""
    extra = dict(config.get("dataset_kwargs") or {})
    if extra.get("token") is True and (root != Path() or get_token() is None):
        del extra["token"]  # public sets need none, and without a saved one this fails
    if root == Path():
        return {"dataset_kwargs": extra}
    if (root / "dataset_dict.json").is_file():
        extra["load_from_disk"] = True
    card, name = root / "README.md", config.get("dataset_name")
    has_name = card.is_file() and f"config_name: {name}" in read_text(card, lenient=True)
    # Without a card, the datasets library names splits by their files.
    from_files = not card.is_file() and "load_from_disk" not in extra
    splits = {key: config[key] for key in SPLIT_KEYS if config.get(key) and from_files}
    return {key: PLAIN_SPLITS.get(split, split) for key, split in splits.items()} | {
        "dataset_path": str(root),
        "dataset_name": name if has_name else None,
        "dataset_kwargs": extra,
    }


def _corpus(name: str, root: Path, task: StockTask) -> Corpus:
    rows = task.dataset[task.split]
    columns = image_columns(rows)
    names, counts, revision = _scan(rows, columns)
    if not columns:
        # The task's code makes the images, from paths or archives.
        names, counts = _probe(task, len(rows))
    if not any(names):
        raise UserError(f"{name}: none of its documents has an image.")
    column, ids = _ids(rows)
    examples = tuple(
        Example(
            id=f"{name.removeprefix(stock.PREFIX)}/{id_}",
            image=Path(image) if image else None,
            text=None,
            # Answers about equal images are not independent.
            cluster=image,
        )
        for id_, image in zip(ids, names, strict=True)
    )
    # It names the hub's commit of the data.
    url = next(iter(rows.info.download_checksums or ()), "")
    # Every image counts: a backbone that takes fewer images at once is refused.
    most_images = sorted(range(len(rows)), key=lambda index: -counts[index])[:PROBED]
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
            "commit": url.partition("@")[2].partition("/")[0],
            "ids": column,
        },
        at_once=max(len(task.images_of(index)) for index in most_images),  # also fails early
    )


def image_columns(rows: Any) -> list[str]:
    return [
        name
        for name, kind in rows.features.items()
        if isinstance(kind.feature if isinstance(kind, datasets.List) else kind, datasets.Image)
    ]


def _ids(rows: Any) -> tuple[str, list[str]]:
    """Return the first column with unique values, and the values; else row numbers."""
    for column in ID_COLUMNS:
        if column in rows.features:
            names = [str(value) for value in rows[column]]
            if len(set(names)) == len(names):
                return column, names
    return "row number", [str(number) for number in range(len(rows))]


def _scan(rows: Any, columns: Sequence[str]) -> tuple[list[str], list[int], str]:
    """Return each document's hash of its images, their number, and a hash of all documents.

    Images are not decoded.
    """
    names: list[str] = []
    counts: list[int] = []
    total = blake2b(digest_size=8)
    # Arrow keeps the encoded bytes; plain rows would decode every image.
    for table in rows.with_format("arrow").iter(batch_size=64):
        for row in table.to_pylist():
            # Popped: in the row's hash their name replaces the bytes, which are large.
            media = [row.pop(column) for column in columns]
            files = [*_parts(media)] if any(media) else []
            name = digest(files) if files else ""
            names.append(name)
            counts.append(sum(len(m) if isinstance(m, list) else bool(m) for m in media))
            rules = "" if all(map(images.is_plain, files)) else f" rules {images.RULES}"
            total.update(f"{name} {digest(_parts(row))}{rules}\n".encode())
    return names, counts, total.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Yield the bytes that identify a value; a file by its content, not its path."""
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        path = Path(value["path"] or "")
        stored = value["bytes"]
        yield stored if stored is not None else path.read_bytes() if path.is_file() else b""
    elif isinstance(value, Mapping):
        # Sorted: the order of an object's keys may differ between copies.
        for key in sorted(value):
            yield key.encode()
            yield from _parts(value[key])
    elif isinstance(value, list):
        for part in value:
            yield from _parts(part)
    else:
        yield value if isinstance(value, bytes) else repr(value).encode()


def _probe(task: StockTask, count: int) -> tuple[list[str], list[int]]:
    """Hash the pixels of each document's images, for a task without a column of images."""
    names, counts = [""] * count, [0] * count
    for index in range(count):
        # Calling a task's code for all documents of a set of texts would be slow.
        if index == PROBED and not any(names):
            break
        counts[index] = len(pictures := task.images_of(index))
        if pictures:
            # The size too: other shapes may have equal bytes.
            pixels = [part for p in pictures for part in (p.tobytes(), *p.size)]
            names[index] = digest(_parts(pixels))
    return names, counts
