"""``steelyard check``: everything a data folder shows, also where parts of it are broken."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steelyard import tasks
from steelyard.harness.core.environment import code, packages
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import cache_folder, digest
from steelyard.harness.data import card, image_scan
from steelyard.harness.data.reading import Refused, check_max_bad
from steelyard.harness.datacheck import annotations, card_page, duplicates, layout, text_only
from steelyard.tasks.world.build import MARKER

Card = dict[str, Any]
Tell = Callable[[str], None]
"""Called with what is being done."""


def check(
    task: str, root: Path, options: Mapping[str, str], max_bad: float, tell: Tell
) -> tuple[Card, Path]:
    """The data card of a folder and where it is kept; made only if a file, or we, changed since.

    Raises:
        UserError: no such task or folder, or ``max_bad`` is no share. What is wrong with the data
            stands in the card.
    """
    about = tasks.info(task)
    check_max_bad(max_bad)
    tasks.check_options(task, options)
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: '{task}' expects one; see 'steelyard data'.")
    tell("listing files")
    files = layout.walk(root)
    kept = cache_folder() / "cards" / f"{task}-{_key(task, files, options, max_bad)}"
    if (found := _kept(kept)) is not None:
        return found, kept
    made = _make(about, root, files, options, max_bad, tell)
    try:
        card.write(kept, made, card_page.markdown(made))
    except UserError:
        tell("the card is not kept: the cache cannot be written to")
    return made, kept


def _key(task: str, files: layout.Files, options: Mapping[str, str], max_bad: float) -> str:
    """All that a card follows from: the files by size and time, what is asked, and the code."""
    named = [Path(value).stat() for value in options.values() if Path(value).is_file()]
    beside = [[one.st_size, one.st_mtime_ns] for one in named]  # such as a judge's verdicts
    asked = [task, dict(options), beside, max_bad]
    made_by = [code()["source"], packages()]
    texts = (json.dumps(part, sort_keys=True) for part in (*asked, *made_by, files))
    return digest(text.encode() for text in texts)


def _kept(folder: Path) -> Card | None:
    try:
        found = json.loads((folder / card.JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # not there, or broken: it is made again
    return found if isinstance(found, dict) else None


def _make(
    about: tasks.TaskInfo, root: Path, files: layout.Files, options: Mapping[str, str],
    max_bad: float, tell: Tell,
) -> Card:  # fmt: skip
    tell("reading annotation files")
    generated = MARKER in files
    listed = annotations.examine(root, files, {} if generated else about.official)
    problems = annotations.broken_sums(root, files)
    tell("reading data")
    corpus, refused = _read(about.name, root, options, max_bad)
    problems += [_without(root, problem) for problem in refused]
    expected = layout.expected(about.layout, files)
    made: Card = {
        "format": card.FORMAT,
        "task": about.name,
        "generated": generated,
        "problems": problems,
        "tree": {
            "expected": expected,
            "found": layout.summary(files),
            "nested": layout.nested(expected),
        },
        "files": listed,
        "about": {key: asdict(about)[key] for key in ("licence", "source", "hub", "citation")},
        **_items(root, files, corpus, tell),
    }
    return dict(card.printable(made | {"warnings": duplicates.warnings(made)}))


def _read(
    task: str, root: Path, options: Mapping[str, str], max_bad: float
) -> tuple[Corpus | None, list[str]]:
    """What could be read, and why it is refused."""
    try:
        return tasks.load(task, root, max_bad=max_bad, **options), []
    except Refused as refused:
        return refused.corpus, list(refused.problems)
    except UserError as error:
        return None, [str(error)]
    except Exception as error:
        # This command is for broken data: a loader that trips over it must not end the report.
        return None, [f"The loader stopped with {type(error).__name__}: {error}"]


def _without(root: Path, problem: str) -> str:
    """A card holds no paths of a machine."""
    return problem.replace(f"{root}/", "").replace(str(root), "the data folder")


def _items(root: Path, files: layout.Files, corpus: Corpus | None, tell: Tell) -> Card:
    """Findings of items and images; of all images in the folder where no item could be read."""
    if corpus is None:
        shown = [root / path for path in files if layout.is_image(path)]
    else:
        shown = duplicates.used_images(corpus)
    looks = image_scan.scan(shown)
    tell("comparing images")
    near = duplicates.twins(looks)
    found: Card = {
        "card": None,
        "core": None,
        "skipped": [],
        "images": duplicates.images(root, looks, near),
        "unused": {"images": 0, "first": []},
        "leaks": [],
        "repeated": {},
        "blind": {"rows": [], "why not": "no item could be read"},
    }
    if corpus is None:
        return found
    core = card.core(corpus)
    tell("asking a text-only model")
    unsuited = text_only.unsuited(corpus)
    return found | {
        "card": card.identity(core),
        "core": core,
        "skipped": [[row.split, row.id, row.reason] for row in corpus.skipped],
        "unused": duplicates.unused(root, files, shown),
        "leaks": duplicates.leaks(corpus, looks, near),
        "repeated": duplicates.repeated(corpus, looks),
        "blind": {"rows": [] if unsuited else text_only.shares(corpus), "why not": unsuited},
    }
