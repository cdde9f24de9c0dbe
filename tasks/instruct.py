"""Instructions and pairs to train on, one's own or generated; questions are scored by exact match.

``docs/data.md`` describes the forms that are read. A row has the same id, image name and position
in each, so equal content is one data revision and one run, whatever form it was in.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.files import cache_folder, digest, publish_folder
from steelyard.harness.core.folders import listing
from steelyard.harness.core.readers import json_rows, read_text, short_repr
from steelyard.harness.data import tables
from steelyard.harness.data.images import ImageError, read_bytes
from steelyard.harness.data.reading import IMAGE_SUFFIXES, MAIN_SPLITS, build_corpus
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import conversations, official, questions

CAPTION = "caption"
"""Kind of a row whose question is an instruction and whose answer is a sentence."""
SPLITS = {"validation": "val", "valid": "val", "dev": "val"}
"""Other names of splits."""
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
ABOUT_DATA = frozenset({"source.json", "dataset_info.json", "dataset_infos.json", "state.json"})
"""Files that describe a data set and have no rows."""
SEVERAL = "several images"
LISTED = 5
"""Most rows with later turns that a data card names."""


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read ``train``, ``val`` and ``test`` of a folder, any of which may be absent.

    They are JSON files of those names or tables (parquet, arrow); a single JSON file of another
    name is training data. Rows that cannot be read are skipped and listed.
    """
    from steelyard.tasks.world.build import MARKER

    folder, files = _files(root)
    reader = _Reader(folder, (root / MARKER).is_file())
    splits = {split: list(reader.examples(split, path)) for split, path in files.items()}
    notes = {}
    if later := reader.later_turns:
        ids = ", ".join(sorted(later)[:LISTED]) + (", ..." if len(later) > LISTED else "")
        notes["later turns left out"] = f"{later.total()}, of {len(later)} items: {ids}"
    skipped = reader.skipped
    return build_corpus(
        "instruct", folder, (), splits, skipped=skipped, notes=notes, max_bad=max_bad
    )


def _files(root: Path) -> tuple[Path, dict[str, Path]]:
    """Return the folder with the rows as JSON, and its files by split."""
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: give the folder that holds train.jsonl.")
    files = _json_files(root)
    if named := {split: files[split] for split in MAIN_SPLITS if split in files}:
        return root, named
    if paths := tables.find(root):
        stats = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths]
        to = cache_folder() / "tables" / digest([json.dumps(stats).encode()])
        if not to.is_dir():
            with publish_folder(to, to.is_dir) as folder:
                write = partial(write_official, folder=folder, source=root)
                tables.convert(root, write, unnamed="train")
        return _files(to)
    if len(files) == 1:
        return root, {"train": next(iter(files.values()))}
    raise UserError(
        f"No train.jsonl, train.json or table (parquet, arrow) in {root}: 'steelyard data "
        "instruct' shows the form of a row."
    )


def is_readable(folder: Path) -> bool:
    """Test whether a folder, such as a hub copy, has rows in JSON."""
    files = _json_files(folder)
    return bool(files.keys() & {*MAIN_SPLITS}) or len(files) == 1


