"""What the AMBER tasks share: the official files, and how captions and yes-no answers are scored.

Wang et al., AMBER, arXiv 2311.07397, and inference.py at junyangwang0410/AMBER, which counts what
is counted here: every mention of an object, pooled over captions; an object named by several words
of the annotation stands for the first; a question answered with neither yes nor no is wrong and
counts for the precision of neither. Departures, each of which the notes of a record name:

- **nouns** (``words``): officially NLTK's tagger picks nouns and spaCy's ``en_core_web_lg`` lets a
  noun pass for an annotated one above a similarity of 0.8. Here a word counts if it or its
  singular is in AMBER's vocabulary (the words of relation.json), whatever its case and whatever
  part of speech it has, except the auxiliary ``can``; it passes for an annotated object only where
  relation.json says so. That is stricter: CHAIR and Hal come out higher and Cover lower than
  officially. The official script can score a run's answers instead: it reads a list of
  ``{"id": 1, "response": ...}``.
- **yes and no** are read from sentences, where the official script wants exactly ``Yes`` or ``No``.
- F1 is exact; the official one is rounded on the way and has 0.0001 (existence: 0.001) added to
  its denominator.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data.reading import find_file, read_json, read_text
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import objects as _objects
from steelyard.tasks._shared import questions

CAPTIONS = "generative"
DESCRIBE = "Describe this image."
KINDS = {
    CAPTIONS: CAPTIONS,
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute: state",
    "discriminative-attribute-number": "attribute: number",
    "discriminative-attribute-action": "attribute: action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""Subset of each official type. Relations have two types, one of all yes and one of all no."""
PARTS = ("existence", "attribute", "relation")
QUERIES = (
    ("query_all",),
    ("query_generative", "query_discriminative"),
    ("query_generative", *(f"query_discriminative-{name}" for name in PARTS)),
)
"""Official files: all in one, in two halves, or with the second half in parts."""
FOLDERS = ("data/query", "query", "data", ".")
LABELS = ("yes", "no")
RULE = "words"
"""How objects are found in captions, as the notes of a record name it."""
WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
A_CAN = frozenset(
    {"a", "an", "the", "this", "that", "one", "each", "another", "trash", "garbage", "soda", "beer"}
)
"""What stands before ``can`` where it is a thing."""

Row = Mapping[str, Any]
Facts = Mapping[str, tuple[str, ...]]


def load(task: str, root: Path, halves: Collection[str], max_bad: float) -> Corpus:
    """Read the queries of captions (``generative``), of yes-no questions, or of both.

    Raises:
        UserError: files are missing, malformed or not of one version, a half has no query, or
            what ``build_corpus`` checks.
    """

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        found = list(_examples(folder, split))
        chosen = [example for example in found if _half(example) in halves]
        for half in halves:
            if not any(_half(example) == half for example in chosen):
                raise UserError(f"No {half} query in {folder}: give all of AMBER's query files.")
        return chosen

    notes = {"nouns": RULE} if CAPTIONS in halves else {}
    return questions.corpus(task, root, read, notes=notes, max_bad=max_bad, holds=_holds)


def _half(example: Example) -> str:
    return CAPTIONS if example.subset == CAPTIONS else "discriminative"


def _holds(folder: Path) -> bool:
    return bool(questions.files(folder, "data/annotations.json", "annotations.json"))


def _examples(root: Path, split: str) -> Iterator[Example]:
    path = _file(root, "annotations")
    noted = {questions.field(where, row, "id"): (where, row) for where, row in _rows(path)}
    relation = _relation(root)
    safe = tuple(read_text(find_file(root, "data/safe_words.txt", "safe_words.txt")).split())
    for where, query in _rows(*_queries(root)):
        id_ = questions.field(where, query, "id")
        if id_ not in noted:
            raise UserError(f"{where}: {path.name} has no id {id_}; are both of one version?")
        place, annotation = noted[id_]
        kind = annotation.get("type")
        if kind not in KINDS:
            raise UserError(f"{place}: type {kind!r}, allowed are {', '.join(KINDS)}.")
        image, name = questions.pictures(where, root, query)
        captions = kind == CAPTIONS
        words = {"relation": relation, "safe": safe}
        yield Example(
            f"{questions.prefix(split)}{id_}",
            image,
            None if captions else questions.field(where, query, "query"),
            (),
            answers=() if captions else (_truth(place, annotation),),
            choices=() if captions else LABELS,
            subset=KINDS[kind],
            cluster=name,
            facts={**_objects_of(place, annotation, relation), **words} if captions else {},
        )


def _objects_of(where: str, annotation: Row, relation: tuple[str, ...]) -> Facts:
    """Objects in the picture, and those that are often dreamt up with them."""
    found = {key: questions.strings(where, annotation, key) for key in ("truth", "hallu")}
    if not found["truth"]:
        raise UserError(f"{where}: 'truth' lists no object.")
    known = _related(relation)
    lacking = [word for words in found.values() for word in words if word not in known]
    if lacking:
        raise UserError(f"{where}: relation.json lacks '{lacking[0]}'; are both of one version?")
    return found


def _truth(where: str, annotation: Row) -> str:
    truth = annotation.get("truth")
    if truth not in LABELS:
        raise UserError(f"{where}: truth {truth!r}, allowed are 'yes' and 'no'.")
    return str(truth)


