"""Boards from synthetic records: the numbers by hand, the rules, the formats, the bytes."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.harness.errors import UserError
from steelyard.harness.record import ITEMS, Ledger, Record, Score, write
from steelyard.harness.spec import RunSpec
from steelyard.leaderboards import publish, tables
from steelyard.leaderboards.board import Board, build
from steelyard.leaderboards.collect import collect
from steelyard.leaderboards.escape import md
from steelyard.leaderboards.overall import overall
from steelyard.leaderboards.plots import costs, figures, pareto
from steelyard.leaderboards.style import framed, off_scale, spread

Hits = Mapping[str, Sequence[float]]
"""Item scores by variant."""


def make_run(
    root: Path,
    label: str,
    hits: Hits,
    *,
    seed: int = 0,
    task: str = "toy",
    metric: str = "accuracy",
    higher_is_better: bool = True,
    status: str = "done",
    flops: float = 100.0,
    budget: str = "S",
    backbone: str = "tiny",
    clusters: Sequence[str] | None = None,
    revision: str = "r1",
    device: str = "cpu",
    recorded: Mapping[str, float] | None = None,
    method: str = "",
) -> Path:
    """Write one run: its record and, when done, its items."""
    spec = RunSpec(
        method=method or label, task=task, backbone=backbone, budget=budget, seed=seed,
        data={"revision": revision},
    )  # fmt: skip
    values = {variant: float(np.mean(score)) for variant, score in hits.items()} | (recorded or {})
    scores = [
        Score(task, variant, metric, value, len(hits[variant]), None, True, higher_is_better)
        for variant, value in values.items()
    ]
    half = flops / 2
    ledger = Ledger(
        flops={"forward": half, "backward": half}, seconds={"forward": 2.0}, steps=10, items=320,
        peak_bytes=2**20, device=device, limit_flops=None, limit_seconds=None, stopped="finished",
    )  # fmt: skip
    failed = status == "failed"
    record = Record(
        id=spec.id, label=label, spec=spec, status="failed" if failed else "done",
        failure="loss became nan at step 3" if failed else "", ledger=ledger,
        scores=() if failed else tuple(scores), provenance={"data": {"classes": 2}},
    )  # fmt: skip
    folder = root / f"{len(list(root.glob('*'))):04d}"
    folder.mkdir(parents=True)
    if not failed:
        write_items(folder, hits, clusters)
    write(record, folder)
    return folder


def write_items(folder: Path, hits: Hits, clusters: Sequence[str] | None = None) -> None:
    """One row an item and variant, in an order that is not that of the ids."""
    rows: dict[str, list[Any]] = {
        name: []
        for name in ("variant", "id", "cluster", "target", "predicted", "score", "confidence")
    }
    for variant, scores in hits.items():
        for item, score in reversed(list(enumerate(scores))):
            rows["variant"].append(variant)
            rows["id"].append(f"{item:05d}")
            rows["cluster"].append(clusters[item] if clusters else f"{item:05d}")
            rows["target"].append([item % 2])
            rows["predicted"].append([item % 2 if score else 1 - item % 2])
            rows["score"].append(float(score))
            rows["confidence"].append(0.5)
    pq.write_table(pa.table(rows), folder / ITEMS)


def first(count: int, of: int = 10) -> list[float]:
    """Scores of items of which the first ``count`` are right."""
    return [1.0] * count + [0.0] * (of - count)


def profile(clean: int, image: int, text: int) -> dict[str, list[float]]:
    """Right answers of ten on clean, blank image and blank text."""
    return {"clean": first(clean), "image-blank": first(image), "text-blank": first(text)}


def board_of(root: Path, **options: Any) -> Board:
    return build(collect([root]), "toy", **options)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Three entries, two seeds, ten items."""
    for seed in (0, 1):
        make_run(tmp_path, "joint", profile(8, 2, 6 + seed), seed=seed)
        make_run(tmp_path, "fair", profile(8, 6, 6), seed=seed, flops=150.0)
        make_run(tmp_path, "poor", profile(4, 1, 1), seed=seed, flops=50.0)
    return tmp_path


