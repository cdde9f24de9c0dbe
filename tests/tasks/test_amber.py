"""AMBER: both halves by hand, official counts, and lmms-eval's scorer on the same captions."""

import gzip
import importlib
import json
import random
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import SHARED
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.tasks import metrics
from steelyard.tasks._shared import amber_files

OFFICIAL = SHARED / "official_json" / "amber"
official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
LINES = ("dog", "cat", "grass, ground", "person, man, people", "ball", "ground, floor", "bin, can")


def scores(parts: list[dict[str, Any]]) -> dict[str, float]:
    return {name: metrics.ratio([part[name] for part in parts]) for name in parts[0]}


# --- Captions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "result"),
    [
        ("Dogs on the ground.", ["dog", "ground"]),
        ("People and a man's cat", ["people", "man", "cat"]),
        ("A dog, a dog", ["dog", "dog"]),
        ("The floor can be seen by a can", ["floor", "can"]),
        ("Cans beside a sofa", ["can"]),
        ("doghouse, cat-like", []),
        ("", []),
    ],
)
def test_words_of_the_vocabulary(caption: str, result: list[str]) -> None:
    assert amber_files.nouns(caption, LINES) == result


FACTS = {"truth": ("dog", "grass", "person"), "hallu": ("cat", "ball"), "relation": LINES,
         "safe": ("floor",)}  # fmt: skip


def test_captions_by_hand() -> None:
    replies = [
        "A dog on the ground with a cat and a ball.",  # dog, grass; cat and ball are invented
        "A man on the floor beside a bin.",  # person; floor is safe; bin is invented, not dreamt
        "Nothing to see.",
    ]
    parts = [amber_files.caption_fractions(FACTS, caption) for caption in replies]
    assert scores(parts) == {
        "chair": pytest.approx(3 / 7),  # dog ground cat ball, man floor bin
        "cover": pytest.approx(3 / 9),
        "hal": pytest.approx(2 / 3),
        "cog": pytest.approx(2 / 6),
        "length": pytest.approx((11 + 8 + 3) / 3),
    }


def test_a_word_stands_for_the_first_object_it_is_related_to() -> None:
    facts = {**FACTS, "truth": ("grass", "ground", "ground")}
    both = amber_files.caption_fractions(facts, "ground and more ground")
    assert both["cover"] == (1, 3) and both["chair"] == (0, 2)  # officially grass, twice
    assert amber_files.caption_fractions(facts, "a floor")["cover"] == (
        0,
        3,
    )  # a safe word covers nothing
    assert amber_files.caption_fractions({**facts, "safe": ()}, "a floor")["cover"] == (1, 3)


def stock_scorer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """lmms-eval's copy of the official scorer, with our nouns and no near-synonyms."""
    monkeypatch.setitem(sys.modules, "spacy", types.ModuleType("spacy"))
    utils = importlib.import_module("lmms_eval.tasks.amber_g.utils")
    monkeypatch.setattr(utils, "extract_nouns", str.split)
    monkeypatch.setattr(utils, "check_synonyms_word", lambda first, second, threshold: False)
    return utils


@official
def test_captions_count_as_lmms_eval_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = stock_scorer(monkeypatch)
    relation = json.loads(gzip.decompress((OFFICIAL / "relation.json.gz").read_bytes()))
    annotations = json.loads(gzip.decompress((OFFICIAL / "annotations.json.gz").read_bytes()))
    safe = (OFFICIAL / "safe_words.txt").read_text().split()
    words = sorted({word for line in relation.items() for word in (line[0], *line[1])})
    lines = tuple(", ".join((word, *related)) for word, related in relation.items())
    draw = random.Random(0)
    kinds = ("chair", "safe_cover", "hallu_cover", "non_hallu")
    theirs = {f"{kind}_{end}": 0 for kind in kinds for end in ("score", "num")}
    ours = Counter[str]()
    for row in annotations[:1004]:
        near = [*row["truth"], *row["hallu"], *(w for o in row["truth"] for w in relation[o])]
        names = [draw.choice(near if draw.random() < 0.7 else words) for _ in range(8)]
        item = {"question_id": row["id"], "text": " ".join(names)}
        utils.process_generative_task(item, row, relation, set(words), safe, 0.8, theirs)
        facts = {"truth": tuple(row["truth"]), "hallu": tuple(row["hallu"]), "relation": lines,
                 "safe": tuple(safe)}  # fmt: skip
        for name, (top, bottom) in amber_files.noun_fractions(names, facts, 8).items():
            ours[f"{name} top"] += int(top)
            ours[f"{name} bottom"] += int(bottom)
    assert theirs["chair_score"] > 500 and theirs["hallu_cover_score"] > 500
    assert (ours["chair top"], ours["chair bottom"]) == (
        theirs["chair_score"],
        theirs["chair_num"],
    )
    assert (ours["cover top"], ours["cover bottom"]) == (
        theirs["safe_cover_score"],
        theirs["safe_cover_num"],
    )
    assert (ours["cog top"], ours["cog bottom"]) == (
        theirs["hallu_cover_score"],
        theirs["hallu_cover_num"],
    )
    assert ours["hal bottom"] - ours["hal top"] == theirs["non_hallu_score"]


