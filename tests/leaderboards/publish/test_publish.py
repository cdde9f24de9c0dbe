"""Write boards: escaped tables, figures, equal bytes."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from board_factory import board_of, first, make_run, profile
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from PIL import Image

from steelyard.harness.core.characters import md
from steelyard.harness.records.record import Score
from steelyard.leaderboards.boards import tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.cells import with_half
from steelyard.leaderboards.boards.plots.board import figures
from steelyard.leaderboards.boards.plots.costs import cost_axis, pareto
from steelyard.leaderboards.output.style import (
    axis_limits,
    headline,
    off_scale,
    panels,
    render,
    score_height,
    spread,
)
from steelyard.leaderboards.publish import publish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOSTILE = r"a|b<i>&_%$#{x}~^\*`["


def hostile_board(root: Path) -> Board:
    make_run(root, "joint", profile(5, 5, 5))
    make_run(root, HOSTILE, profile(8, 5, 5))
    return board_of(root)


def test_markdown_escapes_labels(tmp_path: Path) -> None:
    page = tables.report(hostile_board(tmp_path)).markdown()
    row = next(line for line in page.splitlines() if "a\\|b" in line)
    assert "a\\|b&lt;i&gt;&amp;\\_%\\$#{x}\\~^\\\\\\*\\`\\[" in row
    header = next(line for line in page.splitlines() if line.startswith("| # | entry"))
    assert row.replace("\\|", "").count("|") == header.count("|")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("joint_unimodal", "joint_unimodal"),
        ("a__b", "a__b"),
        ("_a_ b__", r"\_a\_ b\_\_"),
        ("# a #1", r"\# a #1"),
        ("#", "#"),
    ],
)
def test_markdown_escapes_only_what_would_be_markup(text: str, expected: str) -> None:
    assert md(text) == expected


def test_latex_escapes_labels(tmp_path: Path) -> None:
    text = tables.report(hostile_board(tmp_path)).latex()
    escaped = (
        r"a\textbar{}b\textless{}i\textgreater{}\&\_\%\$\#\{x\}\textasciitilde{}"
        r"\textasciicircum{}\textbackslash{}*`["
    )
    assert escaped in text
    assert text.isascii()
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_csv_and_json_give_labels_and_figures_back(tmp_path: Path) -> None:
    board = hostile_board(tmp_path)
    rows = list(csv.DictReader(io.StringIO(tables.report(board).csv())))
    assert [row["label"] for row in rows] == [HOSTILE, "joint"]
    assert float(rows[0]["balanced"]) == pytest.approx(0.65)
    assert float(rows[0]["difference_clean"]) == pytest.approx(0.3)
    assert rows[1]["difference_clean"] == ""
    content = json.loads(tables.report(board).json())
    assert content["rows"][0]["label"] == HOSTILE
    assert content["rows"][0]["scores"]["clean"]["values"] == [0.8]
    assert "samples" not in content


def printed(board: Board, width: int) -> str:
    """Return the terminal table as text."""
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables.terminal(board, width))
    return console.export_text()


def test_terminal_table_shows_labels_as_they_are(tmp_path: Path) -> None:
    board = hostile_board(tmp_path)
    assert HOSTILE in printed(board, 200) and HOSTILE in printed(board, 80)


def test_a_narrow_terminal_has_more_tables_and_cuts_only_names(toy: Path) -> None:
    long = "mcr pretrained without its permutation game"
    for seed in (0, 1):
        make_run(toy, long, profile(9, 7, 7), seed=seed)
    board = board_of(toy)
    wide, narrow = printed(board, 200), printed(board, 70)
    assert "range" in wide and "gap" in wide and "…" in wide
    rows = [line for line in narrow.splitlines() if line.strip().startswith("1  mcr pre")]
    assert len(rows) > 1 and max(map(len, rows)) <= 70
    assert all(row.count("…") == 1 for row in rows), "only the name is cut"
    for name in ("balanced", "clean", "corrupted"):
        assert with_half(board.rows[0].scores[name]) in " ".join(rows)


def test_control_kind_is_shown(toy: Path) -> None:
    page = tables.report(board_of(toy, kinds={"joint": "control", "fair": "objective"})).markdown()
    assert "joint (control)" in page and "fair (" not in page


def test_kinds_given_by_method_hold_for_its_entries_with_options(tmp_path: Path) -> None:
    make_run(tmp_path, "drop(p=0.5)", profile(5, 5, 5), method="drop")
    assert board_of(tmp_path, kinds={"drop": "control"}).rows[0].kind == "control"


def test_rebuilding_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    graded = {f"{modality}-noise:{level}": first(7 - level) for modality in ("image", "text")
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
    names = {f"{rank}": (mean, mean) for rank, mean in enumerate(means)}
    assert off_scale(names) == {f"{rank}" for rank in left_out}


def test_off_scale_of_losses_is_above() -> None:
    losses = {"a": (1.0, 1.2), "b": (1.1, 1.5), "c": (9.0, 9.1)}
    assert off_scale(losses, higher_is_better=False) == {"c"}


def test_framed_leaves_shares_of_the_axis_free_in_both_directions() -> None:
    assert axis_limits(20.0, 80.0, 0.25, 0.0) == pytest.approx((0.0, 80.0))
    assert axis_limits(3.0, 1.0, 0.1, 0.1) == pytest.approx((3.25, 0.75))


def test_cost_axis_shows_seconds_only_where_flops_agree(tmp_path: Path) -> None:
    equal, unequal = tmp_path / "equal", tmp_path / "unequal"
    for root, flops in ((equal, 104.0), (unequal, 106.0)):
        make_run(root, "joint", profile(8, 5, 5), flops=100.0)
        make_run(root, "other", profile(8, 5, 5), flops=flops)
        make_run(root, "untrained", profile(1, 1, 1), flops=0.0)
    label, why, spent = cost_axis({entry.label: entry.cost for entry in board_of(equal).rows})
    assert "seconds" in label and "within 5 %" in why and spent["other"] == 2.0
    label, why, spent = cost_axis({entry.label: entry.cost for entry in board_of(unequal).rows})
    assert (label, why, spent["other"]) == ("training FLOPs", "", 106.0)


def test_figures_name_what_lies_off_scale(tmp_path: Path) -> None:
    for label, right in (("joint", 80), ("fair", 90), ("good", 95), ("majority", 6)):
        make_run(tmp_path, label, {v: first(right, 100) for v in profile(0, 0, 0)})
    board = board_of(tmp_path)
    svg = render(figures(board, [entry.label for entry in board.rows]))
    assert b"off scale: majority (clean 6.0, corrupted 6.0)" in svg["balance.svg"]
    assert svg["cost.svg"].count(b"off scale: majority 6.0") == 2
    assert b"joint (control)" in svg["balance.svg"]


def test_balance_is_drawn_where_each_half_lags_on_the_other_side(tmp_path: Path) -> None:
    for label, clean, corrupted in (("a", 9, 0), ("b", 9, 0), ("c", 1, 9), ("d", 1, 9)):
        make_run(tmp_path, label, profile(clean, corrupted, corrupted))
    svg = render(figures(board_of(tmp_path), ["a", "b", "c", "d"]))["balance.svg"]
    assert b"off scale: c (clean 10.0, corrupted 90.0), d (clean 10.0, corrupted" in svg


@pytest.mark.parametrize("ending", ["pictures", "i" * 90, "m" * 60])
def test_no_text_is_cut_at_the_edge_of_a_figure(ending: str) -> None:
    def long() -> "Figure":
        figure, _ = panels([1.0], score_height(1))
        headline(figure, "A title", f"Small print below a title is often wider than {ending}")
        return figure

    images = render({"long": long})
    picture = np.asarray(Image.open(io.BytesIO(images["long.png"])).convert("L"))
    margin = int(0.08 * 150)  # of a tenth of an inch
    assert (picture[:, -margin:] == 255).all() and (picture[:, -3 * margin :] < 255).any()


def test_the_columns_that_the_documents_name_are_written(toy: Path) -> None:
    """Fields of a row by name: the page may not describe what is not there, nor leave any out."""
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    publish([toy], toy / "out")
    with (toy / "out" / "scores.csv").open() as file:
        columns = next(csv.reader(file))
    assert {field.name for field in fields(Score)} <= {*re.findall(r"`(\w+)`", page)}
    _, _, text = page.partition("Columns of `scores.csv`: ")
    assert re.findall(r"`(\w+)`", text.partition(".\n")[0]) == columns
    with (toy / "out" / "board-toy.csv").open() as file:
        columns = next(csv.reader(file))
    _, _, text = page.partition("Columns of a board's CSV: ")
    names = set(re.findall(r"`(\w+)`", text.partition("\n\n")[0]))
    assert names - {"_low", "_high", "_p", "_p_holm", "difference_NAME", "flops_PHASE"} <= {
        *columns, "win_rate", "gap", "worst", "better_corrupted", "balance_traded",
    }  # fmt: skip
    scores = r"clean|corrupted|balanced|image|text|image-\w+|text-\w+"
    described = rf"({scores}|win_rate|difference_\w+)(_low|_high|_p|_p_holm)?|flops_\w+"
    assert not [name for name in columns if name not in names and not re.fullmatch(described, name)]


def test_the_terminal_gets_the_first_rows_of_a_long_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for right in range(1, 8):
        make_run(tmp_path, f"entry {right}", profile(right, right, right))
    board = board_of(tmp_path)
    monkeypatch.setattr(tables, "TERMINAL_ROWS", 2)
    text = printed(board, 100)
    assert [right for right in range(1, 8) if f"entry {right}" in text] == [6, 7]
    assert "5 more rows in board-toy.md" in text
    monkeypatch.setattr(tables, "TERMINAL_ROWS", 7)
    assert "entry 1" in printed(board, 100) and "more rows" not in printed(board, 100)
