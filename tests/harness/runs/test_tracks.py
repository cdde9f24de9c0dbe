"""Tracks: what is equal for all, ids that stay, several budgets, and boards that never mix them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from board_factory import make_run, profile
from click.testing import CliRunner

from steelyard import tasks
from steelyard.harness.cli.main import cli
from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.records import record
from steelyard.harness.records.budget import BUDGETS, scaled
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import run, suite
from steelyard.harness.runs.job import Job
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.suite import SuiteEntry
from steelyard.leaderboards.loading.collect import budget_name, collect
from steelyard.leaderboards.tracks.anytime import area, publish_anytime

SPEC = RunSpec("joint", "food101", "tiny", "S", 0, data={"revision": "f2970ff306dd1129"})


def test_ids_from_before_tracks_stay_and_other_tracks_have_their_own() -> None:
    assert SPEC.id == "joint-food101-tiny-S-s0-ad309750"  # as published
    data = replace(SPEC, track="data")
    assert data.id.startswith("joint-food101-tiny-S-data-s0-")
    ids = {SPEC.hash, data.hash, replace(SPEC, wall=60.0).hash, replace(SPEC, tuning="a").hash}
    assert len(ids) == 4
    names = [budget_name(spec) for spec in (SPEC, data, replace(SPEC, wall=60.0))]
    assert names == ["S", "S of equal data", "S within 60 s"]


def test_methods_of_unequal_cost_train_on_equally_many_items(world: Path, tmp_path: Path) -> None:
    corpus = tasks.load("food101", world / "food101")
    ledgers = []
    for method in ("joint", "text_only", "late_ensemble"):
        spec = replace(SPEC, method=method, budget="320", track="data")
        job = Job(replace(spec, data={"revision": corpus.revision}), method, ())
        result = run.run(job, {"food101": corpus}, tmp_path, "cpu", lambda doing, share: None)
        ledgers.append(result.ledger)
    assert [(ledger.items, ledger.steps, ledger.limit_items) for ledger in ledgers] == [
        (320, 10, 320)
    ] * 3
    assert len({ledger.total_flops for ledger in ledgers}) == 3
    assert {ledger.limit_flops for ledger in ledgers} == {None}
    assert {ledger.stopped for ledger in ledgers} == {"budget"}


def test_anytime_is_three_budgets_on_the_compute_track(world: Path) -> None:
    anytime = suite.Suite("mine", (SuiteEntry("joint"),), ("food101",), track="anytime")
    corpus = tasks.load("food101", world / "food101")
    specs = [job.spec for job in suite.jobs(anytime, {"food101": corpus})]
    assert [(spec.budget, spec.track) for spec in specs] == [
        ("5e10", "compute"), ("1e11", "compute"), ("S", "compute"),
    ]  # fmt: skip
    assert scaled("8e9", 0.25) == "2e9" and 4 * float(scaled("S", 0.25)) == BUDGETS["S"].flops


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track": "dat"}, "Did you mean 'data'"),
        ({"track": "anytime", "wall": 60}, "anytime track has three budgets"),
        ({"track": "data", "wall": 60}, "the data track caps items alone"),
        ({"track": "data", "budget": "0.5"}, "whole training items"),
        ({"wall": -1}, "give seconds above 0"),
    ],
)
def test_a_track_that_makes_no_sense_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"methods": ["joint"], "tasks": ["food101"], **changes}))
    with pytest.raises(UserError, match=message):
        suites_from(str(path), RunOptions())


def rewritten(folder: Path, **changes: Any) -> None:
    """Rewrite a record for another track, other rules or another kind."""
    old = record.read(folder)
    spec = replace(old.spec, **changes.pop("spec", {}))
    ledger = replace(old.ledger, **changes.pop("ledger", {}))
    record.write(replace(old, spec=spec, id=spec.id, ledger=ledger, **changes), folder)


def test_no_board_mixes_tracks_rules_or_machines_under_a_cap_on_seconds(toy: Path) -> None:
    first, *_, last = record.find(toy)
    for change, message, choice in (
        ({"spec": {"track": "data"}}, "2 tracks, 'compute' and 'data'", "--track"),
        ({"provenance": {"data": {"classes": 2}, "rules": 2}}, "2 versions of the rules", ""),
    ):
        before = record.read(last)
        rewritten(last, **change)
        with pytest.raises(UserError, match=message) as refused:
            collect([toy])
        assert choice in str(refused.value)
        record.write(before, last)
    for folder in record.find(toy):
        rewritten(folder, spec={"wall": 60.0})
    assert {budget_name(selected.record.spec) for selected in collect([toy]).runs} == {
        "S within 60 s"
    }
    rewritten(first, ledger={"device": "another"})
    with pytest.raises(UserError, match="2 devices under a cap on seconds"):
        collect([toy])


def test_one_track_can_be_chosen_and_its_name_is_in_the_table(toy: Path) -> None:
    data = [folder for folder in record.find(toy) if record.read(folder).label != "poor"]
    for folder in data:
        rewritten(folder, spec={"track": "data"})
    results = collect([toy], track="data")
    assert {result.record.label for result in results.runs} == {"joint", "fair"}
    assert set(results.scores["track"]) == {"data"}
    assert "track" not in collect([toy], track="compute").scores.columns


@pytest.mark.usefixtures("blank_figures")
def test_trials_are_on_no_board_and_oracles_are_apart(toy: Path) -> None:
    for folder in record.find(toy):
        label = record.read(folder).label
        if label != "joint":
            rewritten(folder, kind="trial" if label == "poor" else "oracle")
    results = collect([toy])
    assert {result.record.label for result in results.runs} == {"joint"}
    assert {result.record.label for result in results.oracle} == {"fair"}
    out = toy.parent / "board"
    printed = CliRunner().invoke(cli, ["leaderboard", str(toy), "--out", str(out)])
    assert printed.exit_code == 0, printed.output
    assert "fair" not in (out / "board.md").read_text()
    page = (out / "oracle.md").read_text()
    assert "| 2 | fair | toy | toy accuracy |" in page and "Not ranked" in page


def test_area_by_hand() -> None:
    # Over log 2: two strips of equal width, of mean heights 0.3 and 0.5.
    assert area([1, 2, 4], [0.2, 0.4, 0.6]) == pytest.approx(0.4)
    assert area([1, 2, 8], [0.0, 0.0, 0.6]) == pytest.approx(0.2)  # the second twice as wide


@pytest.mark.usefixtures("blank_figures")
def test_curves_over_budgets(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for budget, (joint, fair) in {"5e10": (2, 4), "1e11": (4, 5), "S": (8, 6)}.items():
        make_run(runs, "joint", profile(joint, joint, joint), budget=budget)
        make_run(runs, "fair", profile(fair, fair, fair), budget=budget)
    make_run(runs, "late", profile(9, 9, 9), budget="S")
    published = publish_anytime([runs], tmp_path / "out")
    assert [(curve.label, round(curve.area, 3)) for curve in published.curves] == [
        ("fair", 0.5), ("joint", 0.45),
    ]  # fmt: skip
    assert published.lacking == ("late on toy",)
    text = (tmp_path / "out" / "anytime.md").read_text()
    assert "late on toy" in text and "5e10" in text
    assert (tmp_path / "out" / "budget-5e10" / "board.md").is_file()
    with pytest.raises(UserError, match="1 budget"):
        publish_anytime([one_budget(tmp_path)], tmp_path / "no")


def one_budget(root: Path) -> Path:
    make_run(root / "one", "joint", profile(8, 8, 8))
    return root / "one"
