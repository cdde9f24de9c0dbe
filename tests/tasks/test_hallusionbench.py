"""HallusionBench: groups by hand, the official file, constant answers, verdicts, and mistakes."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import SHARED
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.tasks import hallusionbench, metrics

OFFICIAL = SHARED / "official_json/hallusionbench/HallusionBench.json.gz"
official = pytest.mark.skipif(not OFFICIAL.is_file(), reason="no shared/data beside the repository")
AGGREGATIONS: dict[str, Callable[[Any], float]] = {
    **dict.fromkeys(("aAcc", "easy", "yes_rate", "unparsed"), metrics.ratio),
    **dict.fromkeys(("fAcc", "qAcc", "hard"), metrics.group_accuracy),
}


def row(category: str, figure: int, question: int, label: int, **changes: Any) -> dict[str, Any]:
    has_figure = category == "VD" or figure > 0
    return {
        "category": category,
        "subcategory": "map",
        "visual_input": str(int(has_figure)),
        "set_id": "0",
        "figure_id": str(figure),
        "sample_note": "a note",
        "question_id": str(question),
        "question": f"Is it {question}?",
        "gt_answer_details": "It is.",
        "gt_answer": str(label),
        "filename": f"./{category}/map/0_{figure}.png" if has_figure else None,
        **changes,
    }


ROWS = [
    *(row("VD", figure, question, question) for figure in (0, 1) for question in (0, 1)),
    *(row("VS", figure, question, 1) for figure in (0, 1, 2) for question in (0, 1)),
]


def write(root: Path, rows: list[dict[str, Any]]) -> Path:
    root.mkdir(exist_ok=True)
    (root / "HallusionBench.json").write_text(json.dumps(rows))
    for name in {row["filename"] for row in rows if row.get("filename")}:
        path = root / "hallusion_bench" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    return root


def scores(corpus: Corpus, answer: Callable[[Any], str]) -> dict[str, float]:
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    results = [hallusionbench.process_results(doc, [answer(doc)]) for doc in docs]
    assert set(AGGREGATIONS) == set(tasks.info("hallusionbench").metrics)
    return {
        name: aggregate([result[name] for result in results if name in result])
        for name, aggregate in AGGREGATIONS.items()
    }


# --- Scores ----------------------------------------------------------------------------------


def test_groups_by_hand(tmp_path: Path) -> None:
    corpus = hallusionbench.load(write(tmp_path / "data", ROWS))
    wrong = {"VD/map/0/1/1", "VS/map/0/0/0", "VS/map/0/2/1"}

    def answer(doc: Any) -> str:
        right = doc["answers"][0]
        return {"yes": "No", "no": "Yes"}[right] if doc["id"] in wrong else f"{right}, it is so."

    assert scores(corpus, answer) == {
        "aAcc": pytest.approx(7 / 10),
        "fAcc": pytest.approx(2 / 4),  # VD/0 and VS/1 complete; VS/0 is no figure
        "qAcc": pytest.approx(1 / 4),  # only VD question 0 right in both of its figures
        "easy": pytest.approx(3 / 4),
        "hard": pytest.approx(2 / 4),  # VD question 0, VS question 0
        "yes_rate": pytest.approx(5 / 10),
        "unparsed": 0.0,
    }


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes, the two lines are not parallel.", "yes"),
        ("no", "no"),
        ("No, that is unclear.", "no"),
        ("The circles are not of one size.", "no"),
        ("I am not sure.", None),
        ("It cannot be determined from the chart", None),
        ("I don't know", None),
        ("Switzerland", None),
        ("", None),
    ],
)
def test_reading_answers(answer: str, read: str | None) -> None:
    assert hallusionbench.label_of(answer) == read


def test_not_to_know_is_right_where_there_is_no_figure(tmp_path: Path) -> None:
    corpus = hallusionbench.load(write(tmp_path / "data", ROWS))
    unsure = scores(corpus, lambda doc: "I cannot tell.")
    assert unsure["aAcc"] == pytest.approx(2 / 10) and unsure["easy"] == pytest.approx(2 / 4)
    assert unsure["fAcc"] == unsure["hard"] == 0.0 and unsure["unparsed"] == 1.0
    assert scores(corpus, lambda doc: "Switzerland")["aAcc"] == 0.0  # that is no doubt


# --- Parity ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official_set(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("official")
    return hallusionbench.load(write(root, json.loads(gzip.decompress(OFFICIAL.read_bytes()))))


@official
def test_the_official_file_and_constant_answers(official_set: Corpus) -> None:
    test = official_set.splits["test"]
    assert len(test) == 1129 and sum(example.image is not None for example in test) == 951
    assert Counter(example.answers[0] for example in test) == {"no": 645, "yes": 484}
    never, always = (
        scores(official_set, lambda doc, answer=answer: answer) for answer in ("No", "Yes")
    )
    assert never["aAcc"] == 645 / 1129  # 57 % without looking
    assert always["aAcc"] == 484 / 1129
    assert (never["fAcc"], never["qAcc"]) == (pytest.approx(42 / 346), pytest.approx(88 / 455))
    assert (always["fAcc"], always["qAcc"]) == (pytest.approx(25 / 346), pytest.approx(18 / 455))
    assert scores(official_set, lambda doc: doc["answers"][0])["qAcc"] == 1.0


@official
def test_equal_to_lmms_eval_without_its_judge(
    official_set: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On plain yes and no; its judge-free rule takes whatever lacks a yes for a no."""
    stock = pytest.importorskip("lmms_eval.tasks.hallusion_bench.evaluate_hb")
    rows = json.loads(gzip.decompress(OFFICIAL.read_bytes()))
    with_figure = [row for row in rows if row["filename"]]  # it is given only these
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
    ids = ["/".join(row[key] for key in keys) for row in with_figure]
    entries = [example for example in official_set.splits["test"] if example.id in ids]
    corpus = Corpus("hallusionbench", official_set.root, (), False, {"test": tuple(entries)}, "")
    replies = {id: ("Yes", "No", "Yes.", "no")[hash_of(id) % 4] for id in ids}
    ours = scores(corpus, lambda doc: replies[doc["id"]])
    for name in ("aAcc", "fAcc", "qAcc"):
        answered = [
            {**row, "model_prediction": replies[id]}
            for row, id in zip(with_figure, ids, strict=True)
        ]
        assert ours[name] == pytest.approx(stock.hb_aggregation_result_intern(answered, name))
    silent = [{**row, "model_prediction": ""} for row in with_figure]
    assert stock.hb_aggregation_result_intern(silent, "aAcc") == pytest.approx(550 / 951)
    assert scores(corpus, lambda doc: "")["aAcc"] == 0.0


