"""Five of lmms-eval's own tasks as they are shipped, on generated rows in their columns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stock_data
from stock_data import Talker, right, write

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.evaluation.scores import Evaluation

Row = dict[str, Any]
SHIPPED: dict[str, tuple[Callable[[], list[Row]], str, Callable[[Row], str], str]] = {
    "mmstar": (stock_data.mmstar, "val", lambda row: row["answer"], ""),
    "mme": (stock_data.mme, "test", lambda row: row["answer"], ""),
    "pope": (stock_data.pope, "test", lambda row: row["answer"], "pope_accuracy"),
    "ai2d": (stock_data.ai2d, "test", lambda row: "ABCD"[int(row["answer"])], "exact_match"),
    "realworldqa": (stock_data.realworldqa, "test", lambda row: row["answer"], "exact_match"),
}
"""Rows, split, the right answer and the main metric, by name."""


def ask(name: str, root: Path, talker: Talker, corruption: str = "", **options: Any) -> Evaluation:
    corpus = tasks.load(f"stock/{name}", root)
    variant = tasks.parse_variant(f"stock/{name}" + (f"@{corruption}" if corruption else ""))
    return evaluate(talker, variant, corpus, **options)


def values(result: Evaluation) -> dict[str, float]:
    return {score.metric: score.value for score in result.scores}


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    make, split, answer, main = SHIPPED[request.param]
    root = write(tmp_path_factory.mktemp(request.param), make(), split)
    return request.param, root, make(), answer, main


def test_an_oracle_is_right_and_a_mute_is_wrong(shipped: Any) -> None:
    name, root, rows, answer, main = shipped
    knowing = ask(name, root, Talker(right(rows, answer)))
    mute = ask(name, root, Talker(lambda item: "I cannot say."))
    full = {"mme_perception_score": 200.0, "mme_cognition_score": 200.0}
    fixed = {"pope_yes_ratio"}  # upstream counts the labels
    for metric, value in values(knowing).items():
        if metric not in fixed:
            assert value == full.get(metric, 1.0), metric
            assert values(mute)[metric] == 0.0, metric
    assert [score.metric for score in knowing.scores if score.main] == ([main] if main else [
        score.metric for score in knowing.scores if score.metric == "average"
    ])  # fmt: skip
    assert len(knowing.items) == len(rows)


def test_every_image_corruption_reaches_the_model_and_no_other(shipped: Any) -> None:
    name, root, rows, answer, _ = shipped
    images = {}
    for corruption in ("", "image-blank", "image-shuffle", "image-noise:5", "image-missing:50"):
        talker = Talker(right(rows, answer))
        result = ask(name, root, talker, corruption)
        assert {score.variant for score in result.scores} == {corruption or "clean"}
        images[corruption] = {
            item.prompt: item.image and item.image.tobytes() for item in talker.seen
        }
        assert images[corruption].keys() == images[""].keys()  # the prompt is never touched
    clean = images[""]
    assert all(clean.values())
    assert not any(images["image-blank"].values())
    for corruption in ("image-shuffle", "image-noise:5"):
        assert all(image and image != clean[p] for p, image in images[corruption].items())
    missing_items = [
        prompt for prompt, image in images["image-missing:50"].items() if image is None
    ]
    assert len(missing_items) == len(rows) // 2


def test_mmstars_average_is_a_mean_over_categories_with_an_interval(tmp_path: Path) -> None:
    rows = stock_data.mmstar()
    root = write(tmp_path / "mmstar", rows, "val")

    def knows_geometry(row: Row) -> str:
        return row["answer"] if row["l2_category"] == "geometry" else "none of them"

    result = ask("mmstar", root, Talker(right(rows, knows_geometry)))
    scores = {score.metric: score for score in result.scores}
    # 12 of 24 right, but one of three subcategories, two of which make up mathematics.
    assert scores["average"].value == pytest.approx(1 / 3)
    assert scores["math"].value == pytest.approx(1 / 2)
    assert scores["average"].main and scores["average"].n == 24 and scores["math"].n == 18
    top, bottom = (result.items[f"average.{end}"].sum() for end in ("top", "bottom"))
    assert top / bottom == pytest.approx(1 / 3)
    # Each item is 4/9 above or below its weighted place: by sqrt(24/23) over sqrt(24).
    assert scores["average"].stderr == pytest.approx(4 / 9 / 23**0.5)


def test_a_limit_never_cuts_a_pair_of_mme(tmp_path: Path) -> None:
    rows = stock_data.mme()
    root = write(tmp_path / "mme", rows)
    result = ask("mme", root, Talker(right(rows, lambda row: row["answer"])), limit=5)
    assert len(result.items) == 4
    assert set(values(result).values()) == {200.0}
    assert [score.stderr for score in result.scores if score.stderr is not None] == []
    assert not any(score.main for score in result.scores)  # pairs, so no mean over items


def test_an_incomplete_pair_is_said_in_one_line(tmp_path: Path) -> None:
    rows = stock_data.mme()[:-1]
    root = write(tmp_path / "mme", rows)
    with pytest.raises(UserError, match=r"stock/mme: its metric .* \(AssertionError: MME only"):
        ask("mme", root, Talker(lambda item: "yes"))


def test_other_columns_than_the_tasks_are_said_in_one_line(tmp_path: Path) -> None:
    rows = [{"picture": row["image"], "text": "?", "label": "yes"} for row in stock_data.pope()]
    root = write(tmp_path / "pope", rows)
    with pytest.raises(UserError, match=r"stock/pope: .*KeyError: '(question|image)'"):
        ask("pope", root, Talker(lambda item: "yes"))
    write(tmp_path / "split", stock_data.pope(), "train")
    with pytest.raises(UserError, match="its data has the splits train but not 'test'"):
        ask("pope", tmp_path / "split", Talker(lambda item: "yes"))
