"""The board of models that answer many tasks: ratios, directions, composite, blanks, factorials."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from board_factory import TRUTH, entry, make_answered, said
from sklearn.metrics import f1_score

from steelyard.leaderboards.boards import factorial
from steelyard.leaderboards.boards.board import Board, build
from steelyard.leaderboards.boards.columns import COMPOSITE, Column
from steelyard.leaderboards.loading.collect import collect
from steelyard.leaderboards.publish import publish
from steelyard.leaderboards.stats.intervals import Sample


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for seed in (0, 1, 2):
        make_answered(tmp_path, "sft", entry(28 + seed), seed=seed)
        make_answered(tmp_path, "good", entry(36 + seed), seed=seed, method="dpo")
        make_answered(tmp_path, "poor", entry(10 + seed), seed=seed, method="kto")
    return tmp_path


def profile(root: Path, **options: str) -> Board:
    return build(collect([root]), "pool", control=options.get("control"))


def test_ratios_are_those_of_scikit_learn_and_seeds_are_averaged(pool: Path) -> None:
    made = profile(pool)
    assert [row.label for row in made.rows] == ["good", "sft", "poor"] and made.control == "sft"
    sft = made.rows[1]
    expected = [f1_score(TRUTH, [p for _, p in said(28 + seed)]) for seed in range(3)]
    assert sft.scores["asked f1"].values == pytest.approx(expected)
    even = [f1_score(TRUTH[::2], [p for _, p in said(28 + seed)][::2]) for seed in range(3)]
    assert sft.scores["asked even f1"].values == pytest.approx(even)
    rates = [np.mean([p for _, p in said(28 + seed)]) for seed in range(3)]
    assert sft.scores["asked yes_rate"].mean == pytest.approx(np.mean(rates))
    blind = f1_score(TRUTH, [p for _, p in said(20)])
    assert sft.scores["asked f1, no image"].mean == pytest.approx(blind)
    noise = f1_score(TRUTH, [p for _, p in said(30)])
    assert sft.scores["asked f1, image corrupted"].mean == pytest.approx((blind + noise) / 2)


def test_differences_point_the_right_way_in_both_directions(pool: Path) -> None:
    good, _, poor = profile(pool).rows
    assert good.differences["asked f1"].interval.mean > 0
    assert good.differences["asked wrong"].interval.mean < 0
    assert good.differences["asked wrong"].verdict == "better"
    assert poor.differences["asked wrong"].interval.mean > 0
    assert poor.differences["asked wrong"].verdict == "worse"
    assert poor.differences[COMPOSITE].verdict == "worse"
    assert "asked yes_rate" not in good.differences, "what only describes is not compared"
    expected = np.mean([said(36 + s)[k][0] != said(36 + s)[k][1] for s in range(3)
                        for k in range(40)])  # fmt: skip
    assert good.scores["asked wrong"].mean == pytest.approx(expected)


def test_the_composite_turns_what_is_better_low(pool: Path) -> None:
    sft = profile(pool).rows[1]
    by_task = [
        np.mean([sft.scores[f"{task} f1"].mean, sft.scores[f"{task} even f1"].mean,
                 1 - sft.scores[f"{task} wrong"].mean])
        for task in ("pool", "asked")
    ]  # fmt: skip
    assert sft.scores[COMPOSITE].mean == pytest.approx(np.mean(by_task))


def test_incomplete_entries_are_blank_and_say_why(pool: Path) -> None:
    make_answered(pool, "broken", {}, failed=True, method="mpo")
    make_answered(pool, "short", {"pool": {"clean": said(30)}}, seed=0, method="mdpo")
    made = profile(pool)
    reasons = {blank.label: blank.missing for blank in made.blanks}
    assert "nan at step 3" in reasons["broken"] and "no run of seed 1" in reasons["broken"]
    assert "seed 0 lacks asked clean" in reasons["short"]
    assert {row.label for row in made.rows} == {"good", "sft", "poor"}


def test_the_interval_holds_what_whole_clusters_give(pool: Path) -> None:
    """Against a plain bootstrap over clusters of one seed's items, done here with pandas."""
    single = profile(pool).rows[1].scores["asked wrong"]
    assert single.low < single.mean < single.high
    generator = np.random.default_rng(0)
    wrong = np.array([t != p for t, p in said(29)], float).reshape(20, 2)
    draws = [wrong[generator.integers(0, 20, 20)].mean() for _ in range(4000)]
    assert 1.2 * np.std(draws) < single.half < 4 * np.std(draws)


def test_published_twice_it_is_the_same_and_lists_everything(pool: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    publish([pool], one)
    publish([pool], two)
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    page = (one / "profile-pool.md").read_text()
    for words in (
        "Side by side",
        "asked, difference to sft",
        "no image",
        "Training cost",
        "mine",
        "▲",
        "▼",
    ):
        assert words in page, words
    assert "pool (tiny-vlm)" in (one / "board.md").read_text()
    content = json.loads((one / "profile-pool.json").read_text())
    assert {row["label"] for row in content["rows"]} == {"good", "sft", "poor"}
    assert "samples" not in content and content["columns"][0]["task"] == "pool"
    table = pd.read_csv(one / "scores.csv")
    assert {"scored_on", "subset"} <= set(table.columns)


def test_other_items_or_a_lost_file_are_refused(pool: Path) -> None:
    from steelyard.harness.core.errors import UserError

    path = pool / "good-0" / "items-asked.parquet"
    table = pd.read_parquet(path)
    table["id"] = table["id"].str.replace("003", "999")
    table.to_parquet(path, index=False)
    with pytest.raises(UserError, match="on other items of asked"):
        profile(pool)
    path.unlink()
    with pytest.raises(UserError, match="copy its whole folder"):
        profile(pool)


def test_a_factorial_pairs_entries_equal_in_all_else(tmp_path: Path) -> None:
    """Each option adds its own effect; the table finds both, and the pairs behind them."""
    shown = (Column("asked f1", "asked", "f1", "", True, {"clean": 1.0}, compared=True),)
    samples, groups = {}, {}
    for iig in (False, True):
        for mining in ("adversarial", "noise"):
            label = f"{mining} {iig}"
            options = {"iig": iig, "mining": mining}
            make_answered(
                tmp_path, label, {"pool": {"clean": said(30)}}, method="mbpo", options=options
            )
            value = 0.5 + 0.1 * iig + 0.2 * (mining == "adversarial")
            samples[label] = {"asked f1": Sample(np.full(1, value), np.full((1, 9), value), 20)}
    runs = collect([tmp_path])
    for run in runs.runs:
        groups[run.record.label] = [run]
    (found,) = factorial.factorials(groups, samples, shown)
    assert found.factors == ("iig", "mining") and len(found.cells) == 4
    effects = {(e.factor, e.level, e.baseline): e for e in found.effects}
    assert effects["iig", True, False].scores["asked f1"].mean == pytest.approx(0.1)
    assert effects["iig", True, False].pairs == 2
    assert effects["mining", "noise", "adversarial"].scores["asked f1"].mean == pytest.approx(-0.2)
    assert not factorial.factorials({"a": groups["noise True"]}, samples, shown)


def test_a_learning_rate_of_its_own_is_told(pool: Path) -> None:
    runs = collect([pool])
    changed = replace(
        runs,
        runs=tuple(
            replace(
                run, record=replace(run.record, spec=replace(run.record.spec, learning_rate=2e-4))
            )
            if run.record.label == "good"
            else run
            for run in runs.runs
        ),
    )
    notes = build(changed, "pool", control=None).notes
    assert any("good 0.0002" in note for note in notes)
