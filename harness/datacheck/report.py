"""Build the data card of a folder for ``steelyard check``, even if parts of the data are broken."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from steelyard import tasks
from steelyard.harness.core import folders
from steelyard.harness.core.environment import code, packages
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import cache_folder, digest
from steelyard.harness.core.readers import read_object
from steelyard.harness.data import card, image_scan
from steelyard.harness.data.reading import MAIN_SPLITS, RefusedData, check_max_bad
from steelyard.harness.datacheck import annotations, card_page, duplicates, layout, text_only
from steelyard.harness.datacheck.card_page import CardSection, DataCard, split_tables, table
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
    if about.source == "generated" and not (root / MARKER).is_file():
        about = replace(about, licence="that of your own data", source="your own")
    check_max_bad(max_bad)
    tasks.check_options(task, options)
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: '{task}' expects one; see 'steelyard data'.")
    on_step("listing files")
    files = folders.walk(root)
    # The key has all inputs of a card: files by size and time, options, versions of the code.
    stats = [Path(value).stat() for value in options.values() if Path(value).is_file()]
    option_files = [[stat.st_size, stat.st_ctime_ns] for stat in stats]
    inputs = [task, dict(options), option_files, max_bad, code()["source"], packages(), files]
    key = digest(json.dumps(part, sort_keys=True).encode() for part in inputs)
    folder = cache_folder() / "cards" / f"{task}-{key}"
    try:
        return cast(DataCard, read_object(folder / card.JSON)), folder
    except UserError:
        # Absent or broken: build it again.
        pass
    data_card = _build(about, root, files, options, max_bad, on_step)
    try:
        card.write(folder, data_card, card_page.markdown(data_card))
    except UserError:
        on_step("the card is not cached: the cache folder cannot be written to")
    return data_card, folder


def _build(
    about: tasks.TaskInfo, root: Path, files: folders.Files, options: Mapping[str, str],
    max_bad: float, on_step: OnStep,
) -> DataCard:  # fmt: skip
    on_step("reading annotation files")
    generated = MARKER in files
    annotation_files = annotations.examine(root, files, {} if generated else about.official)
    problems = annotations.broken_sums(root, files)
    on_step("reading data")
    corpus, refusals = _load(about.name, root, options, max_bad)
    # A card has no path of this machine.
    for text in refusals:
        problems.append(text.replace(f"{root}/", "").replace(str(root), "the data folder"))
    expected = layout.expected(about.layout, files)
    subfolder = layout.nested(expected)
    hint = f"The expected layout is in the subfolder {subfolder}: use that as data folder."
    core = card.core(corpus) if corpus else None
    sections, warnings = _examine_items(root, files, corpus, on_step)
    # Sets of questions are only scored; those with classes are learnt.
    if corpus and corpus.classes and "train" not in corpus.splits:
        warnings.append("No training items: a trained model can be scored on it, none trained.")
    if corpus and "test" not in corpus.splits:
        warnings.append("No test items: a model can be trained on it, and scored on another task.")
    if generated:
        warnings.insert(0, "This is the generated world, not the published data.")
    for file in annotation_files:
        if file.official.startswith(("differs", "official size, but")):
            warnings.append(f"{file.path}: {file.official}")
        warnings += [fault for fault in file.faults if fault not in problems]
    data_card: DataCard = {
        "format": card_page.FORMAT,
        "task": about.name,
        "card": card.identity(core) if core else None,
        "core": core,
        "about": {key: asdict(about)[key] for key in ("licence", "source", "hub", "citation")},
        "generated": generated,
        "problems": problems,
        "warnings": warnings,
        "sections": {
            "Expected layout": table(expected, hint if subfolder else ""),
            "Files": table([{"path": line} for line in layout.summary(files)]),
            "Annotation files": table(annotation_files),
            **sections,
            "Licence": table(text=f"{about.licence}. Source: {about.source}."),
        },
    }
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
    root: Path, files: folders.Files, corpus: Corpus | None, on_step: OnStep
) -> tuple[dict[str, CardSection], list[str]]:
    """Return sections and warnings about items and images; all images if no item can be read."""
    if corpus:
        paths = duplicates.used_images(corpus)
    else:
        paths = [root / path for path in files if layout.is_image(path)]
    images = image_scan.scan(paths)
    on_step("comparing images")
    near = duplicates.near_duplicates(images)
    counts = duplicates.count_images(root, files, images, near)
    _, faulty, same, *_ = counts
    warnings = []
    if faulty.images:
        warnings.append(f"Images that cannot be used: {faulty.images:,}; their rows are skipped.")
    if same.images:
        warnings.append(f"Image files with the same bytes as another: {same.images:,}.")
    sections = {"Images": table(counts) if images else table(text="There are none.")}
    if corpus is None:
        faults = [
            {"image": duplicates.relative(root, path), "reason": image.fault}
            for path, image in images.items()
            if image.fault
        ]
        return {"Unusable images": table(faults), **sections}, warnings
    skipped = [{"split": r.split, "item": r.id, "reason": r.reason} for r in corpus.skipped]
    leaks = duplicates.leaks(corpus, images, near)
    on_step("fitting the text-only baseline")
    if reason := text_only.unsuitable(corpus):
        baseline = table(text=f"Not measured: {reason}.")
    else:
        baseline = table(text_only.scores(corpus), text_only.ABOUT)
    sections = {
        **split_tables(card.core(corpus), duplicates.repeated(corpus, images)),
        "Skipped rows": table(skipped),
        **sections,
        "Leakage": table(leaks, duplicates.LEAKS if leaks else ""),
        "Text-only baseline": baseline,
    }
    for split, rows in Counter(row.split for row in corpus.skipped).items():
        total = rows + len(corpus.splits.get(split, ()))
        reason = next(row.reason for row in corpus.skipped if row.split == split)
        warnings.append(f"Rows of {split} left out: {rows:,} of {total:,} ({reason}).")
    for leak in leaks:
        # Official splits of other names share items with val and test.
        separate = leak.first == "train" or {leak.first, leak.second} <= set(MAIN_SPLITS)
        if separate and (leak.image or leak.near_duplicate):
            warnings.append(
                f"Items of {leak.second} whose image is in {leak.first} too: {leak.image:,} of "
                f"{leak.items:,}; {leak.near_duplicate:,} more have a near-duplicate there."
            )
        # Splits may put one question to different images.
        if separate and leak.text and corpus.classes:
            warnings.append(
                f"Items of {leak.second} whose text is in {leak.first} too: {leak.text:,} of "
                f"{leak.items:,}."
            )
    return sections, warnings
