"""TextVQA and ScienceQA: official layouts, bad input, scores, hub copies."""

import json
from pathlib import Path
from typing import Any

import pytest
from question_files import (
    VQA,
    Change,
    Row,
    bytes_of,
    docs,
    edit,
    hub,
    value,
    write_gqa,
    write_scienceqa,
    write_textvqa,
    write_vqa,
)

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.tasks import gqa, scienceqa, textvqa, vqav2
from steelyard.tasks._shared import official

# --- TextVQA ---------------------------------------------------------------------------------


def test_textvqa(tmp_path: Path) -> None:
    corpus = textvqa.load(write_textvqa(tmp_path))
    first = corpus.splits["test"][0]
    assert (first.id, first.text, first.cluster) == ("30", "what Brand is 0?", "ab0")
    assert first.image == tmp_path / "train_images" / "ab0.jpg"
    assert corpus.notes == {"part": "val", "ocr": "none"}
    assert value(textvqa, corpus, "Nokia") == 1  # four of ten, three of nine at least
    assert value(textvqa, corpus, "cat 's") == 1  # the official form parts the 's
    assert value(textvqa, corpus, "cats") == 0


def test_textvqa_ocr_tokens_are_another_setting(tmp_path: Path) -> None:
    plain = textvqa.load(write_textvqa(tmp_path))
    corpus = textvqa.load(tmp_path, ocr="tokens")
    assert corpus.splits["test"][2].text == "what Brand is 2?\nReference OCR token: NOKIA, 1"
    assert corpus.notes == {"part": "val", "ocr": "tokens"}
    assert corpus.revision != plain.revision
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    with pytest.raises(UserError, match=r"No TextVQA_Rosetta_OCR_v0\.2_val\.json in"):
        textvqa.load(tmp_path, ocr="tokens")
    assert textvqa.load(tmp_path).revision == plain.revision


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[1].pop("answers"), "row 2 has no 'answers': .* part=val"),
        (lambda data: data[1].update(answers=[None]), "row 2: 'answers' must be a list of answers"),
        (lambda data: data[1].update(question=""), "row 2: 'question' must be a string"),
        (lambda data: data[1].pop("question_id"), "'question_id' must be a string or a number"),
        (lambda data: data.append("x"), "row 4: expected an object, found str"),
    ],
)
def test_textvqa_malformed(tmp_path: Path, change: Change, message: str) -> None:
    write_textvqa(tmp_path)
    edit(tmp_path / "TextVQA_0.5.1_val.json", lambda content: change(content["data"]))
    with pytest.raises(UserError, match=message):
        textvqa.load(tmp_path)


def test_textvqa_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown part of textvqa 'vall'. Did you mean 'val'"):
        textvqa.load(tmp_path, part="vall")
    with pytest.raises(UserError, match=r"Unknown ocr of textvqa 'yes'. Known: none, tokens"):
        textvqa.load(tmp_path, ocr="yes")


def test_textvqa_hub_copy(tmp_path: Path) -> None:
    write_textvqa(tmp_path / "tree")
    tree = textvqa.load(tmp_path / "tree", ocr="tokens")
    rows = [
        {
            "question_id": int(example.id),
            "image_id": example.cluster,
            "image": bytes_of(example.image),
            "question": str(example.text).partition("\n")[0],
            "answers": list(example.answers),
            "ocr_tokens": str(example.text).partition(": ")[2].split(", "),
        }
        for example in tree.splits["test"]
    ]
    hidden = [{**row, "answers": [""] * 10} for row in rows]
    built = tmp_path / "made"
    textvqa.write_official(iter([*hub(rows, "validation"), *hub(hidden, "test")]), built)
    assert textvqa.load(built, ocr="tokens").revision == tree.revision
    assert textvqa.load(built).notes["ocr"] == "none"
    with pytest.raises(UserError, match="has no 'answers': those of test are not public"):
        textvqa.load(built, part="test")


# --- ScienceQA -------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["images/", ""])
def test_scienceqa(tmp_path: Path, folder: str) -> None:
    corpus = scienceqa.load(write_scienceqa(tmp_path, folder))
    result = {split: [example.id for example in rows] for split, rows in corpus.splits.items()}
    assert result == {"train": ["2", "6"], "val": ["3", "7"], "test": ["1", "4", "5", "8"]}
    one, _, five, eight = corpus.splits["test"]
    assert (one.subset, five.subset, five.image) == ("image", "text_only", None)
    assert one.image == tmp_path / f"{folder}test" / "1" / "image.png"
    assert five.text == "Context: Stones are hard.\nWhich is 5?"
    assert (eight.answers, eight.choices) == (("B",), ("A", "B", "C"))


