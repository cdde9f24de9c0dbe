"""Build the data card of a folder for ``steelyard check``, even if parts of the data are broken."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from steelyard import tasks
from steelyard.harness.core.environment import code, packages
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import cache_folder, digest
from steelyard.harness.data import card, image_scan
from steelyard.harness.data.reading import MAIN_SPLITS, RefusedData, check_max_bad
from steelyard.harness.datacheck import annotations, card_page, duplicates, layout, text_only
from steelyard.harness.datacheck.card_page import DataCard, ItemFindings
from steelyard.tasks.world.build import MARKER

OnStep = Callable[[str], None]
"""Called with the step that begins, in words."""


def check(
    task: str, root: Path, options: Mapping[str, str], max_bad: float, on_step: OnStep
) -> tuple[DataCard, Path]:
    """Return the data card of a folder and its cache folder; rebuilt only after a change.

    Raises:
        UserError: no such task or folder, or ``max_bad`` is no fraction. Faults of the data are
            in the card.
    """
    about = tasks.info(task)
    check_max_bad(max_bad)
    tasks.check_options(task, options)
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: '{task}' expects one; see 'steelyard data'.")
    on_step("listing files")
    files = layout.walk(root)
    folder = cache_folder() / "cards" / f"{task}-{_cache_key(task, files, options, max_bad)}"
    try:
        return json.loads((folder / card.JSON).read_text(encoding="utf-8")), folder
    except (OSError, ValueError):
        pass  # absent or broken
    data_card = _build(about, root, files, options, max_bad, on_step)
    try:
        card.write(folder, data_card, card_page.markdown(data_card))
    except UserError:
        on_step("the card is not cached: the cache folder cannot be written to")
    return data_card, folder


def _cache_key(task: str, files: layout.Files, options: Mapping[str, str], max_bad: float) -> str:
    """Hash all inputs of a card: files by size and time, options, versions of the code."""
    stats = [Path(value).stat() for value in options.values() if Path(value).is_file()]
    option_files = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    inputs = [task, dict(options), option_files, max_bad, code()["source"], packages(), files]
    return digest(json.dumps(part, sort_keys=True).encode() for part in inputs)


def _build(
    about: tasks.TaskInfo, root: Path, files: layout.Files, options: Mapping[str, str],
    max_bad: float, on_step: OnStep,
) -> DataCard:  # fmt: skip
    on_step("reading annotation files")
    generated = MARKER in files
    annotation_files = annotations.examine(root, files, {} if generated else about.official)
    problems = annotations.broken_sums(root, files)
    on_step("reading data")
    corpus, refusals = _load(about.name, root, options, max_bad)
    problems += [
        text.replace(f"{root}/", "").replace(str(root), "the data folder") for text in refusals
    ]
    expected = layout.expected(about.layout, files)
    data_card: DataCard = {
        "format": card.FORMAT,
        "task": about.name,
        "generated": generated,
        "problems": problems,
        "warnings": [],
        "tree": {
            "expected": expected,
            "files": layout.summary(files),
            "nested": layout.nested(expected),
        },
        "files": annotation_files,
        "about": {key: asdict(about)[key] for key in ("licence", "source", "hub", "citation")},
        **_examine_items(root, files, corpus, on_step),
    }
    data_card["warnings"] = list(_warnings(data_card))
    return cast(DataCard, card.printable(data_card))


def _load(
    task: str, root: Path, options: Mapping[str, str], max_bad: float
) -> tuple[Corpus | None, list[str]]:
    """Return the corpus, as far as it can be read, and why a run would refuse it."""
    try:
        return tasks.load(task, root, max_bad=max_bad, **options), []
    except RefusedData as refused:
        return refused.corpus, list(refused.problems)
    except UserError as error:
        return None, [str(error)]
    except Exception as error:
        # This command is for broken data: a loader that fails on it must not end the report.
        return None, [f"The loader stopped with {type(error).__name__}: {error}"]


def _examine_items(
    root: Path, files: layout.Files, corpus: Corpus | None, on_step: OnStep
) -> ItemFindings:
    """Examine items and images; all images of the folder if no item can be read."""
    if corpus is None:
        paths = [root / path for path in files if layout.is_image(path)]
    else:
        paths = duplicates.used_images(corpus)
    images = image_scan.scan(paths)
    on_step("comparing images")
    near = duplicates.near_duplicates(images)
    findings: ItemFindings = {
        "card": None,
        "core": None,
        "skipped": [],
        "images": duplicates.summarise(root, images, near),
        "unused": {"images": 0, "examples": []},
        "leaks": [],
        "repeated": {},
        "text_only": {"rows": [], "unsuitable": "no item could be read"},
    }
    if corpus is None:
        return findings
    on_step("fitting the text-only baseline")
    core, unsuitable = card.core(corpus), text_only.unsuitable(corpus)
    return {
        **findings,
        "card": card.identity(core),
        "core": core,
        "skipped": [[row.split, row.id, row.reason] for row in corpus.skipped],
        "unused": duplicates.unused_images(root, files, paths),
        "leaks": duplicates.leaks(corpus, images, near),
        "repeated": duplicates.repeated(corpus, images),
        "text_only": {
            "rows": [] if unsuitable else text_only.scores(corpus),
            "unsuitable": unsuitable,
        },
    }


def _warnings(data_card: DataCard) -> Iterator[str]:
    """Yield findings that are no reason to refuse the data, one line each."""
    if data_card["generated"]:
        yield "This is the generated world, not the published data."
    images = data_card["images"]
    if images["faulty"]:
        yield f"Images that cannot be used: {len(images['faulty']):,}; their rows are skipped."
    if groups := images["duplicates"]["groups"]:
        count = images["duplicates"]["images"]
        yield f"Image files with the bytes of another: {count:,}, in {groups:,} groups."
    for leak in data_card["leaks"]:
        splits = {leak["first"], leak["second"]}
        # Official splits of other names share items with val and test.
        separate = leak["first"] == "train" or splits <= set(MAIN_SPLITS)
        if separate and (leak["image"] or leak["near_duplicate"]):
            yield (
                f"Items of {leak['second']} whose image is in {leak['first']} too: "
                f"{leak['image']:,} of {leak['items']:,}; {leak['near_duplicate']:,} more have a "
                "near-duplicate there."
            )
    for file in data_card["files"]:
        if file["official"].startswith(("differs", "official size, but")):
            yield f"{file['path']}: {file['official']}"
        yield from (fault for fault in file["faults"] if fault not in data_card["problems"])