def hash_of(id: str) -> int:
    return sum(map(ord, id))


# --- Verdicts --------------------------------------------------------------------------------


def verdicts(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_judges_verdicts_are_used_for_the_answers_they_were_given_on(tmp_path: Path) -> None:
    root = write(tmp_path / "data", ROWS[3:5])
    judged = [
        {"id": "VD/map/0/1/1", "answer": "Three of them.", "verdict": "correct"},
        {"id": "VS/map/0/0/0", "answer": "Maybe.", "verdict": "unclear"},
        {"id": "VS/map/0/0/0", "answer": "Never.", "verdict": "incorrect"},
    ]
    path = verdicts(tmp_path / "judged.jsonl", judged)
    corpus = hallusionbench.load(root, verdicts=path)
    assert corpus.notes == {"scored by": "verdicts"}
    assert hallusionbench.load(root).notes == {"scored by": "words"}

    def said(last: str) -> Callable[[Any], str]:
        return lambda doc: "Three of them." if doc["id"].startswith("VD") else last

    assert scores(corpus, said("Maybe."))["aAcc"] == 1.0  # unclear is right without a figure
    assert scores(corpus, said("Never."))["aAcc"] == 0.5
    with pytest.raises(UserError, match=r"none on this answer to VS/map/0/0/0: 'Always\.'"):
        scores(corpus, said("Always."))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "answer": "b", "verdict": "right"}], r"1: verdict 'right', allowed are corr"),
        ([{"id": "a", "verdict": "correct"}], r"1: no 'answer'; a line is \{"),
        ([{"answer": "b", "verdict": "correct"}], r"1: 'id' must be a string or a number"),
        (
            [{"id": "a", "answer": "b", "verdict": v} for v in ("correct", "unclear")],
            r"2: a second, different verdict of the same answer: unclear",
        ),
    ],
)
def test_malformed_verdicts(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    root = write(tmp_path / "data", ROWS)
    with pytest.raises(UserError, match=message):
        hallusionbench.load(root, verdicts=verdicts(tmp_path / "judged.jsonl", rows))
    with pytest.raises(UserError, match="No file of verdicts at nowhere"):
        hallusionbench.load(root, verdicts="nowhere")


# --- Reading ---------------------------------------------------------------------------------


def test_the_official_layout(tmp_path: Path) -> None:
    root = write(tmp_path / "data", ROWS)
    corpus = hallusionbench.load(root)
    first, blind = corpus.splits["test"][0], corpus.splits["test"][4]
    assert (first.id, first.cluster, first.subset) == ("VD/map/0/0/0", "VD/map/0", "VD: map")
    assert first.image == root / "hallusion_bench" / "VD" / "map" / "0_0.png"
    assert (first.answers, first.choices) == (("no",), ("yes", "no"))
    assert (blind.id, blind.image, blind.answers) == ("VS/map/0/0/0", None, ("yes",))
    before = corpus.revision
    (root / "hallusion_bench" / "VD").rename(root / "VD")
    assert hallusionbench.load(root).revision == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gt_answer": "2"}, r"row 1: gt_answer '2', allowed are 0, 1"),
        ({"category": "VX"}, r"row 1: category 'VX', allowed are VD, VS"),
        ({"filename": None}, r"row 1: no 'filename' of the figure"),
        ({"set_id": None}, r"row 1: 'set_id' must be a string or a number"),
    ],
)
def test_malformed_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hallusionbench.load(write(tmp_path / "data", [{**ROWS[0], **change}]))


def test_missing_files_and_figures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No HallusionBench\.json in"):
        hallusionbench.load(tmp_path)
    root = write(tmp_path / "data", ROWS)
    (root / "hallusion_bench" / "VD" / "map" / "0_1.png").unlink()
    with pytest.raises(UserError, match="4 of 10 rows of test cannot be used: VD/map/0/0/0"):
        hallusionbench.load(root)  # the complete set goes, for its groups would be cut
    assert len(hallusionbench.load(root, max_bad=0.4).splits["test"]) == 6


def test_a_hub_copy_becomes_the_official_tree(tmp_path: Path) -> None:
    source = write(tmp_path / "data", ROWS)
    copy = []
    for row in ROWS:
        path = source / "hallusion_bench" / (row["filename"] or "")
        picture = {"bytes": path.read_bytes()} if row["filename"] else None
        copy.append({**row, "image": picture, "__split__": "image"})
    hallusionbench.write_official(iter(copy), tmp_path / "made")
    built, before = hallusionbench.load(tmp_path / "made"), hallusionbench.load(source)
    assert built.revision == before.revision
    assert json.loads((tmp_path / "made" / "HallusionBench.json").read_text()) == ROWS
