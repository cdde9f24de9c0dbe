"""Shared by the AMBER tasks: reading the official files, scoring captions and yes-no answers.

Wang et al., AMBER, arXiv 2311.07397, and inference.py at junyangwang0410/AMBER, which counts as
here: every mention of an object, pooled over captions; a word related to several objects of the
annotation counts for the first; an answer that is neither yes nor no is wrong and is in no
precision. Departures, each of which the notes of a record name:

- **nouns** (``words``): officially NLTK's tagger picks nouns and spaCy's ``en_core_web_lg`` lets a
  noun pass for an annotated one above a similarity of 0.8. Here a word counts if it or its
  singular is in AMBER's vocabulary (the words of relation.json), whatever its case and whatever
  part of speech it has, except the auxiliary ``can``; it counts for an annotated object only if
  relation.json says so. That is stricter: CHAIR and Hal come out higher and Cover lower than
  officially. The official script can score a run's answers instead: it reads a list of
  ``{"id": 1, "response": ...}``.
- **yes and no** are read from sentences; the official script wants exactly ``Yes`` or ``No``.
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
from steelyard.harness.core.readers import read_object, read_rows, read_text
from steelyard.harness.data.reading import find_file
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
"""Sets of official files: all in one, in two halves, or with the second half in parts."""
FOLDERS = ("data/query", "query", "data", ".")
LABELS = ("yes", "no")
RULE = "words"
"""Name, in the notes of a record, of how objects are found in captions."""
WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
A_CAN = frozenset(
    {"a", "an", "the", "this", "that", "one", "each", "another", "trash", "garbage", "soda", "beer"}
)
"""Words before ``can`` where it is an object."""

Facts = Mapping[str, tuple[str, ...]]


def load(task: str, root: Path, halves: Collection[str], max_bad: float) -> Corpus:
    """Read the queries for captions (``generative``), the yes-no questions, or both."""

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        examples = [row for row in _examples(folder, split) if _half(row) in halves]
        for half in halves:
            if not any(_half(example) == half for example in examples):
                raise UserError(f"No {half} query in {folder}: give all of AMBER's query files.")
        return examples

    def holds(folder: Path) -> bool:
        return bool(questions.files(folder, "data/annotations.json", "annotations.json"))

    notes = {"nouns": RULE} if CAPTIONS in halves else {}
    return questions.corpus(task, root, read, notes=notes, max_bad=max_bad, holds=holds)


def _half(example: Example) -> str:
    return CAPTIONS if example.subset == CAPTIONS else "discriminative"


def _examples(root: Path, split: str) -> Iterator[Example]:
    path = questions.first_file(root, "data/annotations.json", "annotations.json")
    annotations = questions.by_key(read_rows(path), "id")
    # Lines ``object, word that counts for it, ...``.
    relation_file = questions.first_file(root, "data/relation.json", "relation.json")
    content = read_object(relation_file)
    related = {word: questions.strings(str(relation_file), content, word) for word in content}
    # Strings, for an item's facts are tuples of strings.
    relation = tuple(", ".join((word, *words)) for word, words in related.items())
    safe = tuple(read_text(find_file(root, "data/safe_words.txt", "safe_words.txt")).split())
    for where, query in (row for file in _queries(root) for row in read_rows(file)):
        id_ = questions.field(where, query, "id")
        if id_ not in annotations:
            raise UserError(f"{where}: {path.name} has no id {id_}; are both of one version?")
        annotated_at, annotation = annotations[id_]
        kind = questions.one_of(annotated_at, annotation, "type", KINDS)
        image, name = questions.image_of(where, root, query)
        details: dict[str, Any]
        if kind == CAPTIONS:
            objects = _objects_of(annotated_at, annotation, relation)
            details = {"text": None, "facts": {**objects, "relation": relation, "safe": safe}}
        else:
            truth = questions.one_of(annotated_at, annotation, "truth", LABELS)
            text = questions.field(where, query, "query")
            details = {"text": text, "answers": (truth,), "choices": LABELS}
        # After the look-up: the files number without a prefix.
        id_ = f"{questions.prefix(split)}{id_}"
        yield Example(id_, image, subset=KINDS[kind], cluster=name, **details)


def _objects_of(where: str, annotation: questions.SourceRow, relation: tuple[str, ...]) -> Facts:
    """Read the objects in the image, and those that models often invent next to them."""
    objects = {key: questions.strings(where, annotation, key) for key in ("truth", "hallu")}
    if not objects["truth"]:
        raise UserError(f"{where}: 'truth' lists no object.")
    related = _related(relation)
    absent = [word for words in objects.values() for word in words if word not in related]
    if absent:
        raise UserError(f"{where}: relation.json lacks '{absent[0]}'; are both of one version?")
    return objects


def _queries(root: Path) -> list[Path]:
    """Find the query files of the set in ``QUERIES`` of which most files exist."""
    sets = [
        [
            path
            for name in names
            for path in questions.files(root, *(f"{folder}/{name}.json" for folder in FOLDERS))[:1]
        ]
        for names in QUERIES
    ]
    if not any(sets):
        raise UserError(f"No query_all.json or query_generative.json in {root} or its data/query.")
    # The single file has all queries; else the set of which more files exist.
    return sets[0] or max(sets[1:], key=len)


def doc_to_text(doc: metrics.QuestionDoc) -> str:
    """Return the official instruction to describe the image, or the question."""
    return DESCRIBE if doc["subset"] == CAPTIONS else questions.prompt(doc)


def doc_to_target(doc: metrics.QuestionDoc) -> str:
    """Return the right answer; for a caption the objects, for AMBER has no captions."""
    return ", ".join(doc["facts"]["truth"]) if doc["subset"] == CAPTIONS else doc["answers"][0]


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    return {**fractions(doc, results[0]), "item": metrics.answer_item(doc, results[0])}


def fractions(doc: metrics.QuestionDoc, answer: str) -> dict[str, metrics.Fraction]:
    """Score one answer by the metrics of its half, without the item."""
    if doc["subset"] == CAPTIONS:
        return caption_fractions(doc["facts"], answer)
    return answer_fractions(doc["answers"][0], answer)


def answer_fractions(truth: str, answer: str) -> dict[str, metrics.Fraction]:
    """Score a yes-no answer; ``no`` is the positive label, as officially."""
    label = answers.stance(answer)
    return metrics.yes_no_fractions(truth, label, positive="no", unparsed=label is None)


def caption_fractions(facts: Facts, caption: str) -> dict[str, metrics.Fraction]:
    """Score a caption by its facts ``truth``, ``hallu``, ``relation`` and ``safe``."""
    return noun_fractions(nouns(caption, facts["relation"]), facts, len(caption.split()))


def noun_fractions(words: Sequence[str], facts: Facts, length: int) -> dict[str, metrics.Fraction]:
    """Score a caption of ``length`` words that has these words of the vocabulary."""
    related = _related(facts["relation"])
    truth, hallu = facts["truth"], facts["hallu"]
    # Sets: an object counts once, however often the caption mentions it.
    covered: set[int] = set()
    invented: set[int] = set()
    wrong = 0
    for word in words:
        # Safe words, such as "picture", are neither right nor wrong.
        if word in facts["safe"]:
            continue
        if (index := _object_of(word, truth, related)) is not None:
            covered.add(index)
            continue
        wrong += 1
        if (index := _object_of(word, hallu, related)) is not None:
            invented.add(index)
    return {
        "chair": (wrong, len(words)),
        "cover": (len(covered), len(truth)),
        "hal": (wrong > 0, 1),
        "cog": (len(invented), len(hallu)),
        "length": (length, 1),
    }


def _object_of(
    word: str, objects: Sequence[str], related: Mapping[str, Collection[str]]
) -> int | None:
    """Return the index of a word's object: the first it is related to, else the word itself."""
    relatives = (index for index, name in enumerate(objects) if word in related[name])
    return next(relatives, objects.index(word) if word in objects else None)


def nouns(caption: str, relation: tuple[str, ...]) -> list[str]:
    """List the words of a caption in the vocabulary, themselves or their singular, in order."""
    vocabulary = _vocabulary(relation)
    words = WORD.findall(caption)
    before = ["", *(word.lower() for word in words)]
    forms = []
    for word, last in zip(words, before, strict=False):
        # "can" is mostly the auxiliary verb.
        lower = word.lower()
        if lower != "can" or last in A_CAN:
            variants = (word, lower, _objects.singular(lower))
            # As written first: a vocabulary may have capital letters.
            forms += [form for form in variants if form in vocabulary][:1]
    return forms


@lru_cache(maxsize=4)
def _related(relation: tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    lines = (line.split(", ") for line in relation)
    return {words[0]: frozenset(words[1:]) for words in lines}


@lru_cache(maxsize=4)
def _vocabulary(relation: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word for line in relation for word in line.split(", "))
