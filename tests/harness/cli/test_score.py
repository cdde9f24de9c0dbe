"""Items for models elsewhere, and their answers scored as a record like any other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stock_data
from board_factory import board_of
from command import Command
from PIL import Image

from steelyard.harness.records import record
from steelyard.harness.records.record import Score

VARIANT = "pope@image-noise:3"


def exported(steelyard: Command, world: Path, folder: Path, task: str = "pope") -> Any:
    """Export the items of a variant; return them and a call of ``score`` with these rows."""
    root = ("--data-root", str(world / task), "--limit", "12")
    variant = VARIANT if task == "pope" else task
    done = steelyard("items", variant, "--out", str(folder / "items"), *root)
    assert done.code == 0 and "12 items" in done.stdout, done.stderr
    assert f"steelyard score FILE {variant} --data-root={world / task} --limit=12\n" in done.stdout
    items = [json.loads(line) for line in (folder / "items" / "items.jsonl").open()]

    def score(rows: list[dict[str, str]], *words: str, variant: str = variant) -> Any:
        file = folder / "answers.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        where = ("--out", str(folder / "runs"), *root, *words)
        return steelyard("score", str(file), variant, *where)

    return items, score


def replies(items: list[dict[str, Any]], answer: str) -> list[dict[str, str]]:
    return [{"id": item["id"], "hash": item["hash"], "answer": answer} for item in items]


def test_answers_made_elsewhere_are_scored_and_stand_on_a_board(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    items, score = exported(steelyard, world, tmp_path)
    with Image.open(tmp_path / "items" / items[0]["images"][0]) as image:
        assert len(image.getcolors(1 << 20)) > 500, "the noise is in the exported image"
    done = score(replies(items, "Yes."), "--label", "some API", "--cost", "1e20")
    assert done.code == 0, done.stderr
    (folder,) = record.find(tmp_path / "runs")
    result = record.read(folder)
    assert (result.label, result.origin, result.declared_flops) == (
        "some API", "answers from a file", 1e20,
    )  # fmt: skip
    values = {s.metric: s.value for s in result.scores if not s.subset}
    assert values["yes_rate"] == 1 and 0 < values["accuracy"] < 1
    source = result.provenance["elsewhere"]["answers"][VARIANT]
    assert source["file"] == "answers.jsonl" and len(source["hash"]) == 16

    assert result.provenance["weights"] == source["hash"]
    assert steelyard("validate", str(tmp_path / "runs")).code == 0

    other = score(replies(items, "no"), "--label", "some API", "--cost", "1e20")
    assert other.code == 2 and "scores of other answers" in other.stderr
    assert score(replies(items, "no"), "--label", "other API").code == 0
    (opposite,) = (record.read(f) for f in record.find(tmp_path / "runs") if f != folder)
    accuracy = next(s for s in opposite.scores if s.metric == "accuracy" and not s.subset)
    assert abs(accuracy.value + values["accuracy"] - 1) < 1e-9
    assert opposite.declared_flops is None
    refused = steelyard("evaluate", str(folder), "pope")
    assert refused.code == 2 and "use 'steelyard score'" in refused.stderr
    clean = score(replies(items, "yes"), "--label", "clean", variant="pope")
    assert clean.code == 2 and "was asked something else" in clean.stderr


@pytest.mark.parametrize("variant", ["stock/pope", "stock/pope@image-blank"])
def test_answers_to_a_task_of_lmms_eval_are_scored(
    steelyard: Command, tmp_path: Path, variant: str
) -> None:
    data = ("--data-root", f"pope={stock_data.write(tmp_path / 'pope', stock_data.pope())}")
    asked = steelyard("items", variant, "--out", str(tmp_path / "items"), *data, "--limit", "9")
    assert asked.code == 0, asked.stderr
    items = [json.loads(line) for line in (tmp_path / "items" / "items.jsonl").open()]
    assert len(items) == 9 and all(len(i["images"]) == ("blank" not in variant) for i in items)
    file, runs = tmp_path / "answers.jsonl", tmp_path / "runs"
    file.write_text("".join(json.dumps(row) + "\n" for row in replies(items, "yes")))
    where = (*data, "--limit", "9", "--out", str(runs))
    assert steelyard("score", str(file), variant, *where).code == 0
    values = {s.metric: s for s in record.read(record.find(runs)[0]).scores}
    # Of the answers yes all are right where the question's is yes.
    assert values["pope_recall"].value == 1 and values["pope_accuracy"].n == 9
    assert values["pope_accuracy"].value == values["pope_precision"].value
    assert steelyard("validate", str(runs)).code == 0


def test_answers_without_a_yes_or_no_are_said_aloud_and_are_not_ranked(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    items, score = exported(steelyard, world, tmp_path)
    answers = replies(items, "perhaps")
    assert "(image-noise:3) could not be read" in score(answers, "--label", "mute").stdout
    for number, answer in enumerate(answers[:4]):
        answer["answer"] = "yes" if number % 2 else "no"
    half = score(answers, "--label", "half mute").stdout
    assert "67 % of the answers to pope (image-noise:3) could not be read" in " ".join(half.split())


@pytest.mark.parametrize("metric", ["unparsed", "invalid"])
def test_a_board_does_not_rank_answers_of_which_none_could_be_read(toy: Path, metric: str) -> None:
    for folder in record.find(toy):
        result = record.read(folder)
        fraction = {"fair": 0.6, "poor": 1.0}.get(result.label, 0.1)
        extra = Score("toy", "clean", metric, fraction, 10, None, False, None)
        record.write(replace(result, scores=(*result.scores, extra)), folder)
    board = board_of(toy)
    assert [row.label for row in board.rows] == ["fair", "joint"]
    (blank,) = board.blanks
    assert blank.label == "poor" and "seed 1: no answer to toy could be read" in blank.missing
    assert "fair, seed 0: 60 % of the answers to toy (clean) could not" in "".join(board.notes)


def test_missing_unknown_and_repeated_ids_are_counted_and_named(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    items, score = exported(steelyard, world, tmp_path)
    rows = replies(items, "yes")
    done = score([*rows[2:], rows[3], {**rows[0], "id": "other"}])
    assert done.code == 2 and not record.find(tmp_path / "runs")
    for fault in ("2 are missing", "1 are not of this set (other)", "1 occur more than once"):
        assert fault in done.stderr
    assert "answers.jsonl:1: no text as 'hash'" in score([{"id": "a", "answer": "b"}]).stderr


def test_a_classification_is_answered_by_the_names_of_its_choices(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    items, score = exported(steelyard, world, tmp_path, "food101")
    first = items[0]["choices"][0]
    assert score(replies(items, first)).code == 0
    (folder,) = record.find(tmp_path / "runs")
    accuracy = next(s for s in record.read(folder).scores if s.metric == "accuracy")
    assert 0 <= accuracy.value < 1 and accuracy.n == 12
    mistake = score(replies(items, "a shoe"), "--label", "second")
    assert mistake.code == 2 and "'a shoe'" in mistake.stderr and "none of its" in mistake.stderr
