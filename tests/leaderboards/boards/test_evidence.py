"""Boards whose runs are too short or whose data is generated are marked wherever they are shown."""

import csv
import io
import json
from pathlib import Path

import pytest
from board_factory import board_of, entry, first, make_answered, make_run, profile
from rich.console import Console

from steelyard.harness.records.record import find, read
from steelyard.leaderboards.boards import evidence, tables
from steelyard.leaderboards.boards.board import build
from steelyard.leaderboards.loading.collect import Run, collect
from steelyard.leaderboards.publish import publish
from steelyard.leaderboards.tracks.anytime import publish_anytime
from steelyard.leaderboards.tracks.rank_change import publish_tracks

REASON = "preliminary: slow took 299 optimiser steps, fewer than 300"


def reason(folder: Path) -> str:
    return evidence.preliminary(collect([folder]).groups("toy"))


def test_the_entry_with_the_fewest_steps_decides(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", {"clean": first(8)}, steps=300)
    assert reason(tmp_path) == ""
    make_run(tmp_path, "slow", {"clean": first(8)}, steps=299)
    make_run(tmp_path, "slow", {"clean": first(8)}, steps=900, seed=1)
    assert reason(tmp_path) == REASON
    make_run(tmp_path, "once", {"clean": first(8)}, steps=1)
    assert reason(tmp_path) == "preliminary: once took 1 optimiser step, fewer than 300"


def test_entries_that_do_not_train_do_not_count(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", {"clean": first(8)}, steps=500)
    make_run(tmp_path, "constant", {"clean": first(8)}, steps=0)
    make_run(tmp_path, "as it is", {"clean": first(8)}, steps=0, method="zero_shot",
             stopped="budget")  # fmt: skip
    assert reason(tmp_path) == ""
    make_run(tmp_path, "starved", {"clean": first(8)}, steps=0, method="mine.py",
             stopped="budget")  # fmt: skip
    assert reason(tmp_path).startswith("preliminary: starved took 0 optimiser steps")


def test_a_board_names_what_is_ours_on_a_vision_language_model(tmp_path: Path) -> None:
    for kind, backbone in (("vlm", "tiny-vlm"), ("classifier", "tiny")):
        root = tmp_path / kind
        for label, method in (("joint", "joint"), ("our game", "mcr"), ("mine", "mine.py")):
            make_run(root, label, profile(8, 5, 6), method=method, backbone=backbone)
        make_run(root, "dropout", profile(8, 5, 6), method="modality_dropout", backbone=backbone)
        notes = [note for note in board_of(root).notes if "not by the papers" in note]
        assert len(notes) == (kind == "vlm")
        assert all(": dropout, our game;" in note for note in notes)


def test_a_preliminary_board_says_so_in_every_format(tmp_path: Path) -> None:
    for task in ("toy", "other"):
        make_run(tmp_path / "runs", "joint", profile(8, 5, 6), task=task)
        make_run(tmp_path / "runs", "slow", profile(7, 4, 5), task=task, steps=299)
    board = board_of(tmp_path / "runs")
    assert (board.preliminary, board.title) == (REASON, "toy (preliminary)")
    capital = REASON.replace("p", "P", 1)
    assert "# toy (preliminary)\n\ntoy (preliminary): accuracy" in tables.report(board).markdown()
    for text in (tables.report(board).markdown(), tables.report(board).latex()):
        assert capital in text
    rows = csv.DictReader(io.StringIO(tables.report(board).csv()))
    assert {row["preliminary"] for row in rows} == {REASON}
    assert json.loads(tables.report(board).json())["preliminary"] == REASON
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(tables.terminal(board, 200))
    assert capital in console.export_text()
    files = {path.name: path for path in publish([tmp_path / "runs"], tmp_path / "out").files}
    figures = [name for name in files if name.endswith(".svg")]
    assert len(figures) > 6
    for name in figures:
        assert b"(preliminary)" in files[name].read_bytes(), name
    front = files["board.md"].read_text()
    assert "## All tasks (preliminary)" in front and f"other: {REASON[13:]}; toy: slow" in front
    assert json.loads(files["overall.json"].read_text())["preliminary"].startswith("preliminary: ")
    assert capital in files["robustness-toy.md"].read_text()
    assert json.loads(files["robustness-toy.json"].read_text())["preliminary"] == REASON


def test_a_preliminary_profile_says_so(tmp_path: Path) -> None:
    make_answered(tmp_path, "sft", entry(30))
    make_answered(tmp_path, "slow", entry(20), steps=299)
    made = build(collect([tmp_path]), "pool", control="sft")
    assert (made.preliminary, made.title) == (REASON, "pool (tiny-vlm, preliminary)")
    assert tables.report(made, []).markdown().startswith("# pool (tiny-vlm, preliminary)\n")
    assert REASON.capitalize() in tables.caption(made)
    assert all(REASON in line for line in tables.report(made).csv().splitlines()[1:])
    assert json.loads(tables.report(made).json())["preliminary"] == REASON


def test_tracks_and_budgets_say_so(tmp_path: Path) -> None:
    for track in ("data", "compute"):
        make_run(tmp_path / "tracks", "joint", {"clean": first(8)}, track=track)
        steps = 299 if track == "data" else 800
        make_run(tmp_path / "tracks", "slow", {"clean": first(6)}, track=track, steps=steps)
    (task,) = publish_tracks([tmp_path / "tracks"], tmp_path / "a").rank_changes
    assert task.preliminary == f"preliminary: equal data: {REASON[13:]}"
    page = (tmp_path / "a" / "rank-change.md").read_text()
    assert "## toy (preliminary)" in page and f"Preliminary: equal data: {REASON[13:]}." in page
    for budget in ("XS", "S"):
        steps = 299 if budget == "XS" else 800
        make_run(tmp_path / "budgets", "slow", {"clean": first(6)}, budget=budget, steps=steps)
    made = publish_anytime([tmp_path / "budgets"], tmp_path / "b")
    assert made.preliminary == {"toy": f"preliminary: XS: {REASON[13:]}"}
    assert made.sheets[0].title == "toy (preliminary) at any time"
    assert f"Preliminary: XS: {REASON[13:]}." in (tmp_path / "b" / "anytime.md").read_text()


@pytest.mark.parametrize(
    ("data", "generated"),
    [
        ({}, False),
        ({"generated": True}, True),
        ({"revision": "f2970ff306dd1129"}, True),
        ({"revision": "122dc914ab123d84"}, False),
    ],
)
def test_generated_data_is_recognised(tmp_path: Path, data: dict, generated: bool) -> None:
    make_run(tmp_path, "joint", profile(8, 5, 6), data=data)
    board = board_of(tmp_path)
    assert board.generated == generated
    assert board.title == ("toy (generated)" if generated else "toy")
    assert tables.caption(board).startswith(f"{board.title}: accuracy")


def test_published_records_of_the_world_are_generated_and_photos_are_not() -> None:
    records = Path(__file__).parents[3] / "leaderboards" / "records"
    for folder in records.iterdir():
        if folder.is_dir():
            runs = [Run(path, read(path)) for path in find(folder)[:3]]
            generated = evidence.is_generated(runs)
            assert generated == ("photos" not in folder.name), folder.name


def test_marks_join_the_brackets_of_a_name() -> None:
    assert evidence.titled("pool (tiny)", generated=True, preliminary="x") == (
        "pool (tiny, generated, preliminary)"
    )
