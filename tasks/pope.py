"""POPE: is there such an object in the image? Asked of objects that are there and that are not."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data.reading import read_json_lines
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official
from steelyard.tasks._shared import questions as _questions

KINDS = ("random", "popular", "adversarial")
"""How the absent objects were drawn: at random, by frequency, by what is often seen together."""
SOURCES = ("coco", "aokvqa", "gqa")
"""Sets with questions of their own: about COCO's annotated objects, the others' segmented ones."""
HOMES = ("", "output/", "output/seem/")
"""Where a source's folder may lie; its files may also lie in the root."""
NAMES = ("coco_pope_{}.json", "*pope*{}*.json", "*pope*{}*.jsonl")
"""Names of COCO's files by kind, first found first taken; others begin with their source."""
ANY = "*pope*.jsonl"
IMAGES = "val2014"
"""Where a converted copy puts its pictures."""
LABELS = ("yes", "no")


def load(root: Path, *, max_bad: float = 0.01, questions: str = "", source: str = "") -> Corpus:
    """Read JSON lines of question_id, image, text and label; images lie in a folder beside them.

    Files are the official ``coco_pope_<kind>.json[.gz]``, else ``*pope*<kind>*.json[l]``, else
    ``*pope*.jsonl``, or those that fit ``questions``, as ``pope_official_subset.jsonl``. The kind
    is a row's ``kind``, or that of the file's name. Ids are ``<kind>/<question_id>``, after the
    row's ``source`` if any. ``source`` takes the questions of ``aokvqa`` or ``gqa``, whose ids
    begin with it, or ``all`` of them; without it COCO's are read, if there are any.

    Raises:
        UserError: files are missing or malformed, or what ``build_corpus`` checks.
    """
    if source not in ("", "all", *SOURCES):
        raise unknown("source of pope", source, ("all", *SOURCES))

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        paths = _files(folder, questions, source)
        several = len({_source(path) for path in paths}) > 1
        return [row for path in paths for row in _examples(folder, path, split, several)]

    used = ", ".join(path.name for path in _files(root, questions, source))
    return _questions.corpus("pope", root, read, notes={"files": used}, max_bad=max_bad)


def _files(root: Path, questions: str, source: str) -> list[Path]:
    if questions:
        folders = (".", *(f"{home}{name}" for name in SOURCES for home in HOMES))
        found = _questions.files(root, *(f"{folder}/{questions}" for folder in folders))
    else:
        groups = [_of(root, name) for name in SOURCES if source in ("", "all", name)]
        there = [group for group in groups if group]
        found = [path for group in (there if source == "all" else there[:1]) for path in group]
    if found:
        return found
    first = source if source in SOURCES else SOURCES[0]
    wanted = questions or ", ".join(f"{first}_pope_{kind}.json" for kind in KINDS)
    raise UserError(f"No {wanted} in {root}: check the data folder and its layout.")


def _of(root: Path, source: str) -> list[Path]:
    """A source's files in the first folder that has any, in the order of the kinds."""
    names = NAMES if source == SOURCES[0] else (f"{source}_pope*{{}}.json*",)
    for folder in (".", *(f"{home}{source}" for home in HOMES)):
        by_kind = ([f"{folder}/{name.format(kind)}" for name in names] for kind in KINDS)
        found = [path for listed in by_kind for path in _questions.files(root, *listed)]
        if not found and source == SOURCES[0]:
            found = _questions.files(root, f"{folder}/{ANY}")
        if own := [path for path in found if _source(path) == source]:
            return own
    return []


def _source(path: Path) -> str:
    return next((name for name in SOURCES if path.name.startswith(name)), SOURCES[0])


def _examples(root: Path, path: Path, split: str, several: bool) -> Iterator[Example]:
    named = next((kind for kind in KINDS if kind in path.name), "")
    own = "" if _source(path) == SOURCES[0] else f"{_source(path)}/"
    for where, row in read_json_lines(path):
        label = row.get("label")
        if label not in LABELS:
            raise UserError(f"{where}: label {label!r}, allowed are 'yes' and 'no'.")
        kind = row.get("kind", named)
        if kind not in KINDS:
            raise UserError(f"{where}: kind {kind!r}, allowed are {', '.join(KINDS)}.")
        number = _questions.field(where, row, "question_id")
        source = f"{row['source']}/" if "source" in row else own
        image, name = _questions.pictures(where, root, row)
        yield Example(
            f"{_questions.prefix(split)}{source}{kind}/{number}",
            image,
            _questions.field(where, row, "text"),
            (),
            answers=(label,),
            choices=LABELS,
            subset=f"{kind}: {_source(path)}" if several else kind,
            cluster=name,
        )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, question, answer, image_source, category, image).

    A question that stands in several configurations of the copy is written once.
    """
    asked: dict[str, dict[str, Mapping[str, Any]]] = {kind: {} for kind in KINDS}
    for row in rows:
        kind, number, image, text, label = (
            official.column(row, name)
            for name in ("category", "question_id", "image_source", "question", "answer")
        )
        if kind not in KINDS:
            raise UserError(f"The copy has category {kind!r}, allowed are {', '.join(KINDS)}.")
        name = f"{image}.jpg"
        official.write_image(official.column(row, "image"), folder / IMAGES, name)
        numbered = int(number) if str(number).isdecimal() else number
        content = {"question_id": numbered, "image": name, "text": text, "label": label.lower()}
        asked[kind][str(number)] = content
    for kind, found in asked.items():
        if found:
            path = folder / "coco" / NAMES[0].format(kind)
            official.write_lines(path, found.values())


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row."""
    return _questions.prompt(doc)


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row."""
    return _questions.first_answer(doc)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer, read by the official rule."""
    parts = shares(doc["answers"][0], results[0])
    return {**parts, "item": metrics.answered(doc, results[0])}


def shares(label: str, answer: str) -> dict[str, metrics.Part]:
    """One answer's share of each metric; ``yes`` is the positive label.

    An answer that is neither a yes nor a no counts as a yes by the official rule: ``unparsed``
    says how many there are.
    """
    positive, said = label == "yes", answers.pope_label(answer) == "yes"
    hit = positive and said
    return {
        "f1": (2.0 * hit, positive + said),
        "accuracy": (positive == said, 1),
        "precision": (hit, said),
        "recall": (hit, positive),
        "yes_rate": (said, 1),
        "unparsed": (answers.yes_or_no(answer) is None, 1),
    }


def scores(labels: Sequence[str], given: Sequence[str]) -> Mapping[str, float]:
    """Every metric of answers to questions with these labels, without images or a model."""
    rows = [shares(label, answer) for label, answer in zip(labels, given, strict=True)]
    return {metric: metrics.ratio([row[metric] for row in rows]) for metric in rows[0]}


def confusion(labels: Sequence[str], given: Sequence[str]) -> Mapping[str, int]:
    """True and false, positives and negatives: tp, fp, tn, fn."""
    counts: dict[str, Any] = dict.fromkeys(("tp", "fp", "tn", "fn"), 0)
    for label, answer in zip(labels, given, strict=True):
        said = answers.pope_label(answer)
        counts[f"{'t' if said == label else 'f'}{'p' if said == 'yes' else 'n'}"] += 1
    return counts
