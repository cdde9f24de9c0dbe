"""AMBER: both halves by hand, the official files, and lmms-eval's scorer on the same captions."""

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
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from steelyard import tasks
from steelyard.harness import world_sets
from steelyard.harness.errors import UserError
from steelyard.tasks import _amber, amber, amber_discriminative, amber_generative, metrics

OFFICIAL = Path(__file__).parents[2] / "shared" / "data" / "official_json" / "amber"
official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
RELATION = {"dog": [], "cat": [], "grass": ["ground"], "person": ["man", "people"], "ball": [],
            "ground": ["floor"], "bin": ["can"]}  # fmt: skip
LINES = tuple(", ".join((word, *related)) for word, related in RELATION.items())
SAFE = ("light",)
TYPES = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute: state",
    "discriminative-attribute-number": "attribute: number",
    "discriminative-attribute-action": "attribute: action",
    "discriminative-relation": "relation",
    "relation": "relation",
}


def write(root: Path, name: str, content: Any) -> None:
    (root / "data" / "query").mkdir(parents=True, exist_ok=True)
    (root / "data" / name).write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, a caption each, and a question of every official type."""
    root = tmp_path / "AMBER"
    captions = [
        {"id": n, "image": f"AMBER_{n}.jpg", "query": "Describe this image."} for n in (1, 2)
    ]
    objects = {"truth": ["dog", "grass", "person"], "hallu": ["cat", "ball"]}
    annotations: list[dict[str, Any]] = [{"id": n, "type": "generative", **objects} for n in (1, 2)]
    questions = []
    for number, kind in enumerate(TYPES, start=3):
        questions.append({"id": number, "image": "AMBER_1.jpg", "query": f"Is it {number}?"})
        annotations.append({"id": number, "type": kind, "truth": ("yes", "no")[number % 2]})
    write(root, "query/query_generative.json", captions)
    write(root, "query/query_discriminative.json", questions)
    write(root, "annotations.json", annotations)
    write(root, "relation.json", RELATION)
    (root / "data" / "safe_words.txt").write_text("light\n")
    (root / "image").mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8), "red").save(root / "image" / f"AMBER_{number}.jpg")
    return root


def scores(parts: list[dict[str, Any]]) -> dict[str, float]:
    return {name: metrics.ratio([part[name] for part in parts]) for name in parts[0]}


# --- Captions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "found"),
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
def test_words_of_the_vocabulary(caption: str, found: list[str]) -> None:
    assert _amber.nouns(caption, LINES) == found


FACTS = {"truth": ("dog", "grass", "person"), "hallu": ("cat", "ball"), "relation": LINES,
         "safe": ("floor",)}  # fmt: skip


def test_captions_by_hand() -> None:
    given = [
        "A dog on the ground with a cat and a ball.",  # dog, grass; cat and ball are invented
        "A man on the floor beside a bin.",  # person; floor is safe; bin is invented, not dreamt
        "Nothing to see.",
    ]
    parts = [_amber.caption_shares(FACTS, caption) for caption in given]
    assert scores(parts) == {
        "chair": pytest.approx(3 / 7),  # dog ground cat ball, man floor bin
        "cover": pytest.approx(3 / 9),
        "hal": pytest.approx(2 / 3),
        "cog": pytest.approx(2 / 6),
        "length": pytest.approx((11 + 8 + 3) / 3),
    }


def test_a_word_stands_for_the_first_object_it_is_related_to() -> None:
    facts = {**FACTS, "truth": ("grass", "ground", "ground")}
    both = _amber.caption_shares(facts, "ground and more ground")
    assert both["cover"] == (1, 3) and both["chair"] == (0, 2)  # officially grass, twice
    assert _amber.caption_shares(facts, "a floor")["cover"] == (0, 3)  # a safe word covers nothing
    assert _amber.caption_shares({**facts, "safe": ()}, "a floor")["cover"] == (1, 3)


def stock_scorer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """lmms-eval's copy of the official scorer, with our nouns and no near-synonyms."""
    monkeypatch.setitem(sys.modules, "spacy", types.ModuleType("spacy"))
    utils = importlib.import_module("lmms_eval.tasks.amber_g.utils")
    monkeypatch.setattr(utils, "extract_nouns", str.split)
    monkeypatch.setattr(utils, "check_synonyms_word", lambda one, other, threshold: False)
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
        named = [draw.choice(near if draw.random() < 0.7 else words) for _ in range(8)]
        item = {"question_id": row["id"], "text": " ".join(named)}
        utils.process_generative_task(item, row, relation, set(words), safe, 0.8, theirs)
        facts = {"truth": tuple(row["truth"]), "hallu": tuple(row["hallu"]), "relation": lines,
                 "safe": tuple(safe)}  # fmt: skip
        for name, (top, bottom) in _amber.weigh(named, facts, 8).items():
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
    given = ["No.", "Yes", "hard to say", "no, it is not", "Yes, it is not grey"]
    parts = [
        _amber.answer_shares(truth, answer) for truth, answer in zip(truths, given, strict=True)
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
    truths, given = ([draw.choice(["yes", "no"]) for _ in range(200)] for _ in range(2))
    ours = scores([_amber.answer_shares(t, g) for t, g in zip(truths, given, strict=True)])
    precision, recall, f1, _ = precision_recall_fscore_support(
        truths, given, pos_label="no", average="binary"
    )
    assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx((precision, recall, f1))
    assert ours["accuracy"] == pytest.approx(accuracy_score(truths, given))


@official
def test_official_counts_and_constant_answers() -> None:
    annotations = json.loads(gzip.decompress((OFFICIAL / "annotations.json.gz").read_bytes()))
    asked = [row for row in annotations if row["type"] != "generative"]
    assert len(annotations) == 15220 and len(asked) == 14216
    assert Counter(row["truth"] for row in asked) == {"no": 9427, "yes": 4789}
    sizes = Counter(_amber.KINDS[row["type"]] for row in asked)
    assert sizes == {
        "existence": 4924,
        "attribute: state": 4764,
        "attribute: number": 2072,
        "attribute: action": 792,
        "relation": 1664,
    }
    never = scores([_amber.answer_shares(row["truth"], "No") for row in asked])
    always = scores([_amber.answer_shares(row["truth"], "Yes") for row in asked])
    assert never["accuracy"] == never["precision"] == 9427 / 14216
    assert (never["recall"], never["f1"]) == (1, pytest.approx(2 * 9427 / (9427 + 14216)))
    assert always["accuracy"] == 4789 / 14216
    assert always["f1"] == always["precision"] == always["recall"] == 0
    # Each of relation's two types has one answer only: apart, a constant answer is perfect.
    relations = [(row["type"], row["truth"]) for row in asked if "relation" in row["type"]]
    assert Counter(relations) == {("discriminative-relation", "yes"): 975, ("relation", "no"): 689}


@official
def test_the_official_files_load_in_their_tree(tmp_path: Path) -> None:
    (tmp_path / "data" / "query").mkdir(parents=True)
    for name in ("annotations", "relation"):
        (tmp_path / "data" / f"{name}.json.gz").symlink_to(OFFICIAL / f"{name}.json.gz")
    for name in ("query_generative", "query_discriminative"):
        (tmp_path / "data" / "query" / f"{name}.json.gz").symlink_to(OFFICIAL / f"{name}.json.gz")
    (tmp_path / "data" / "safe_words.txt").symlink_to(OFFICIAL / "safe_words.txt")
    (tmp_path / "image").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "image" / "AMBER_1.jpg")
    for number in range(2, 1005):
        (tmp_path / "image" / f"AMBER_{number}.jpg").symlink_to("AMBER_1.jpg")
    test = amber.load(tmp_path).splits["test"]
    assert len(test) == 15220 and len({example.cluster for example in test}) == 1004
    assert sum(example.subset == "generative" for example in test) == 1004
    assert sum(example.answers == ("no",) for example in test) == 9427


