"""Boards from synthetic records: the numbers by hand and the rules."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from board_factory import board_of, first, make_run, profile

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import ITEMS, RECORD, checksum
from steelyard.leaderboards.boards import tables
from steelyard.leaderboards.boards.board import build
from steelyard.leaderboards.boards.summary import absences, overall
from steelyard.leaderboards.loading import items
from steelyard.leaderboards.loading.collect import collect


def test_columns_of_a_board_by_hand(toy: Path) -> None:
    board = board_of(toy)
    assert [entry.label for entry in board.rows] == ["fair", "joint", "poor"]
    joint = board.rows[1]
    # Clean 0.8; image 0.2; text mean(0.6, 0.7) = 0.65; impaired (0.2 + 0.65) / 2 = 0.425.
    means = {name: interval.mean for name, interval in joint.scores.items()}
    assert means == pytest.approx(
        {
            "balanced": 0.6125,
            "clean": 0.8,
            "corrupted": 0.425,
            "image": 0.2,
            "text": 0.65,
            "image-blank": 0.2,
            "text-blank": 0.65,
        }
    )
    assert joint.scores["text"].values == pytest.approx((0.6, 0.7))
    assert joint.worst == pytest.approx(0.2)
    assert joint.gap == pytest.approx(0.45)
    difference = board.rows[0].differences["corrupted"].interval
    assert difference.values == pytest.approx((0.2, 0.15))
    assert difference.mean == pytest.approx(0.175)
    assert joint.differences == {}
    assert board.rows[0].cost.relative == pytest.approx(1.5)
    assert (board.items, board.clusters, board.seeds) == (10, 10, (0, 1))
    assert board.notes == () and board.blanks == ()


def test_severities_then_corruptions_then_sides_are_averaged(tmp_path: Path) -> None:
    hits = {
        "clean": first(10),
        "image-blank": first(0),
        "image-noise:1": first(8),
        "image-noise:5": first(4),
        "text-blank": first(9),
    }
    make_run(tmp_path, "joint", hits)
    scores = board_of(tmp_path).rows[0].scores
    assert scores["image-noise"].mean == pytest.approx(0.6)
    assert scores["image"].mean == pytest.approx(0.3)
    assert scores["corrupted"].mean == pytest.approx(0.6)
    assert scores["balanced"].mean == pytest.approx(0.8)


def test_lower_is_better_turns_the_ranking_and_the_verdict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        for label, level in (("joint", 3.0), ("good", 1.0), ("bad", 5.0)):
            noise = {v: level + 0.1 * rng.random(50) for v in ("clean", "image-blank")}
            hits = {**noise, "text-blank": level + 1 + 0.1 * rng.random(50)}
            make_run(tmp_path, label, hits, seed=seed, metric="surprise", higher_is_better=False)
    board = board_of(tmp_path)
    assert [entry.label for entry in board.rows] == ["good", "joint", "bad"]
    good, joint, bad = board.rows
    assert good.differences["clean"].verdict == "better"
    assert bad.differences["clean"].verdict == "worse"
    assert joint.worst == pytest.approx(joint.scores["text"].mean)
    assert not board.percent and "lower is better" in tables.caption(board)


def test_incomplete_entries_are_blank_unranked_and_explained(toy: Path) -> None:
    make_run(toy, "half", profile(10, 10, 10), seed=0)
    make_run(toy, "crash", profile(10, 10, 10), seed=0)
    make_run(toy, "crash", profile(10, 10, 10), seed=1, status="failed")
    for seed in (0, 1):
        short = profile(10, 10, 10)
        del short["text-blank"]
        make_run(toy, "short", short, seed=seed)
    board = board_of(toy)
    assert [entry.label for entry in board.rows] == ["fair", "joint", "poor"]
    assert {blank.label: blank.missing for blank in board.blanks} == {
        "half": "no run of seed 1",
        "crash": "seed 1 failed: loss became nan at step 3",
        "short": "seed 0 lacks text-blank; seed 1 lacks text-blank",
    }
    page = tables.report(board).markdown()
    assert "half: no run of seed 1." in page
    row = next(line for line in page.splitlines() if line.startswith("|  | half |"))
    assert set(row.replace("half", "")) == {"|", " "}


def test_ties_are_those_whose_difference_to_the_first_contains_zero(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(400)
    for seed in range(3):
        for label, skill in (("joint", 0.3), ("near", 0.705), ("best", 0.71)):
            right = (easy + 0.05 * rng.standard_normal(400) < skill).astype(float)
            hits = {"clean": right, "image-blank": right, "text-blank": right}
            make_run(tmp_path, label, {k: v.tolist() for k, v in hits.items()}, seed=seed)
    board = board_of(tmp_path)
    tied = {entry.label: entry.tied for entry in board.rows}
    leader = board.rows[0].label
    assert leader in ("best", "near")
    assert tied == {leader: False, ({"best", "near"} - {leader}).pop(): True, "joint": False}
    assert board.rows[2].rank.first == board.rows[2].rank.last == 3
    assert "| ≈2 |" in tables.report(board).markdown()


def test_better_impaired_than_clean_is_marked(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", profile(5, 7, 5))
    board = board_of(tmp_path)
    assert board.rows[0].better_corrupted == ("image-blank",)
    assert "70.0 †" in tables.report(board).markdown()


def test_notes_name_single_seeds_absent_controls_and_mixed_devices(tmp_path: Path) -> None:
    make_run(tmp_path, "a", profile(5, 5, 5))
    make_run(tmp_path, "b", profile(5, 5, 5), device="cuda")
    notes = " ".join(board_of(tmp_path).notes)
    assert "One seed: the intervals do not include training variance" in notes
    assert "control joint is not ranked" in notes
    assert "cpu, cuda" in notes


def test_a_record_that_its_items_contradict_is_noted(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", profile(5, 5, 5), recorded={"clean": 0.9})
    (note,) = [note for note in board_of(tmp_path).notes if "record says" in note]
    assert note.startswith("joint, seed 0: the record says toy accuracy 0.900000 on clean")
    assert "its items give 0.500000" in note


def test_clusters_are_counted_and_widen_the_interval(tmp_path: Path) -> None:
    hits = {"clean": 6 * [1.0] + 6 * [0.0]}
    make_run(tmp_path / "single", "joint", hits)
    make_run(tmp_path / "pairs", "joint", hits, clusters=[*"aabbccddeeff"])
    single, pairs = (board_of(tmp_path / name) for name in ("single", "pairs"))
    assert (single.clusters, pairs.clusters) == (12, 6)
    halves = [board.rows[0].scores["clean"].half for board in (single, pairs)]
    assert halves[1] > 1.3 * halves[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": "M"}, "2 budgets, 'M' and 'S'.*--budget"),
        ({"backbone": "big"}, "2 backbones, 'big' and 'tiny'.*--backbone"),
        ({"revision": "r2"}, "2 data revisions"),
    ],
)
def test_what_no_board_may_compare_is_refused(
    toy: Path, change: dict[str, Any], message: str
) -> None:
    make_run(toy, "other", profile(5, 5, 5), **change)
    with pytest.raises(UserError, match=message):
        collect([toy])


def test_filters_choose_among_budgets(toy: Path) -> None:
    make_run(toy, "other", profile(5, 5, 5), budget="M")
    assert "other" not in set(collect([toy], budget="S").scores["label"])
    with pytest.raises(UserError, match=r"None of 7 records .* budget L"):
        collect([toy], budget="L")


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No record under"):
        collect([tmp_path])


def test_two_different_runs_of_one_place_are_refused_naming_both(toy: Path) -> None:
    folder = make_run(toy, "joint", profile(1, 1, 1), seed=0)
    with pytest.raises(UserError, match=rf"{toy / '0000'} and {folder}"):
        collect([toy])


def test_an_entry_that_never_predicts_a_label_is_scored(tmp_path: Path) -> None:
    for label in ("joint", "silent"):
        folder = make_run(tmp_path, label, profile(0, 0, 0))
    path = folder / "items.parquet"
    table = pq.read_table(path)
    empty = pa.array([[] for _ in range(len(table))])
    pq.write_table(
        table.set_column(table.column_names.index("predicted"), "predicted", empty), path
    )
    table, order = items.read(path, ["target", "predicted"])
    clean = items.items_of([table], order, 2, ["target", "predicted"])[0]["clean"]
    assert not clean.predicted.any() and clean.target.any()


def test_a_record_given_twice_counts_once(toy: Path) -> None:
    assert len(collect([toy, toy]).runs) == 6


def test_runs_scored_on_other_items_are_refused(toy: Path) -> None:
    hits = {variant: [1.0] * 11 for variant in ("clean", "image-blank", "text-blank")}
    for seed in (0, 1):
        make_run(toy, "other", hits, seed=seed)
    with pytest.raises(UserError, match="scored on other items"):
        board_of(toy)


def test_missing_items_and_sideless_corruptions_are_refused(toy: Path, tmp_path: Path) -> None:
    (toy / "0000" / ITEMS).unlink()
    with pytest.raises(UserError, match="items"):
        board_of(toy)
    make_run(tmp_path / "x", "joint", {"clean": first(5), "audio-blank": first(5)})
    with pytest.raises(UserError, match="has no modality"):
        board_of(tmp_path / "x")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_naming_its_run(toy: Path, value: float) -> None:
    path = toy / "0000" / RECORD
    content = json.loads(path.read_text())
    content["scores"][0]["value"] = value
    path.write_text(json.dumps(content | {"seal": checksum(content)}))
    with pytest.raises(UserError, match=rf"{path}:1: (NaN|Infinity) is no number of JSON"):
        collect([toy])


def test_a_metric_without_direction_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", profile(5, 5, 5), higher_is_better=None)
    with pytest.raises(UserError, match="main metric accuracy has no direction"):
        board_of(tmp_path)


def test_balance_bought_by_hurting_the_strong_side_is_marked(tmp_path: Path) -> None:
    """Text is strong in the control. One entry lifts image, one lowers text, one does both."""
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    # Right shares: clean, image impaired (text is left), text impaired (image is left).
    shares = {"joint": (0.9, 0.8, 0.4), "lifts": (0.9, 0.8, 0.7), "hurts": (0.9, 0.5, 0.4),
              "both": (0.7, 0.8, 0.7), "turns": (0.9, 0.1, 0.9)}  # fmt: skip
    for seed in range(4):
        for label, (clean, image, text) in shares.items():
            levels = {"clean": clean, "image-blank": image, "text-blank": text}
            hits = {
                variant: (easy + 0.02 * rng.standard_normal(400) < level).astype(float).tolist()
                for variant, level in levels.items()
            }
            make_run(tmp_path, label, hits, seed=seed)
    board = board_of(tmp_path)
    found = {entry.label: entry.tradeoff for entry in board.rows}
    assert board.strong_modality == "text" and found["joint"] is None
    assert {label: trade.traded for label, trade in found.items() if trade} == {
        "lifts": False,  # the gap closes from below
        "hurts": True,
        "both": True,  # clean falls
        "turns": False,  # the gap is wider, the other way round
    }
    assert found["hurts"].strong.interval.mean == pytest.approx(-0.3, abs=0.05)
    assert found["lifts"].gap.verdict == "better" and found["lifts"].weak.verdict == "better"
    page = tables.report(board).markdown()
    marked = [line for line in page.splitlines() if "‡ |" in line]
    assert {line.split("|")[2].strip() for line in marked} == {"hurts", "both"}


def test_losses_turn_the_sides_and_the_gap(tmp_path: Path) -> None:
    """Where lower is better the strong side is the one with the lower loss left."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        for label, (image, text) in {"joint": (1.0, 3.0), "hurts": (2.5, 3.0)}.items():
            levels = {"clean": 1.0, "image-blank": image, "text-blank": text}
            hits = {v: level + 0.05 * rng.random(60) for v, level in levels.items()}
            make_run(tmp_path, label, hits, seed=seed, metric="surprise", higher_is_better=False)
    board = board_of(tmp_path)
    trade = next(entry.tradeoff for entry in board.rows if entry.label == "hurts")
    assert board.strong_modality == "text" and trade is not None and trade.traded
    assert trade.gap.interval.mean == pytest.approx(-1.5, abs=0.1)
    assert trade.strong.verdict == "worse"