def test_cog_is_better_low_which_lmms_eval_has_the_other_way() -> None:
    import lmms_eval.tasks

    text = (Path(lmms_eval.tasks.__file__).parent / "amber_g" / "amber_g.yaml").read_text()
    text = text.replace("!function ", "")
    theirs = {row["metric"]: row["higher_is_better"] for row in yaml.safe_load(text)["metric_list"]}
    assert theirs["amber_cog"] is True
    assert tasks.info("amber").metrics["cog"] is False
    assert theirs["amber_chair"] is tasks.info("amber").metrics["chair"] is False


# --- Yes-no questions ------------------------------------------------------------------------


def test_answers_by_hand() -> None:
    truths = ["no", "no", "no", "yes", "yes"]
    replies = ["No.", "Yes", "hard to say", "no, it is not", "Yes, it is not grey"]
    parts = [
        amber_files.answer_fractions(truth, answer)
        for truth, answer in zip(truths, replies, strict=True)
    ]
    assert scores(parts) == {  # positive is no: one hit, one false alarm, two missed
        "f1": pytest.approx(2 / 5),
        "accuracy": pytest.approx(2 / 5),
        "precision": pytest.approx(1 / 2),
        "recall": pytest.approx(1 / 3),
        "yes_rate": pytest.approx(2 / 5),
        "unparsed": pytest.approx(1 / 5),
    }


def test_answers_against_scikit_learn() -> None:
    draw = random.Random(1)
    truths, replies = ([draw.choice(["yes", "no"]) for _ in range(200)] for _ in range(2))
    ours = scores(
        [amber_files.answer_fractions(t, g) for t, g in zip(truths, replies, strict=True)]
    )
    precision, recall, f1, _ = precision_recall_fscore_support(
        truths, replies, pos_label="no", average="binary"
    )
    assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx((precision, recall, f1))
    assert ours["accuracy"] == pytest.approx(accuracy_score(truths, replies))


@official
def test_official_counts_and_constant_answers() -> None:
    annotations = json.loads(gzip.decompress((OFFICIAL / "annotations.json.gz").read_bytes()))
    questions = [row for row in annotations if row["type"] != "generative"]
    assert len(annotations) == 15220 and len(questions) == 14216
    assert Counter(row["truth"] for row in questions) == {"no": 9427, "yes": 4789}
    sizes = Counter(amber_files.KINDS[row["type"]] for row in questions)
    assert sizes == {
        "existence": 4924,
        "attribute: state": 4764,
        "attribute: number": 2072,
        "attribute: action": 792,
        "relation": 1664,
    }
    never = scores([amber_files.answer_fractions(row["truth"], "No") for row in questions])
    always = scores([amber_files.answer_fractions(row["truth"], "Yes") for row in questions])
    assert never["accuracy"] == never["precision"] == 9427 / 14216
    assert (never["recall"], never["f1"]) == (1, pytest.approx(2 * 9427 / (9427 + 14216)))
    assert always["accuracy"] == 4789 / 14216
    assert always["f1"] == always["precision"] == always["recall"] == 0
    # Each of relation's two types has one answer only: apart, a constant answer is perfect.
    relations = [(row["type"], row["truth"]) for row in questions if "relation" in row["type"]]
    assert Counter(relations) == {("discriminative-relation", "yes"): 975, ("relation", "no"): 689}


# --- The score of both -----------------------------------------------------------------------


def test_the_score_joins_both_halves_by_hand() -> None:
    terms: list[metrics.ContrastTerm] = [(False, 1, 4), (False, 0, 1), (True, 2, 3), (True, 0, 1)]
    value = (2 / 4 + 1 - 1 / 5) / 2
    assert metrics.contrast(terms) == pytest.approx(value)
    parts = metrics.contrast.fractions(terms)
    # The delta method by hand: top - centre * bottom, by the bottoms' sum, half, times the items.
    assert parts[0] == (pytest.approx(value - 4 / 2 * (1 - 4 / 5) / 5), 1)
    assert parts[2] == (pytest.approx(value + 4 / 2 * (2 - 3 / 2) / 4), 1)


def test_captions_that_name_nothing_have_no_hallucination() -> None:
    assert metrics.contrast([(False, 0, 0), (True, 2, 2)]) == 1.0
    with pytest.raises(UserError, match="needs items of both"):
        metrics.contrast([(True, 2, 2)])