# --- The score of both -----------------------------------------------------------------------


def test_the_score_joins_both_halves_by_hand() -> None:
    terms: list[metrics.Term] = [(False, 1, 4), (False, 0, 1), (True, 2, 3), (True, 0, 1)]
    value = (2 / 4 + 1 - 1 / 5) / 2
    assert metrics.contrast(terms) == pytest.approx(value)
    parts = metrics.contrast_parts(terms)
    # The delta method by hand: top - centre * bottom, by the bottoms' sum, half, times the items.
    assert parts[0] == (pytest.approx(value - 4 / 2 * (1 - 4 / 5) / 5), 1)
    assert parts[2] == (pytest.approx(value + 4 / 2 * (2 - 3 / 2) / 4), 1)


def test_captions_that_name_nothing_have_no_hallucination() -> None:
    assert metrics.contrast([(False, 0, 0), (True, 2, 2)]) == 1.0
    with pytest.raises(UserError, match="needs items of both"):
        metrics.contrast([(True, 2, 2)])


def test_each_item_reports_the_metrics_of_its_half(folder: Path) -> None:
    corpus = amber.load(folder)
    docs: list[Any] = [tasks.row(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    caption, question = (amber.process_results(doc, ["No dog."]) for doc in (docs[0], docs[2]))
    assert caption.keys() == {"chair", "cover", "hal", "cog", "length", "score", "item"}
    assert (caption["score"], question["score"]) == ((False, 0, 1), (True, 2.0, 2))
    assert question.keys() == {
        *tasks.info("amber_discriminative").metrics,
        *("score", "item"),
    }
    assert {*caption, *question} - {"item"} == set(tasks.info("amber").metrics)


# --- Reading ---------------------------------------------------------------------------------


def test_the_official_layout(folder: Path) -> None:
    corpus = amber.load(folder)
    test = corpus.splits["test"]
    assert [example.id for example in test] == [str(number) for number in range(1, 9)]
    assert [example.subset for example in test] == ["generative"] * 2 + list(TYPES.values())
    assert corpus.notes == {"nouns": "words"}
    first, question = test[0], test[2]
    assert (first.text, first.answers, first.cluster) == (None, (), "AMBER_1.jpg")
    assert first.facts["truth"] == ("dog", "grass", "person") and first.facts["safe"] == ("light",)
    assert first.image == folder / "image" / "AMBER_1.jpg"
    assert (question.text, question.answers, question.choices) == (
        "Is it 3?",
        ("no",),
        ("yes", "no"),
    )
    docs: list[Any] = [tasks.row(corpus, "test", e, e.text) for e in (first, question)]
    assert amber.doc_to_text(docs[0]) == "Describe this image."
    assert amber.doc_to_text(docs[1]).startswith("Is it 3?\nAnswer the question")
    assert (amber.doc_to_target(docs[0]), amber.doc_to_target(docs[1])) == (
        "dog, grass, person",
        "no",
    )


def test_a_half_reads_its_own_queries_and_needs_no_others(folder: Path) -> None:
    assert len(amber_generative.load(folder).splits["test"]) == 2
    assert len(amber_discriminative.load(folder).splits["test"]) == 6
    (folder / "data" / "query" / "query_generative.json").rename(folder / "old")
    assert len(amber_discriminative.load(folder).splits["test"]) == 6
    with pytest.raises(UserError, match="No generative query in"):
        amber.load(folder)


def test_one_file_of_all_queries_and_a_validation_part(folder: Path) -> None:
    before = amber.load(folder).revision
    query = folder / "data" / "query"
    every = [row for name in ("generative", "discriminative")
             for row in json.loads((query / f"query_{name}.json").read_text())]  # fmt: skip
    write(folder, "query/query_all.json", every)
    assert amber.load(folder).revision == before
    (query / "query_all.json").unlink()
    (query / "query_discriminative.json").unlink()
    for name, rows in (
        ("existence", every[2:3]),
        ("attribute", every[3:6]),
        ("relation", every[6:]),
    ):
        write(folder, f"query/query_discriminative-{name}.json", rows)
    assert amber.load(folder).revision == before
    world_sets.write("amber", folder.parent / "made", train=16, test=40)
    made = amber.load(folder.parent / "made")
    assert set(made.splits) == {"test", "val"} and made.splits["val"][0].id == "val/1"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            "annotations.json",
            lambda rows: rows[1:],
            r"annotations\.json has no id 1; .*one version",
        ),
        ("annotations.json", lambda rows: {"rows": rows}, r"annotations\.json: expected a list"),
        (
            "annotations.json",
            lambda rows: [{**rows[0], "type": "gen"}, *rows[1:]],
            r"annotations\.json: row 1: type 'gen', allowed are generative",
        ),
        (
            "annotations.json",
            lambda rows: [{**rows[0], "truth": ["fox"]}, *rows[1:]],
            r"row 1: relation\.json lacks 'fox'",
        ),
        (
            "annotations.json",
            lambda rows: [{"id": 1, "type": "generative"}, *rows[1:]],
            r"row 1: 'truth' lists no object",
        ),
        (
            "annotations.json",
            lambda rows: [*rows[:2], {**rows[2], "truth": "maybe"}, *rows[3:]],
            r"row 3: truth 'maybe', allowed are 'yes' and 'no'",
        ),
        (
            "query/query_generative.json",
            lambda rows: [{"question_id": 1, "image": "a.jpg"}],
            r"query_generative\.json: row 1: 'id' must be a string or a number",
        ),
        ("relation.json", lambda rows: [], r"relation\.json: expected an object"),
    ],
)
def test_files_of_another_version(folder: Path, file: str, change: Any, said: str) -> None:
    write(folder, file, change(json.loads((folder / "data" / file).read_text())))
    with pytest.raises(UserError, match=said):
        amber.load(folder)


