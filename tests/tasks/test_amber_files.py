"""AMBER's files: the official tree and versions of it, what is missing, and hub copies."""

import json
from pathlib import Path
from typing import Any

import pytest
from paths import SHARED
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.tasks import amber, amber_discriminative, amber_generative
from steelyard.tasks.world import build

OFFICIAL = SHARED / "official_json" / "amber"
official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
RELATION = {"dog": [], "cat": [], "grass": ["ground"], "person": ["man", "people"], "ball": [],
            "ground": ["floor"], "bin": ["can"]}  # fmt: skip
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
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in (first, question)]
    assert tasks.prompt("amber", docs[0]) == "Describe this image."
    assert tasks.prompt("amber", docs[1]).startswith("Is it 3?\nAnswer the question")
    assert (tasks.target("amber", docs[0]), tasks.target("amber", docs[1])) == (
        "dog, grass, person",
        "no",
    )


def test_each_item_reports_the_metrics_of_its_half(folder: Path) -> None:
    corpus = amber.load(folder)
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    caption, question = (amber.process_results(doc, ["No dog."]) for doc in (docs[0], docs[2]))
    assert caption.keys() == {"chair", "cover", "hal", "cog", "length", "score", "item"}
    assert (caption["score"], question["score"]) == ((False, 0, 1), (True, 2.0, 2))
    assert question.keys() == {
        *tasks.info("amber_discriminative").metrics,
        *("score", "item"),
    }
    assert {*caption, *question} - {"item"} == set(tasks.info("amber").metrics)


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
    build.write(build.WorldSpec("amber", train=16, test=40), folder.parent / "made")
    built = amber.load(folder.parent / "made")
    assert set(built.splits) == {"test", "val"} and built.splits["val"][0].id == "val/1"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "annotations.json",
            lambda rows: rows[1:],
            r"annotations\.json has no id 1; .*one version",
        ),
        (
            "annotations.json",
            lambda rows: {"rows": rows},
            r"annotations\.json:1: 'id' must be a string",
        ),
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
            r"row 3: truth 'maybe', allowed are yes, no",
        ),
        (
            "query/query_generative.json",
            lambda rows: [{"question_id": 1, "image": "a.jpg"}],
            r"query_generative\.json: row 1: 'id' must be a string or a number",
        ),
        ("relation.json", lambda rows: [], r"relation\.json: expected an object"),
    ],
)
def test_files_of_another_version(folder: Path, file: str, change: Any, message: str) -> None:
    write(folder, file, change(json.loads((folder / "data" / file).read_text())))
    with pytest.raises(UserError, match=message):
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
    built = tmp_path / "made"
    amber_generative.write_official(rows, built)
    with pytest.raises(UserError, match=r"No data/relation\.json"):
        amber_generative.load(built)
    for name in ("relation.json", "safe_words.txt"):
        (built / "data" / name).write_bytes((folder / "data" / name).read_bytes())
    test = amber_generative.load(built).splits["test"]
    assert [example.id for example in test] == ["1", "2"]
    assert test[0].facts["truth"] == ("dog", "grass")
    assert (built / "image" / "AMBER_2.jpg").read_bytes() == picture
    with pytest.raises(UserError, match="no column truth; its columns are image, question_id"):
        amber_generative.write_official(
            iter([{"question_id": 1, "image": {"bytes": picture}}]), tmp_path / "other"
        )