def test_columns_of_a_board_by_hand(toy: Path) -> None:
    board = board_of(toy)
    assert [entry.label for entry in board.entries] == ["fair", "joint", "poor"]
    joint = board.entries[1]
    # Clean 0.8; image 0.2; text mean(0.6, 0.7) = 0.65; impaired (0.2 + 0.65) / 2 = 0.425.
    means = {name: interval.mean for name, interval in joint.scores.items()}
    assert means == pytest.approx(
        {
            "balanced": 0.6125,
            "clean": 0.8,
            "impaired": 0.425,
            "image": 0.2,
            "text": 0.65,
            "image-blank": 0.2,
            "text-blank": 0.65,
        }
    )
    assert joint.scores["text"].values == pytest.approx((0.6, 0.7))
    assert joint.worst == pytest.approx(0.2)
    assert joint.gap == pytest.approx(0.45)
    difference = board.entries[0].differences["impaired"].interval
    assert difference.values == pytest.approx((0.2, 0.15))
    assert difference.mean == pytest.approx(0.175)
    assert joint.differences == {}
    assert board.entries[0].cost.relative == pytest.approx(1.5)
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
    scores = board_of(tmp_path).entries[0].scores
    assert scores["image-noise"].mean == pytest.approx(0.6)
    assert scores["image"].mean == pytest.approx(0.3)
    assert scores["impaired"].mean == pytest.approx(0.6)
    assert scores["balanced"].mean == pytest.approx(0.8)


def test_lower_is_better_turns_the_ranking_and_the_verdict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        for label, level in (("joint", 3.0), ("good", 1.0), ("bad", 5.0)):
            noise = {v: level + 0.1 * rng.random(50) for v in ("clean", "image-blank")}
            hits = {**noise, "text-blank": level + 1 + 0.1 * rng.random(50)}
            make_run(tmp_path, label, hits, seed=seed, metric="surprise", higher_is_better=False)
    board = board_of(tmp_path)
    assert [entry.label for entry in board.entries] == ["good", "joint", "bad"]
    good, joint, bad = board.entries
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
    assert [entry.label for entry in board.entries] == ["fair", "joint", "poor"]
    assert {blank.label: blank.missing for blank in board.blanks} == {
        "half": "no run of seed 1",
        "crash": "seed 1 failed: loss became nan at step 3",
        "short": "seed 0 lacks text-blank; seed 1 lacks text-blank",
    }
    page = tables.markdown(board)
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
    tied = {entry.label: entry.standing.tied for entry in board.entries}
    leader = board.entries[0].label
    assert leader in ("best", "near")
    assert tied == {leader: False, ({"best", "near"} - {leader}).pop(): True, "joint": False}
    assert board.entries[2].standing.low == board.entries[2].standing.high == 3
    assert "| ≈2 |" in tables.markdown(board)


def test_better_impaired_than_clean_is_marked(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", profile(5, 7, 5))
    board = board_of(tmp_path)
    assert board.entries[0].better_impaired == ("image-blank",)
    assert "70.0 †" in tables.markdown(board)


def test_notes_name_single_seeds_absent_controls_and_mixed_devices(tmp_path: Path) -> None:
    make_run(tmp_path, "a", profile(5, 5, 5))
    make_run(tmp_path, "b", profile(5, 5, 5), device="cuda")
    notes = " ".join(board_of(tmp_path).notes)
    assert "One seed: the interval leaves out training variance" in notes
    assert "control joint is not ranked" in notes
    assert "cpu, cuda" in notes


def test_a_record_that_its_items_contradict_is_noted(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", profile(5, 5, 5), recorded={"clean": 0.9})
    (note,) = [note for note in board_of(tmp_path).notes if "record says" in note]
    assert note.startswith("joint, seed 0: the record says accuracy 0.900000 on clean")
    assert "its items give 0.500000" in note


def test_clusters_are_counted_and_widen_the_interval(tmp_path: Path) -> None:
    hits = {"clean": [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]}
    make_run(tmp_path / "single", "joint", hits)
    make_run(tmp_path / "pairs", "joint", hits, clusters=["a", "a", "b", "b", "c", "c", "d", "d"])
    single, pairs = (board_of(tmp_path / name) for name in ("single", "pairs"))
    assert (single.clusters, pairs.clusters) == (8, 4)
    halves = [board.entries[0].scores["clean"].half for board in (single, pairs)]
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
    with pytest.raises(UserError, match="names no side"):
        board_of(tmp_path / "x")


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
    assert {entry.label: entry.ranks for entry in table.entries} == {
        "fair": {"toy": 1.0, "two": 2.0},
        "joint": {"toy": 2.0, "two": 1.0},
    }
    assert [entry.win_rate for entry in table.entries] == [0.5, 0.5]
    assert [(blank.label, blank.missing) for blank in table.blanks] == [
        ("poor", "not ranked on two")
    ]


HOSTILE = r"a|b<i>&_%$#{x}~^\*`["


def hostile_board(root: Path) -> Board:
    make_run(root, "joint", profile(5, 5, 5))
    make_run(root, HOSTILE, profile(8, 5, 5))
    return board_of(root)


def test_markdown_escapes_labels(tmp_path: Path) -> None:
    page = tables.markdown(hostile_board(tmp_path))
    row = next(line for line in page.splitlines() if "a\\|b" in line)
    assert "a\\|b&lt;i&gt;&amp;\\_%\\$#{x}\\~^\\\\\\*\\`\\[" in row
    header = next(line for line in page.splitlines() if line.startswith("| # | entry"))
    assert row.replace("\\|", "").count("|") == header.count("|")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("joint_unimodal", "joint_unimodal"),
        ("a__b", "a__b"),
        ("_a_ b__", r"\_a\_ b\_\_"),
        ("# a #1", r"\# a #1"),
        ("#", "#"),
    ],
)
def test_markdown_escapes_only_what_would_be_markup(text: str, shown: str) -> None:
    assert md(text) == shown


