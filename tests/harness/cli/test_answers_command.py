"""Answers written for a judge outside, and its verdicts brought back by a loader option."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from steelyard import tasks
from steelyard.harness.cli.evaluate import answer_rows
from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.records import record
from steelyard.harness.records.record import Ledger, Record, Score
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.options import DataOptions, parse_loader_options


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "mmhal"
    (root / "images").mkdir(parents=True)
    rows = [
        {"image_src": f"{n}.jpg", "question": f"What is {n}?", "gt_answer": f"It is {n}."}
        for n in range(3)
    ]
    (root / "response_template.json").write_text(json.dumps(rows))
    for number in range(3):
        Image.new("RGB", (8, 8), "red").save(root / "images" / f"{number}.jpg")
    return root


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    """Write a record of a model that answered the three questions, clean and without images."""
    spec = RunSpec("control", tasks.NOTHING, "tiny-vlm", "XS", 0)
    ledger = Ledger({}, {}, 0, 0, 0, "cpu", None, None, "finished")
    score = Score("mmhal", "clean", "answered", 1.0, 3, None, True, None)
    data_facts = {"revision": tasks.load("mmhal", data).revision, "split": "test"}
    provenance = {"data": {"split": "test"}, "scored": {"mmhal": {"data": data_facts}}}
    folder = tmp_path / "runs" / spec.id
    folder.mkdir(parents=True)
    rows = [
        {"variant": variant, "id": str(n), "cluster": str(n), "answer": f"{variant} {n}"}
        for variant in ("clean", "image-blank")
        for n in range(3)
    ]
    pd.DataFrame(rows).to_parquet(folder / record.items_file("mmhal", spec.task))
    record.write(Record(spec.id, "tiny", spec, "done", "", ledger, (score,), provenance), folder)
    return folder


def options_for(data: Path) -> DataOptions:
    return DataOptions(data_root=(str(data),))


def test_a_line_has_what_a_judge_needs(run: Path, data: Path) -> None:
    lines = answer_rows(run, "mmhal", options_for(data))
    assert lines[1] == {
        "id": "1",
        "question": "What is 1?",
        "references": ["It is 1."],
        "answer": "clean 1",
    }
    blank = answer_rows(run, "mmhal@image-blank", options_for(data))
    assert [line["answer"] for line in blank] == [f"image-blank {n}" for n in range(3)]
    words = ("answers", str(run), "mmhal", "--data-root", str(data))
    printed = CliRunner().invoke(cli, words).output
    assert [json.loads(line) for line in printed.splitlines()] == lines


def test_ratings_of_these_answers_come_back_by_a_loader_option(run: Path, data: Path) -> None:
    rated = data.parent / "rated.jsonl"
    lines = answer_rows(run, "mmhal", options_for(data))
    rated.write_text("".join(json.dumps({**line, "rating": 4}) + "\n" for line in lines))
    corpus = tasks.load("mmhal", data, ratings=str(rated))
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    scored: Any = tasks.module("mmhal")
    assert scored.process_results(docs[2], ["clean 2"])["score"] == (4, 1)


def test_mistakes(run: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"has no answers to mmhal@image-noise:3: steelyard eval"):
        answer_rows(run, "mmhal@image-noise:3", options_for(data))
    with pytest.raises(UserError, match="has no answers to pope"):
        answer_rows(run, "pope", options_for(data))
    Image.new("RGB", (80, 8), "blue").save(data / "images" / "1.jpg")
    with pytest.raises(UserError, match="mmhal test has revision"):
        answer_rows(run, "mmhal", options_for(data))


def test_options_of_several_tasks() -> None:
    assert parse_loader_options(["source=gqa"], ["pope"]) == {"pope": {"source": "gqa"}}
    pairs = ["pope.source=gqa", "mmhal.ratings=a.jsonl"]
    assert parse_loader_options(pairs, ["mmhal", "pope"]) == {
        "pope": {"source": "gqa"},
        "mmhal": {"ratings": "a.jsonl"},
    }
    with pytest.raises(UserError, match=r"with several tasks write TASK\.source="):
        parse_loader_options(["source=gqa"], ["mmhal", "pope"])
    with pytest.raises(UserError, match="Unknown task of --data-set"):
        parse_loader_options(["popes.source=gqa"], ["mmhal", "pope"])
