"""How ranks change between two standings and two tracks, the slope chart and critical bars."""

import csv
import io
import json
from pathlib import Path

import pytest
from board_factory import entry, first, make_answered, make_run
from click.testing import CliRunner

from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.leaderboards.boards.plots.ranks import close_runs, critical_figure, slope_figure
from steelyard.leaderboards.output.style import marks, render
from steelyard.leaderboards.stats.ranking import (
    CriticalDifference,
    OverallRank,
    RankChange,
    changes,
)
from steelyard.leaderboards.tracks.rank_change import publish_tracks, sentence, sheet


def place(rank: float, first_place: float, last_place: float) -> OverallRank:
    return OverallRank(
        {"toy": rank}, rank, first_place, last_place, first_place, last_place, 0, None, ()
    )


def test_changes_are_clear_where_ranges_do_not_touch() -> None:
    before = {"a": place(1, 1, 1), "b": place(2, 2, 3), "c": place(3, 2, 3)}
    after = {"c": place(1, 1, 1), "b": place(2, 2, 3), "a": place(3, 2, 3)}
    found = {change.label: change for change in changes(before, after)}
    assert list(found) == ["c", "b", "a"]
    assert (found["c"].before, found["c"].after, found["c"].verdict) == (3, 1, "up")
    assert (found["a"].before, found["a"].after, found["a"].verdict) == (1, 3, "down")
    assert (found["b"].verdict, found["b"].before_range) == ("", (2, 3))


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    """Two tasks on both tracks; ``quick`` wins on equal data, ``joint`` at equal compute."""
    levels = {"data": {"joint": 30, "quick": 50, "poor": 5}, "compute": {"joint": 50, "quick": 30,
              "poor": 5}}  # fmt: skip
    for track, rights in levels.items():
        for label, right in rights.items():
            for seed in (0, 1):
                for task in ("one", "two"):
                    hits = {"clean": first(right + seed, 60)}
                    make_run(tmp_path, label, hits, seed=seed, task=task, track=track)
    make_run(tmp_path, "late", {"clean": first(9, 60)}, seed=0, task="one", track="data")
    make_run(tmp_path, "late", {"clean": first(9, 60)}, seed=1, task="one", track="data")
    return tmp_path


@pytest.mark.usefixtures("blank_figures")
def test_both_tracks_are_published_with_the_changes(tracks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[tuple[str, float]] = []
    made = publish_tracks([tracks], out, report=lambda doing, share: told.append((doing, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0, 1)
    steps = ("resampling items", "robustness and tables", "figures")
    by_task = [f"{task}: {step}" for task in ("one", "two") for step in steps]
    by_task += ["one: done", "two: done"]  # figures are drawn when all boards are built
    assert list(dict.fromkeys(doing for doing, _ in told)) == [
        f"equal {track}: {doing}"
        for track in ("data", "compute")
        for doing in ("reading records", *by_task)
    ]
    assert ("equal compute: reading records", 0.5) in told
    assert [task.about for task in made.rank_changes] == ["all tasks", "one", "two"]
    moves = {change.label: change.verdict for change in made.rank_changes[1].changes}
    assert moves == {"joint": "up", "quick": "down", "poor": ""}
    assert made.rank_changes[1].lacking == ("late",)
    rows = list(csv.DictReader(io.StringIO((out / "rank-change.csv").read_text())))
    assert rows[0]["label"] == "joint" and (rows[0]["data"], rows[0]["compute"]) == ("2", "1")
    assert json.loads((out / "rank-change.json").read_text())["tasks"][2]["about"] == "two"
    page = (out / "rank-change.md").read_text(encoding="utf-8")
    assert "| 1 | joint | 2 (2-2) | 1 (1-1) | ▲ +1 |" in page
    assert "joint (rises), quick (falls)" in page and "late: ranked on one track only" in page
    assert {"track-data", "track-compute", "rank-change-1.svg"} <= {p.name for p in out.iterdir()}
    assert "equal data" in (out / "track-data" / "board-one.md").read_text()


def test_publishing_both_tracks_twice_gives_the_same_bytes(tracks: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "out" / name for name in ("a", "b")]
    for out in outs:
        publish_tracks([tracks], out)
    names = [path.name for path in outs[0].iterdir() if path.is_file()]
    assert len(names) == 9
    assert all((outs[0] / n).read_bytes() == (outs[1] / n).read_bytes() for n in names)


def test_one_track_alone_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", {"clean": first(5)})
    with pytest.raises(UserError, match=r"No record of the data track .* --track data"):
        publish_tracks([tmp_path], tmp_path / "out")
    make_run(tmp_path, "joint", {"clean": first(5)}, track="data")
    with pytest.raises(UserError, match="No two entries are ranked on both tracks"):
        publish_tracks([tmp_path], tmp_path / "out")


@pytest.mark.usefixtures("blank_figures")
def test_the_command_prints_what_changes(tracks: Path, tmp_path: Path) -> None:
    words = ["leaderboard", str(tracks), "--track", "both", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "2 of 3 entries change rank" in " ".join(result.output.split())
    assert "rank-change.md" in result.output.replace("\n", "")


@pytest.mark.usefixtures("blank_figures")
def test_what_does_not_change_is_said(tracks: Path, tmp_path: Path) -> None:
    made = publish_tracks([tracks], tmp_path / "out").rank_changes[0]
    still = [RankChange("a", 1, (1, 2), 2, (1, 2), "")]
    from dataclasses import replace

    calm = replace(made, changes=tuple(still))
    assert "no rank changes by more" in sentence(calm)
    assert sheet(calm).rows[0][-1].text == "-1"


def test_a_slope_chart_names_entries_with_their_ranges() -> None:
    found = [
        RankChange("a $x$", 2, (1, 3), 1, (1, 1), ""),
        RankChange("b", 1, (1, 1), 2, (2, 3), "down"),
    ]
    drawn = dict(render({"x": lambda: slope_figure(found, "toy", "left", "right")}))
    for text in (b"a $x$  2  (1-3)", b"1  (1-1)  a $x$", b"toy: how ranks change", b"left"):
        assert text in drawn["x.svg"]


def test_bars_join_ranks_within_the_critical_difference() -> None:
    assert close_runs([1.0, 1.5, 2.2, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert close_runs([1.0, 1.5, 1.9, 4.0], 1.0) == [(0, 2)]
    assert close_runs([1.0, 3.0], 1.0) == []
    critical = CriticalDifference(12, 0.0004, 1.0, {"a": 1.0, "b": 1.5, "c": 4.0})
    look = marks(["a", "b", "c"], "a")
    drawn = dict(render({"x": lambda: critical_figure(critical, "toy", look)}))["x.svg"]
    assert b"p below 0.001" in drawn and b"12 blocks" in drawn


@pytest.mark.usefixtures("blank_figures")
def test_profiles_change_ranks_too(tmp_path: Path) -> None:
    for track, rights in {"data": (30, 20), "compute": (20, 30)}.items():
        for label, right in zip(("sft", "other"), rights, strict=True):
            make_answered(tmp_path / track, label, entry(right), track=track)
    made = publish_tracks([tmp_path], tmp_path / "out")
    assert [c.label for c in made.rank_changes[0].changes] == ["other", "sft"]
    assert made.rank_changes[0].about == "pool (tiny-vlm)"