def test_latex_escapes_labels(tmp_path: Path) -> None:
    text = tables.latex(hostile_board(tmp_path))
    escaped = (
        r"a\textbar{}b\textless{}i\textgreater{}\&\_\%\$\#\{x\}\textasciitilde{}"
        r"\textasciicircum{}\textbackslash{}*`["
    )
    assert escaped in text
    assert text.isascii()
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_csv_and_json_give_labels_and_figures_back(tmp_path: Path) -> None:
    board = hostile_board(tmp_path)
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(board))))
    assert [row["label"] for row in rows] == [HOSTILE, "joint"]
    assert float(rows[0]["balanced"]) == pytest.approx(0.65)
    assert float(rows[0]["difference_clean"]) == pytest.approx(0.3)
    assert rows[1]["difference_clean"] == ""
    content = json.loads(tables.as_json(board))
    assert content["entries"][0]["label"] == HOSTILE
    assert content["entries"][0]["scores"]["clean"]["values"] == [0.8]
    assert "samples" not in content


def printed(board: Board, width: int) -> str:
    """The terminal table as text."""
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables.terminal(board, width))
    return console.export_text()


def test_terminal_table_shows_labels_as_they_are(tmp_path: Path) -> None:
    board = hostile_board(tmp_path)
    assert HOSTILE in printed(board, 200) and HOSTILE in printed(board, 80)


def test_a_narrow_terminal_shows_main_columns_and_cuts_only_names(toy: Path) -> None:
    long = "mcr pretrained without permutation"
    for seed in (0, 1):
        make_run(toy, long, profile(9, 7, 7), seed=seed)
    board = board_of(toy)
    wide, narrow = printed(board, 200), printed(board, 70)
    assert "range" in wide and "gap" in wide and long in wide
    row = next(line for line in narrow.splitlines() if "mcr pre" in line)
    assert len(row) <= 70
    rank, name, *numbers = re.split(r"\s\s+", row.strip())
    assert rank == "1" and name.endswith("…") and long.startswith(name[:-1])
    half = f"{100 * board.entries[0].scores['balanced'].half:.1f}"
    assert numbers[:4] == [f"80.0 ± {half}", "90.0", "70.0", "70.0"]


def test_control_kind_is_shown(toy: Path) -> None:
    page = tables.markdown(board_of(toy, kinds={"joint": "control", "fair": "objective"}))
    assert "joint (control)" in page and "fair (" not in page


def test_kinds_given_by_method_hold_for_its_entries_with_options(tmp_path: Path) -> None:
    make_run(tmp_path, "drop(p=0.5)", profile(5, 5, 5), method="drop")
    assert board_of(tmp_path, kinds={"drop": "control"}).entries[0].kind == "control"


def test_rebuilding_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    graded = {f"{side}-noise:{level}": first(7 - level) for side in ("image", "text")
              for level in (1, 3)}  # fmt: skip
    for label in ("joint", HOSTILE):
        make_run(toy, label, {"clean": first(8), **graded}, task="graded")
    make_run(toy, "joint", {}, task="hopeless", status="failed")
    outs = [tmp_path / "published" / name for name in ("one", "two")]
    written = [publish([toy], out).files for out in outs]
    names = [[path.name for path in paths] for paths in written]
    assert names[0] == names[1]
    assert sorted(names[0]) == sorted(path.name for path in outs[0].iterdir())
    for name in names[0]:
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), name
    assert {"board-graded-severity.svg", "board-toy-cost.png", "scores.csv"} <= set(names[0])
    index = (outs[0] / "board.md").read_text(encoding="utf-8")
    assert "No board for hopeless" in index and "(board-toy.csv)" in index
    for name in names[0]:
        if name.endswith(".md"):
            assert str(tmp_path) not in (outs[0] / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("higher_is_better", "front"), [(True, [0, 3]), (False, [1, 2])])
