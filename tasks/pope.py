"""POPE: yes-no questions whether an object is in the image, half of them about absent objects."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official
from steelyard.tasks._shared import questions as _questions

KINDS = ("random", "popular", "adversarial")
"""Choice of the absent objects: at random, the most frequent, those that often co-occur."""
SOURCES = ("coco", "aokvqa", "gqa")
"""Question sets: about annotated objects of COCO, or segmented objects of the others."""
HOMES = ("", "output/", "output/seem/")
"""Parents of a source's folder; its files may also be in the root."""
NAMES = ("coco_pope_{}.json", "*pope*{}*.json", "*pope*{}*.jsonl")
"""Names of COCO's files by kind, searched in this order; others begin with their source."""
ANY = "*pope*.jsonl"
IMAGES = "val2014"
"""Folder of the images of a converted copy."""
LABELS = ("yes", "no")


def load(root: Path, *, max_bad: float = 0.01, questions: str = "", source: str = "") -> Corpus:
    """Read JSON lines of question_id, image, text and label; images are in a folder next to them.

    Files are the official ``coco_pope_<kind>.json[.gz]``, else ``*pope*<kind>*.json[l]``, else
    ``*pope*.jsonl``, or those that match ``questions``, as ``pope_official_subset.jsonl``. The kind
    is a row's ``kind``, or in the file's name. Ids are ``<kind>/<question_id>``, after the row's
    ``source`` if any. ``source`` is ``aokvqa`` or ``gqa``, whose ids begin with it, or ``all``;
    without it COCO's questions are read, if there are any.
    """
    if source not in ("", "all", *SOURCES):
        raise unknown("source of pope", source, ("all", *SOURCES))

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
        paths = _files(folder, questions, source)
        several = len({_source(path) for path in paths}) > 1
        for path in paths:
            yield from _examples(folder, path, split, several)

    names = ", ".join(path.name for path in _files(root, questions, source))
    return _questions.corpus("pope", root, read, notes={"files": names}, max_bad=max_bad)


def _files(root: Path, questions: str, source: str) -> list[Path]:
    if questions:
        folders = (".", *(f"{home}{name}" for name in SOURCES for home in HOMES))
        paths = _questions.files(root, *(f"{folder}/{questions}" for folder in folders))
    else:
        of_sources = [_of_source(root, name) for name in SOURCES if source in ("", "all", name)]
        groups = [group for group in of_sources if group]
        paths = [path for group in (groups if source == "all" else groups[:1]) for path in group]
    if paths:
        return paths
    first = source if source in SOURCES else SOURCES[0]
    names = questions or ", ".join(f"{first}_pope_{kind}.json" for kind in KINDS)
    raise UserError(f"No {names} in {root}: check the data folder and its layout.")


def _of_source(root: Path, source: str) -> list[Path]:
    """List a source's files in the first folder that has any, in the order of the kinds."""
    names = NAMES if source == SOURCES[0] else (f"{source}_pope*{{}}.json*",)
    for folder in (".", *(f"{home}{source}" for home in HOMES)):
        by_kind = ([f"{folder}/{name.format(kind)}" for name in names] for kind in KINDS)
        paths = [path for patterns in by_kind for path in _questions.files(root, *patterns)]
        # A file without a kind in its name has the kind in its rows.
        if not paths and source == SOURCES[0]:
            paths = _questions.files(root, f"{folder}/{ANY}")
        if of_source := [path for path in paths if _source(path) == source]:
            return of_source
    return []


def _source(path: Path) -> str:
    return next((name for name in SOURCES if path.name.startswith(name)), SOURCES[0])


def _examples(root: Path, path: Path, split: str, several: bool) -> Iterator[Example]:
    file_kind = next((kind for kind in KINDS if kind in path.name), "")
    # COCO's ids have no source in front, so that ids in earlier records stay valid.
    file_source = "" if _source(path) == SOURCES[0] else f"{_source(path)}/"
    for where, row in read_rows(path):
        label = _questions.one_of(where, row, "label", LABELS)
        # The row's kind takes precedence over the file's name.
        kind = _questions.one_of(where, {"kind": file_kind, **row}, "kind", KINDS)
        number = _questions.field(where, row, "question_id")
        source = f"{row['source']}/" if "source" in row else file_source
        image, name = _questions.image_of(where, root, row)
        yield Example(
            f"{_questions.prefix(split)}{source}{kind}/{number}",
            image,
            _questions.field(where, row, "text"),
            answers=(label,),
            choices=LABELS,
            subset=f"{kind}: {_source(path)}" if several else kind,
            cluster=name,
        )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, question, answer, image_source, category, image).

    A question in several configurations of the copy is written once.
    """
    questions: dict[str, dict[str, Mapping[str, Any]]] = {kind: {} for kind in KINDS}
    for row in rows:
        kind, number, image, text, label = (
            official.column(row, name)
            for name in ("category", "question_id", "image_source", "question", "answer")
        )
        if kind not in KINDS:
            raise UserError(f"The copy has category {kind!r}, allowed are {', '.join(KINDS)}.")
        name = f"{image}.jpg"
        official.write_image(official.column(row, "image"), folder / IMAGES, name)
        # The official files have numbers, hub copies strings.
        numbered = int(number) if str(number).isdecimal() else number
        content = {"question_id": numbered, "image": name, "text": text, "label": label.lower()}
        questions[kind][str(number)] = content
    for kind, by_number in questions.items():
        if by_number:
            path = folder / "coco" / NAMES[0].format(kind)
            official.write_lines(path, by_number.values())


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    fractions = answer_fractions(doc["answers"][0], results[0])
    return {**fractions, "item": metrics.answer_item(doc, results[0])}


def answer_fractions(label: str, answer: str) -> dict[str, metrics.Fraction]:
    """Score one answer by each metric; ``yes`` is the positive label.

    An answer that is neither yes nor no counts as yes by the official rule: ``unparsed`` is the
    fraction of such answers.
    """
    predicted, unparsed = answers.pope_label(answer), answers.yes_or_no(answer) is None
    return metrics.yes_no_fractions(label, predicted, positive="yes", unparsed=unparsed)
