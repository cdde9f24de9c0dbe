"""NaturalBench: groups of two questions and two images, whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
from naturalbench_files import OPTIONS, Row, group, write

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.tasks import metrics, naturalbench
from steelyard.tasks._shared import official


def docs(corpus: Corpus) -> list[Any]:
    return [
        tasks.document(corpus, "test", example, example.text) for example in corpus.splits["test"]
    ]


def test_a_group_is_four_items(tmp_path: Path) -> None:
    corpus = naturalbench.load(write(tmp_path, [group(0), group(1)]))
    test = corpus.splits["test"]
    assert [item.id for item in test[:4]] == ["0/q0_i0", "0/q0_i1", "0/q1_i0", "0/q1_i1"]
    assert [item.answers[0] for item in test] == ["Yes", "No", "No", "Yes", "A", "B", "B", "A"]
    assert [item.image.name for item in test[:4] if item.image] == [
        "0_0.jpg", "0_1.jpg", "0_0.jpg", "0_1.jpg",
    ]  # fmt: skip
    assert {item.cluster for item in test[4:]} == {"1"}


def test_options_belong_to_the_instruction(tmp_path: Path) -> None:
    yes_no, _, _, _, choice, *_ = docs(naturalbench.load(write(tmp_path, [group(0), group(1)])))
    assert tasks.prompt("naturalbench", yes_no) == "Is it red? Please answer Yes or No."
    suffix = "Please output the letter corresponding to the correct option."
    assert choice["text"] == "Which color is it in 1?"
    assert tasks.prompt("naturalbench", choice) == f"Which color is it in 1?{OPTIONS} {suffix}"
    blanked = {**choice, "text": None}
    assert tasks.prompt("naturalbench", blanked) == f"{OPTIONS.strip()} {suffix}"


@pytest.mark.parametrize(
    "options",
    ["\nOption:A:red;\nOption:B:blue;", " Option A: red; Option B: blue", "\n(A) a (B) b"],
)
def test_options_are_found_however_they_are_marked(tmp_path: Path, options: str) -> None:
    row = group(1, Question_0=f"What color has the A-frame?{options}")
    (first, *_) = docs(naturalbench.load(write(tmp_path, [row])))
    assert first["text"] == "What color has the A-frame?"
    assert tasks.prompt("naturalbench", first).startswith(f"What color has the A-frame?{options} ")


# Right for items 0 to 3 and 4 to 7: in group 0 all but q1 on image 1, in group 1 all.
GIVEN = ["Yes.", "No", "no", "no", "A", "B. blue", "the answer is B", "A"]


def test_group_question_and_image_accuracy_by_hand(tmp_path: Path) -> None:
    rows = docs(naturalbench.load(write(tmp_path, [group(0), group(1)])))
    shares: list[Any] = [
        naturalbench.process_results(doc, [answer]) for doc, answer in zip(rows, GIVEN, strict=True)
    ]
    value = {
        name: metrics.group_accuracy([share[name] for share in shares])
        for name in ("group_accuracy", "question_accuracy", "image_accuracy")
    }
    # Groups: 1 of 2. Questions: q0 of the first and both of the second. Images likewise.
    assert value == {"group_accuracy": 0.5, "question_accuracy": 0.75, "image_accuracy": 0.75}
    assert metrics.ratio([share["accuracy"] for share in shares]) == 7 / 8


def test_saying_yes_always_solves_no_group(tmp_path: Path) -> None:
    rows = docs(naturalbench.load(write(tmp_path, [group(0), group(2)])))
    shares: list[Any] = [naturalbench.process_results(doc, ["yes"]) for doc in rows]
    for name in ("group_accuracy", "question_accuracy", "image_accuracy"):
        assert metrics.group_accuracy([share[name] for share in shares]) == 0
    assert metrics.ratio([share["accuracy"] for share in shares]) == 0.5
    empty: Any = naturalbench.process_results(rows[0], ["a picture"])
    assert (empty["unparsed"], empty["accuracy"]) == ((True, 1), (0.0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Question_Type": "open"}, "Question_Type 'open', allowed are yes_no, multiple"),
        ({"Image_1_Question_0": "A"}, "'Image_1_Question_0' is 'A', allowed are Yes or No"),
        ({"Image_1_Question_0": None}, "'Image_1_Question_0' is None"),
        ({"Question_1": ""}, "'Question_1' must be a string"),
        ({"Image_0": None}, "'Image_0' must be a string"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: Row, message: str) -> None:
    write(tmp_path, [group(1), group(2, **change)])
    with pytest.raises(UserError, match=rf"naturalbench\.jsonl:2: {message}"):
        naturalbench.load(tmp_path)


def test_a_broken_line_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No naturalbench\.jsonl in"):
        naturalbench.load(tmp_path)
    write(tmp_path, [group(0)])
    path = tmp_path / "naturalbench.jsonl"
    path.write_text(path.read_text() + '{"Index": 1,\n')
    with pytest.raises(UserError, match=r"naturalbench\.jsonl:2: not valid JSON"):
        naturalbench.load(tmp_path)


def test_a_lost_image_takes_its_group_along(tmp_path: Path) -> None:
    write(tmp_path, [group(number) for number in range(4)])
    (tmp_path / "images" / "2_1.jpg").unlink()
    message = r"4 of 16 rows .*: 2/q0_i0 \(incomplete group, image missing: images/2_1\.jpg\)"
    with pytest.raises(UserError, match=message):
        naturalbench.load(tmp_path)
    corpus = naturalbench.load(tmp_path, max_bad=0.25)
    assert {item.cluster for item in corpus.splits["test"]} == {"0", "1", "3"}


@pytest.mark.parametrize("by_group", [True, False])
def test_hub_copies_become_the_tree(tmp_path: Path, by_group: bool) -> None:
    """Read the official copy with one group a row, and lmms-eval's with one item a row."""
    tree = naturalbench.load(write(tmp_path / "tree", [group(0), group(1)]))

    def image(number: int, index: int) -> Row:
        path = tmp_path / "tree" / "images" / f"{number}_{index}.jpg"
        return {"bytes": path.read_bytes(), "path": None}

    rows: list[Row] = []
    for content in (group(0), group(1)):
        about = {official.CONFIG: "default", official.SPLIT: "train"}
        kind, number = content["Question_Type"], content["Index"]
        if by_group:
            images = {f"Image_{index}": image(number, index) for index in (0, 1)}
            rows.append({**about, **content, **images})
            continue
        for item, (question, index) in enumerate(naturalbench.ITEMS):
            row = {"Index": 4 * number + item, "Image": image(number, index)}
            row |= {"Question": content[f"Question_{question}"], "Question_Type": kind}
            rows.append({**about, **row, "Answer": content[f"Image_{index}_Question_{question}"]})
    naturalbench.write_official(iter(rows), tmp_path / "made")
    assert naturalbench.load(tmp_path / "made").revision == tree.revision