def test_missing_and_broken_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No data folder at"):
        amber.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"No data/annotations\.json or annotations\.json in"):
        amber.load(folder / "image")
    (folder / "data" / "query" / "query_generative.json").write_text('[{"id": 1,\n "image": }]')
    with pytest.raises(UserError, match=r"query_generative\.json:2: not valid JSON"):
        amber.load(folder)
    (folder / "data" / "safe_words.txt").unlink()
    with pytest.raises(UserError, match=r"No data/safe_words\.txt or safe_words\.txt in"):
        amber.load(folder)


def test_a_picture_that_is_missing(folder: Path) -> None:
    (folder / "image" / "AMBER_2.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 8 rows of test cannot be used: 2 \(image missing"):
        amber.load(folder)
    assert len(amber.load(folder, max_bad=0.2).splits["test"]) == 7


def test_a_hub_copy_becomes_the_official_tree(folder: Path, tmp_path: Path) -> None:
    picture = (folder / "image" / "AMBER_1.jpg").read_bytes()
    objects = {"truth": ["dog", "grass"], "hallu": ["cat"]}
    rows = ({"question_id": n, "image": {"bytes": picture}, **objects} for n in (1, 2))
    made = tmp_path / "made"
    amber_generative.write_official(rows, made)
    with pytest.raises(UserError, match=r"No data/relation\.json"):
        amber_generative.load(made)
    for name in ("relation.json", "safe_words.txt"):
        (made / "data" / name).write_bytes((folder / "data" / name).read_bytes())
    test = amber_generative.load(made).splits["test"]
    assert [example.id for example in test] == ["1", "2"]
    assert test[0].facts["truth"] == ("dog", "grass")
    assert (made / "image" / "AMBER_2.jpg").read_bytes() == picture
    with pytest.raises(UserError, match="no column truth; its columns are image, question_id"):
        amber_generative.write_official(
            iter([{"question_id": 1, "image": {"bytes": picture}}]), tmp_path / "other"
        )
