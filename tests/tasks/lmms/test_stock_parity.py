"""Our scores against those of lmms-eval's own tasks on the same answers.

Equal where theirs is right; where it is not, the difference is shown.
"""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pope_scores
import pytest
import stock_data
from paths import SHARED
from PIL import Image
from stock_data import Talker, right, write

from steelyard import tasks
from steelyard.harness.core.readers import read_rows
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.tasks import mme

OFFICIAL = SHARED / "official_json" / "pope"
SAME = {"accuracy": "pope_accuracy", "precision": "pope_precision", "recall": "pope_recall",
        "f1": "pope_f1_score"}  # fmt: skip


def theirs(root: Path, answers: Sequence[str]) -> dict[str, float]:
    """Score these answers by lmms-eval's POPE."""
    rows = stock_data.pope(len(answers))
    replies = dict(zip((row["question"] for row in rows), answers, strict=True))
    corpus = tasks.load("stock/pope", write(root / "pope", rows))
    talker = Talker(right(rows, lambda row: replies[row["question"]]))
    result = evaluate(talker, tasks.parse_variant("stock/pope"), corpus)
    return {score.metric: score.value for score in result.scores}


def ours(answers: Sequence[str]) -> dict[str, float]:
    labels = [row["answer"] for row in stock_data.pope(len(answers))]
    return dict(pope_scores.scores(labels, answers))


def test_bare_answers_give_equal_scores(tmp_path: Path) -> None:
    answers = ["yes", "no", "yes", "Yes", "no", "No"] * 4
    stock, our_scores = theirs(tmp_path, answers), ours(answers)
    for metric, name in SAME.items():
        assert stock[name] == pytest.approx(our_scores[metric], abs=1e-12), metric


def test_theirs_wants_the_bare_word_and_ours_reads_the_sentence(tmp_path: Path) -> None:
    labels = [row["answer"] for row in stock_data.pope()]
    answers = [f"{label.capitalize()}." for label in labels]
    stock, our_scores = theirs(tmp_path, answers), ours(answers)
    assert all(our_scores[metric] == 1 for metric in SAME)
    assert [stock[name] for name in SAME.values()] == [0, 0, 0, 0]


def test_what_neither_says_plainly_is_a_yes_by_the_official_rule_and_nothing_by_theirs(
    tmp_path: Path,
) -> None:
    stock, our_scores = theirs(tmp_path, ["NO"] * 23 + ["maybe"]), ours(["NO"] * 23 + ["maybe"])
    assert (
        our_scores["yes_rate"] == our_scores["recall"] == 1.0
    )  # POPE's own scorer knows 'No' and 'no' alone
    assert (stock["pope_recall"], stock["pope_accuracy"]) == (0.0, 12 / 24)


@pytest.mark.parametrize(("word", "rate"), [("yes", 1.0), ("no", 0.0)])
def test_theirs_counts_the_yes_of_labels_and_ours_of_answers(
    tmp_path: Path, word: str, rate: float
) -> None:
    answers = [word] * 24
    assert ours(answers)["yes_rate"] == rate
    assert theirs(tmp_path, answers)["pope_yes_ratio"] == 0.5


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
def test_recorded_answers_of_llava_as_their_scorer_reads_them() -> None:
    """Get the published numbers from both once the answers are a bare yes or no."""
    from lmms_eval.tasks.pope import utils

    recorded = json.loads((OFFICIAL / "llava15_7b_answers.json").read_text())
    for name, run in recorded.items():
        path = OFFICIAL / f"coco_pope_{name.partition('-')[0]}.json.gz"
        labels = [row["label"] for _, row in read_rows(path)]
        replies = ["yes" if letter == "y" else "no" for letter in run["answers"]]
        parts = [
            utils.pope_process_results({"answer": label, "question_id": index}, [answer])
            for index, (label, answer) in enumerate(zip(labels, replies, strict=True))
        ]
        for metric, key in SAME.items():
            rule = vars(utils)[f"pope_aggregate_{key.removeprefix('pope_')}"]
            value = rule([part[key] for part in parts])
            assert value == pytest.approx(run[metric], abs=1e-12), (name, metric)
        ratio = utils.pope_aggregate_yes_ratio([part["pope_yes_ratio"] for part in parts])
        assert ratio == 0.5 != pytest.approx(run["yes_ratio"], abs=1e-3)


SAID = (
    "yes",
    "no",
    "Yes, it is.",
    "No.",
    "y",
    "n",
    "maybe",
    "I know",
    "not yes",
    "",
    "YES",
    "a no",
)


def png(image: Image.Image) -> bytes:
    """Encode an image, as tables of the hub hold it."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("turn", range(len(SAID)))
def test_mme_gives_equal_points_on_equal_answers(tmp_path: Path, turn: int) -> None:
    rows = stock_data.mme(24)
    replies = {row["question"]: SAID[(index + turn) % len(SAID)] for index, row in enumerate(rows)}
    talker = Talker(right(rows, lambda row: replies[row["question"]]))
    mme.write_official(({**row, "image": png(row["image"])} for row in rows), tmp_path / "official")
    sources = {
        "mme": tmp_path / "official",
        "stock/mme": write(tmp_path / "copy", rows),
    }
    points = {}
    for name, root in sources.items():
        result = evaluate(talker, tasks.parse_variant(name), tasks.load(name, root))
        assert len(result.items) == 24
        points[name] = {
            score.metric: score.value
            for score in result.scores
            if not score.subset and score.metric.startswith(("perception", "cognition", "mme_"))
        }
    our_scores, stock = points["mme"], points["stock/mme"]
    assert stock["mme_perception_score"] == pytest.approx(our_scores["perception"])
    assert stock["mme_cognition_score"] == pytest.approx(our_scores["cognition"])