def test_the_power_note_grows_with_fewer_items(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        for label in ("joint", "other"):
            for count in (40, 640):
                hits = {"clean": (rng.random(count) < 0.6).astype(float).tolist()}
                make_run(tmp_path / str(count), label, hits, seed=seed)
    seen = {count: board_of(tmp_path / str(count)).detectable["clean"] for count in (40, 640)}
    assert seen[640].alone < seen[40].alone
    assert seen[640].corrected == seen[640].alone, "one entry is compared, nothing to correct"
    (note,) = [line for line in tables.remarks(board_of(tmp_path / "640")) if "80 %" in line]
    assert f"{100 * seen[640].alone:.1f} in clean" in note


def test_long_table_holds_every_score_and_failed_runs(toy: Path) -> None:
    make_run(toy, "crash", {}, status="failed")
    scores = collect([toy]).scores
    assert len(scores) == 6 * 3 + 1
    row = scores.query("label == 'joint' and seed == 1 and variant == 'text-blank'").iloc[0]
    assert (row["value"], row["n"], row["flops"]) == (pytest.approx(0.7), 10, 100.0)
    assert scores.query("label == 'crash'")["value"].isna().all()


def test_overall_ranks_only_entries_complete_on_every_task(toy: Path) -> None:
    for seed in (0, 1):
        make_run(toy, "joint", profile(9, 9, 9), seed=seed, task="two")
        make_run(toy, "fair", profile(5, 5, 5), seed=seed, task="two")
    runs = collect([toy])
    table = overall([build(runs, task) for task in ("toy", "two")])
    assert {entry.label: entry.rank.ranks for entry in table.entries} == {
        "fair": {"toy": 1.0, "two": 2.0},
        "joint": {"toy": 2.0, "two": 1.0},
    }
    assert [entry.rank.wins.mean for entry in table.entries] == [0.5, 0.5]
    assert [(blank.label, blank.missing) for blank in table.blanks] == [
        ("poor", "not ranked on two")
    ]
    assert absences(table) == ["poor: not ranked on two."]


HOSTILE = r"a|b<i>&_%$#{x}~^\*`["