def _queries(root: Path) -> list[Path]:
    """The query files of the set of files that has most of its own there."""
    found = [[path for name in names if (path := _find(root, name, FOLDERS))] for names in QUERIES]
    if not any(found):
        raise UserError(f"No query_all.json or query_generative.json in {root} or its data/query.")
    return found[0] or max(found[1:], key=len)


def _rows(*paths: Path) -> Iterator[tuple[str, Row]]:
    return (found for path in paths for found in questions.listed(path))


def _file(root: Path, name: str) -> Path:
    found = _find(root, name, ("data", "."))
    if found is None:
        raise UserError(f"No data/{name}.json or {name}.json in {root}: check the data folder.")
    return found


def _find(root: Path, name: str, folders: Sequence[str]) -> Path | None:
    found = questions.files(root, *(f"{folder}/{name}.json" for folder in folders))
    return found[0] if found else None


def _relation(root: Path) -> tuple[str, ...]:
    """relation.json as lines ``word, word that passes for it, ...``."""
    path = _file(root, "relation")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object that names words related to each word.")
    lines = ((word, *questions.strings(str(path), content, word)) for word in content)
    return tuple(", ".join(line) for line in lines)


# --- what a row asks ---------------------------------------------------------------------------


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row: the official instruction to describe, or the question."""
    return DESCRIBE if doc["subset"] == CAPTIONS else questions.prompt(doc)


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row; of a caption the objects, for AMBER has no captions."""
    return ", ".join(doc["facts"]["truth"]) if doc["subset"] == CAPTIONS else doc["answers"][0]


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer by the metrics of its half."""
    return {**shares(doc, results[0]), "item": metrics.answered(doc, results[0])}


def shares(doc: metrics.Question, answer: str) -> dict[str, metrics.Part]:
    """One answer's share of each metric of its half."""
    if doc["subset"] == CAPTIONS:
        return caption_shares(doc["facts"], answer)
    return answer_shares(doc["answers"][0], answer)


# --- yes-no questions --------------------------------------------------------------------------


def answer_shares(truth: str, answer: str) -> dict[str, metrics.Part]:
    """One answer's share of each metric; ``no`` is the positive label, as officially."""
    said = answers.stance(answer)
    positive, denied = truth == "no", said == "no"
    hit = positive and denied
    return {
        "f1": (2.0 * hit, positive + denied),
        "accuracy": (said == truth, 1),
        "precision": (hit, denied),
        "recall": (hit, positive),
        "yes_rate": (said == "yes", 1),
        "unparsed": (said is None, 1),
    }


# --- captions ----------------------------------------------------------------------------------


def caption_shares(facts: Facts, caption: str) -> dict[str, metrics.Part]:
    """One caption's share of each metric, from its ``truth``, ``hallu``, ``relation``, ``safe``."""
    named = nouns(caption, facts["relation"])
    return weigh(named, facts, len(caption.split()))


def weigh(named: Sequence[str], facts: Facts, length: int) -> dict[str, metrics.Part]:
    """The shares of a caption of ``length`` words that names these words of the vocabulary."""
    related = _related(facts["relation"])
    truth, hallu = facts["truth"], facts["hallu"]
    covered: set[int] = set()
    dreamt: set[int] = set()
    wrong = 0
    for word in named:
        if word in facts["safe"]:
            continue
        if (place := _stands_for(word, truth, related)) is not None:
            covered.add(place)
            continue
        wrong += 1
        if (place := _stands_for(word, hallu, related)) is not None:
            dreamt.add(place)
    return {
        "chair": (wrong, len(named)),
        "cover": (len(covered), len(truth)),
        "hal": (wrong > 0, 1),
        "cog": (len(dreamt), len(hallu)),
        "length": (length, 1),
    }


def _stands_for(
    word: str, objects: Sequence[str], related: Mapping[str, Collection[str]]
) -> int | None:
    """Which of the objects a word names: the first it is related to, else the one it is."""
    relatives = (place for place, name in enumerate(objects) if word in related[name])
    return next(relatives, objects.index(word) if word in objects else None)


def nouns(caption: str, relation: tuple[str, ...]) -> list[str]:
    """Words of a caption that are in the vocabulary, or whose singular is, in order."""
    known = _vocabulary(relation)
    words = WORD.findall(caption)
    before = ["", *(word.lower() for word in words)]
    found = (
        _known_form(word, known)
        for word, last in zip(words, before, strict=False)
        if word.lower() != "can" or last in A_CAN
    )
    return [form for form in found if form]


def _known_form(word: str, known: Collection[str]) -> str | None:
    lower = word.lower()
    forms = (word, lower, _objects.singular(lower))
    return next((form for form in forms if form in known), None)


@lru_cache(maxsize=4)
def _related(relation: tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    """Words that pass for each object."""
    lines = (line.split(", ") for line in relation)
    return {words[0]: frozenset(words[1:]) for words in lines}


@lru_cache(maxsize=4)
def _vocabulary(relation: tuple[str, ...]) -> frozenset[str]:
    """All words that count as objects."""
    return frozenset(word for line in relation for word in line.split(", "))