def test_scienceqa_options_belong_to_the_instruction(tmp_path: Path) -> None:
    doc = docs(scienceqa.load(write_scienceqa(tmp_path)))[2]
    options = "A. stone\nB. wood"
    instruction = "Answer with the option's letter from the given choices directly."
    assert tasks.prompt("scienceqa", doc) == f"{doc['text']}\n{options}\n{instruction}"
    assert tasks.prompt("scienceqa", {**doc, "text": None}) == f"{options}\n{instruction}"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True), ("b", True), ("B.", True), ("B. wood", True), ("(B)", True), ("b) wood", True),
        ("B: wood", True), ("The answer is B.", True), ("A", False), ("wood", False),
        ("Before all, wood", False), ("", False), ("D", False),
    ],
)  # fmt: skip
def test_scienceqa_reads_letters(tmp_path: Path, answer: str, right: bool) -> None:
    doc = docs(scienceqa.load(write_scienceqa(tmp_path)))[3]
    result: Any = scienceqa.process_results(doc, [answer])
    assert result["accuracy"] == (right, 1)
    assert result["unparsed"] == (not right and answer != "A", 1)
    assert result["language_accuracy"] == (right, 1) and "natural_accuracy" not in result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["4"].update(answer=3), "problem 4: 'answer' must be .* its 3 choices"),
        (lambda rows: rows["4"].update(answer="A"), "problem 4: 'answer' must be"),
        (lambda rows: rows["4"].update(choices="abc"), "problem 4: 'choices' must be a list"),
        (lambda rows: rows.update({"4": 1}), "problem 4: expected an object, found int"),
        (lambda rows: rows.pop("4"), "no problem 4, one of 1 that test .* different versions"),
    ],
)
def test_scienceqa_malformed(tmp_path: Path, change: Change, message: str) -> None:
    write_scienceqa(tmp_path)
    edit(tmp_path / "problems.json", change)
    with pytest.raises(UserError, match=message):
        scienceqa.load(tmp_path)


def test_scienceqa_missing_files(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    (tmp_path / "images" / "test" / "4" / "image.png").unlink()
    with pytest.raises(UserError, match=r"1 of 4 .* 4 \(image missing: images/test/4/image\.png"):
        scienceqa.load(tmp_path)
    assert len(scienceqa.load(tmp_path, max_bad=0.25).splits["test"]) == 3
    edit(tmp_path / "pid_splits.json", lambda ids: ids.pop("val"))
    with pytest.raises(UserError, match=r"pid_splits\.json: 'val' must be a list of ids"):
        scienceqa.load(tmp_path)
    (tmp_path / "pid_splits.json").unlink()
    with pytest.raises(UserError, match=r"No pid_splits\.json in"):
        scienceqa.load(tmp_path)


def test_scienceqa_hub_copy(tmp_path: Path) -> None:
    """Rows of the copy have no numbers and its second configuration is a part of the first."""
    tree = scienceqa.load(write_scienceqa(tmp_path / "tree"))
    problems = json.loads((tmp_path / "tree/problems.json").read_text())
    rows: list[Row] = []
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        for example in tree.splits[split]:
            image = bytes_of(example.image) if example.image else None
            row = {**problems[example.id], "image": image}
            rows += hub([row], name, "ScienceQA-FULL")
    part = [{**row, official.CONFIG: "ScienceQA-IMG"} for row in rows if row["image"]]
    scienceqa.write_official(iter([*rows, *part]), tmp_path / "made")
    built = scienceqa.load(tmp_path / "made")

    def content(corpus: Corpus) -> dict[str, list[Any]]:
        return {
            split: [(e.text, e.answers, e.choices, e.subset, dict(e.facts)) for e in rows]
            for split, rows in corpus.splits.items()
        }

    assert content(built) == content(tree)
    assert [example.id for example in built.splits["test"]] == ["5", "6", "7", "8"]


# --- all of them -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "write", "name"),
    [
        (vqav2, write_vqa, VQA[0].format("val2014")),
        (gqa, write_gqa, "testdev_balanced_questions.json"),
        (textvqa, write_textvqa, "TextVQA_0.5.1_val.json"),
        (scienceqa, write_scienceqa, "problems.json"),
    ],
)
def test_broken_files_name_the_line(tmp_path: Path, module: Any, write: Any, name: str) -> None:
    with pytest.raises(UserError, match="No data folder at"):
        module.load(tmp_path / "absent")
    write(tmp_path)
    text = json.dumps(json.loads((tmp_path / name).read_text()), indent=1)
    (tmp_path / name).write_text(text[: len(text) // 2])
    line = text[: len(text) // 2].count("\n") + 1
    with pytest.raises(UserError, match=rf"{name}:{line}: not valid JSON"):
        module.load(tmp_path)


@pytest.mark.parametrize(
    ("module", "write", "image"),
    [
        (vqav2, write_vqa, "val2014/COCO_val2014_000000000041.jpg"),
        (gqa, write_gqa, "images/n1.jpg"),
        (textvqa, write_textvqa, "train_images/ab1.jpg"),
    ],
)
def test_questions_without_their_image(tmp_path: Path, module: Any, write: Any, image: str) -> None:
    complete = module.load(write(tmp_path))
    (tmp_path / image).unlink()
    with pytest.raises(UserError, match=rf"image missing: {image}"):
        module.load(tmp_path)
    entries = module.load(tmp_path, max_bad=0.5).splits["test"]
    assert 0 < len(entries) < len(complete.splits["test"])