def _json_files(root: Path) -> dict[str, Path]:
    """Return the JSON files of a folder, or else those of its folder ``data``, by split."""
    files: dict[str, Path] = {}
    for folder in (root, root / "data"):
        for path in () if files else listing(folder):
            stem, _, suffix = path.name.partition(".")
            split = SPLITS.get(stem, stem)
            if f".{suffix}" in SUFFIXES and path.name not in ABOUT_DATA:
                if split in files:
                    raise UserError(f"{root} has {files[split].name} and {path.name}: keep one.")
                files[split] = path
    return files


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the rows of a folder and lists what it leaves out."""

    folder: Path
    generated: bool
    skipped: list[Skipped] = field(default_factory=list)
    later_turns: Counter[str] = field(default_factory=Counter)
    """Number of answers after the first, by item."""
    contents: dict[Path, str] = field(default_factory=dict)
    """Hash of the bytes of each image file."""

    def examples(self, split: str, path: Path) -> Iterator[Example]:
        """Yield the items of a file; a row that cannot be read is skipped."""

        def skip(where: str, reason: str) -> None:
            kind = "" if reason.startswith(SEVERAL) else "malformed: "  # cards count by kind
            self.skipped.append(Skipped(where, split, kind + reason))

        copies: Counter[str] = Counter()
        for where, row in json_rows(read_text(path), path.name, skip):
            try:
                yield self._example(where, row, copies)
            except UserError as error:
                skip(where, str(error).removeprefix(f"{where}: ").removesuffix("."))

    def _example(self, where: str, row: questions.SourceRow, copies: Counter[str]) -> Example:
        is_native = row.get("question") is not None
        names = _image_names(where, row, required=is_native)
        pair = conversations.parse(where, row, len(names))
        image = questions.image_path(self.folder, names[0]) if names else None
        # Names of images differ from form to form. Published records of generated data have them.
        content = names[0] if names and self.generated else self._content(image)
        if is_native and row.get("id") is not None:
            name = questions.field(where, row, "id")
        else:
            # Ids of conversations repeat, as in LLaVA's own mix: content is the id.
            parts = [*pair[:-1], content]
            name = digest(json.dumps(part).encode() for part in parts)
            copies[name] += 1
            name += f"-{copies[name]}" if copies[name] > 1 else ""
        if pair.later_turns:
            self.later_turns[name] = pair.later_turns
        caption = pair.kind == CAPTION
        return Example(
            name,
            image,
            None if caption else pair.question,
            answers=(pair.answer,),
            choices=pair.choices,
            subset=pair.kind,
            cluster=content,
            # Only an instruction: it has no text that a corruption could change.
            facts={"instruction": (pair.question,)} if caption else {},
            rejected=pair.rejected,
        )

    def _content(self, image: Path | None) -> str:
        """Hash an image file; empty without one or if it cannot be read, which is found later."""
        if image is None:
            return ""
        if image not in self.contents:
            try:
                content = read_bytes(image)
            except ImageError:
                return ""
            self.contents[image] = hashlib.blake2b(content, digest_size=8).hexdigest()
        return self.contents[image]


def _image_names(where: str, row: questions.SourceRow, *, required: bool) -> list[str]:
    """Return the paths of a row's images, at most one."""
    if required and not row.keys() & {"image", "images"}:
        raise UserError(f"{where}: no 'image'; write null for none.")
    value = row.get("images", row.get("image"))
    images = value if isinstance(value, list) else [] if value is None else [value]
    if len(images) > 1:
        raise UserError(f"{where}: {SEVERAL}: {len(images)}, and a row can have one.")
    names = []
    for image in images:
        name = image.get("path") if isinstance(image, Mapping) else image
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: 'image' must be a path, found {short_repr(name)}.")
        names.append(name)
    return names


def write_official(rows: Iterable[Mapping[str, Any]], folder: Path, source: Path = Path()) -> None:
    """Write tables as JSON lines a split, in the form they have, and images as files of their hash.

    Images that a table names without bytes are read below ``source``.
    """
    splits: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kept = {key: row[key] for key in conversations.KEYS if row.get(key) is not None}
        value = row.get("images", row.get("image"))
        images = value if isinstance(value, list) else [] if value is None else [value]
        kept["images"] = [_write_image(image, folder, source) for image in images]
        splits[SPLITS.get(row[tables.SPLIT], row[tables.SPLIT])].append(kept)
    if len(splits) == 1 and not splits.keys() & {*MAIN_SPLITS}:
        splits = defaultdict(list, train=next(iter(splits.values())))
    for split, lines in splits.items():
        official.write_lines(folder / f"{split}.jsonl", lines)


def _write_image(image: Any, folder: Path, source: Path) -> str:
    """Write the bytes of a table's image, and return its path below ``folder``."""
    if not isinstance(image, Mapping):
        image = {"bytes": image} if isinstance(image, bytes) else {"path": image}
    path, content = image.get("path") or "", image.get("bytes")
    if content is None:
        try:
            content = read_bytes(source / str(path))
        except ImageError:
            return str(path)  # reading reports it
    suffix = Path(str(path)).suffix.lower()
    name = digest([content]) + (suffix if suffix in IMAGE_SUFFIXES else ".jpg")
    official.write_image(content, folder / "images", name)
    return f"images/{name}"


def doc_to_text(doc: metrics.QuestionDoc) -> str:
    """Return an instruction as it is, or a question with the instruction for short answers."""
    if doc["subset"] == conversations.CONVERSATION:
        return doc["text"] or ""
    return doc["facts"].get("instruction", (questions.prompt(doc),))[0]


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    """Score one answer; captions do not count, for no two people write the same one."""
    counted = doc["subset"] != CAPTION
    right = answers.exact(results[0], doc["answers"]) if counted else 0
    return {"accuracy": (right, counted), "item": metrics.answer_item(doc, results[0])}