def test_pareto_front_by_hand(higher_is_better: bool, front: list[int]) -> None:
    points = [(1.0, 5.0), (1.0, 4.0), (2.0, 3.0), (3.0, 9.0), (4.0, 9.0)]
    assert pareto(points, higher_is_better=higher_is_better) == front


def test_spread_by_hand() -> None:
    assert spread([0.2, 0.5, 0.9], step=0.1) == pytest.approx([0.2, 0.5, 0.9])
    # Two at 0.5 part evenly; three at the top are held below 1.
    assert spread([0.5, 0.5], step=0.1) == pytest.approx([0.45, 0.55])
    assert spread([0.1, 1.0, 1.0, 1.0], step=0.2) == pytest.approx([0.1, 0.6, 0.8, 1.0])
    assert spread([-7.0, 0.5], step=0.1) == pytest.approx([0.0, 0.5])


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=20).map(sorted),
    st.floats(0.001, 0.05),
)
def test_spread_names_neither_overlap_nor_leave_the_column(
    heights: list[float], step: float
) -> None:
    placed = spread(heights, step)
    assert all(b - a >= step - 1e-9 for a, b in pairwise(placed))
    assert placed[0] >= -1e-9 and placed[-1] <= 1 + 1e-9


@pytest.mark.parametrize(
    ("means", "left_out"),
    [
        ((93.0, 85.0, 77.0, 6.4), {3}),
        ((80.2, 80.1, 80.0, 78.0), set()),  # near ties
        ((90.0, 70.0, 50.0, 30.0), set()),  # an even slope
        ((78.0, 6.4), set()),  # no bulk
        ((93.0, 90.0, 88.0, 40.0, 6.4), {3, 4}),
    ],
)
def test_off_scale_leaves_out_what_lies_far_behind_the_bulk(
    means: Sequence[float], left_out: set[int]
) -> None:
    names = {f"{place}": (mean, mean) for place, mean in enumerate(means)}
    assert off_scale(names) == {f"{place}" for place in left_out}


def test_off_scale_of_losses_is_above() -> None:
    losses = {"a": (1.0, 1.2), "b": (1.1, 1.5), "c": (9.0, 9.1)}
    assert off_scale(losses, higher_is_better=False) == {"c"}


def test_framed_leaves_shares_of_the_axis_free_in_both_directions() -> None:
    assert framed(20.0, 80.0, 0.25, 0.0) == pytest.approx((0.0, 80.0))
    assert framed(3.0, 1.0, 0.1, 0.1) == pytest.approx((3.25, 0.75))


def test_cost_axis_shows_seconds_only_where_flops_agree(tmp_path: Path) -> None:
    equal, unequal = tmp_path / "equal", tmp_path / "unequal"
    for root, flops in ((equal, 104.0), (unequal, 106.0)):
        make_run(root, "joint", profile(8, 5, 5), flops=100.0)
        make_run(root, "other", profile(8, 5, 5), flops=flops)
        make_run(root, "untrained", profile(1, 1, 1), flops=0.0)
    label, why, spent = costs(board_of(equal))
    assert "seconds" in label and "within 5 %" in why and spent["other"] == 2.0
    label, why, spent = costs(board_of(unequal))
    assert (label, why, spent["other"]) == ("training FLOPs", "", 106.0)


def test_figures_name_what_lies_off_scale(tmp_path: Path) -> None:
    for label, right in (("joint", 80), ("fair", 90), ("good", 95), ("majority", 6)):
        make_run(tmp_path, label, {v: first(right, 100) for v in profile(0, 0, 0)})
    board = board_of(tmp_path)
    svg = dict(figures(board, [entry.label for entry in board.entries]))
    assert b"off scale: majority (clean 6.0, impaired 6.0)" in svg["balance.svg"]
    assert svg["cost.svg"].count(b"off scale: majority 6.0") == 2
    assert b"joint (control)" in svg["balance.svg"]


def test_balance_is_drawn_where_each_half_lags_on_the_other_side(tmp_path: Path) -> None:
    for label, clean, impaired in (("a", 9, 0), ("b", 9, 0), ("c", 1, 9), ("d", 1, 9)):
        make_run(tmp_path, label, profile(clean, impaired, impaired))
    svg = dict(figures(board_of(tmp_path), ["a", "b", "c", "d"]))["balance.svg"]
    assert b"off scale: c (clean 10.0, impaired 90.0), d (clean 10.0, impaired" in svg
