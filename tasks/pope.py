"""POPE: is there such an object in the image? Asked of objects that are there and that are not."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.data import Corpus, Example, Skipped
from steelyard.harness.errors import UserError
from steelyard.harness.reading import read_json_lines
from steelyard.tasks import _official, _questions, answers, metrics

KINDS = ("random", "popular", "adversarial")
"""How the absent objects were drawn: at random, by frequency, by what is often seen together."""
FOLDERS = (".", "coco", "output/coco")
NAMES = ("coco_pope_{}.json", "*pope*{}*.json", "*pope*{}*.jsonl")
"""File names by kind, first found first taken."""
ANY = "*pope*.jsonl"
IMAGES = "val2014"
"""Where a converted copy puts its pictures."""
LABELS = ("yes", "no")


def load(root: Path, *, max_bad: float = 0.01, questions: str = "") -> Corpus:
    """Read JSON lines of question_id, image, text and label; images lie in a folder beside them.

    Files are the official ``coco_pope_<kind>.json[.gz]``, else ``*pope*<kind>*.json[l]``, else
    ``*pope*.jsonl``, or those that fit ``questions``, as ``pope_official_subset.jsonl``. The kind
    is a row's ``kind``, or that of the file's name. Ids are ``<kind>/<question_id>``, after the
    row's ``source`` if any.

    Raises:
        UserError: files are missing or malformed, or what ``build_corpus`` checks.
    """

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        paths = _files(folder, questions)
        return [example for path in paths for example in _examples(folder, path, split)]

    used = ", ".join(path.name for path in _files(root, questions))
    return _questions.corpus("pope", root, read, notes={"files": used}, max_bad=max_bad)


def _files(root: Path, questions: str) -> list[Path]:
    for folder in FOLDERS:
        by_kind = ([f"{folder}/{name.format(kind)}" for name in NAMES] for kind in KINDS)
        listed = [[f"{folder}/{questions}"]] if questions else [*by_kind]
        if found := [path for names in listed for path in _questions.files(root, *names)]:
            return found
        if not questions and (found := _questions.files(root, f"{folder}/{ANY}")):
            return found
    wanted = questions or ", ".join(NAMES[0].format(kind) for kind in KINDS)
    raise UserError(f"No {wanted} in {root}: check the data folder and its layout.")


def _examples(root: Path, path: Path, split: str) -> Iterator[Example]:
    named = next((kind for kind in KINDS if kind in path.name), "")
    for where, row in read_json_lines(path):
        label = row.get("label")
        if label not in LABELS:
            raise UserError(f"{where}: label {label!r}, allowed are 'yes' and 'no'.")
        kind = row.get("kind", named)
        if kind not in KINDS:
            raise UserError(f"{where}: kind {kind!r}, allowed are {', '.join(KINDS)}.")
        number = _questions.field(where, row, "question_id")
        source = f"{row['source']}/" if "source" in row else ""
        image, name = _questions.pictures(where, root, row)
        yield Example(
            f"{_questions.prefix(split)}{source}{kind}/{number}",
            image,
            _questions.field(where, row, "text"),
            (),
            answers=(label,),
            choices=LABELS,
            subset=kind,
            cluster=name,
        )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, question, answer, image_source, category, image).

    A question that stands in several configurations of the copy is written once.
    """
    asked: dict[str, dict[str, Mapping[str, Any]]] = {kind: {} for kind in KINDS}
    for row in rows:
        kind, number, image, text, label = (
            _official.column(row, name)
            for name in ("category", "question_id", "image_source", "question", "answer")
        )
        if kind not in KINDS:
            raise UserError(f"The copy has category {kind!r}, allowed are {', '.join(KINDS)}.")
        name = f"{image}.jpg"
        _official.write_image(_official.column(row, "image"), folder / IMAGES, name)
        numbered = int(number) if str(number).isdecimal() else number
        content = {"question_id": numbered, "image": name, "text": text, "label": label.lower()}
        asked[kind][str(number)] = content
    for kind, found in asked.items():
        if found:
            path = folder / "coco" / NAMES[0].format(kind)
            _official.write_lines(path, found.values())


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
