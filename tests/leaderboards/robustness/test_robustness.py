"""Robustness summaries: drops, areas, worst cases and unchanged answers, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from board_factory import entry, first, make_answered, make_run, profile

from steelyard.leaderboards.boards.board import build as build_board
from steelyard.leaderboards.loading.collect import collect
from steelyard.leaderboards.output.style import MOST, render, select_entries
from steelyard.leaderboards.publish import publish
from steelyard.leaderboards.robustness import numbers
from steelyard.leaderboards.robustness.items import of_board
from steelyard.leaderboards.robustness.numbers import Robustness, VariantScores, corruptions_of
from steelyard.leaderboards.robustness.plots import best_of
from steelyard.leaderboards.robustness.tables import board_report, report, sheets
from steelyard.leaderboards.stats.intervals import Sample

VARIANTS = ("image-noise:1", "image-noise:3", "image-blank", "text-noise:2", "clean",
            "image-noise:3+text-noise:2", "both-missing:70", "image-missing:100",
            "image-missing:50")  # fmt: skip


def sample(value: float, count: int = 8) -> Sample:
    """One seed; resamples spread evenly about the value."""
    return Sample(np.array([value]), value + np.linspace(-0.01, 0.01, count)[None], 100)


def measured(scores: dict[str, float], *, higher: bool = True) -> VariantScores:
    by_variant = {name: sample(value) for name, value in scores.items()}
    return VariantScores("toy", "accuracy", higher, True, {"joint": by_variant}, {})


def only(found: Robustness | None) -> dict[str, float]:
    assert found is not None
    return {name: each.mean for name, each in found.rows[0].numbers.items()}


def test_variants_are_grouped_by_corruption_and_ordered_by_strength() -> None:
    found = {each.name: each for each in corruptions_of(VARIANTS)}
    assert found["image-noise"].variants == ("image-noise:1", "image-noise:3")
    assert found["image-noise"].levels == (1, 3)
    assert found["image-missing"].levels == (50, 100)
    assert found["image-blank"].levels == ()
    assert found["image-noise+text-noise"].modality == found["both-missing"].modality == "both"
    assert found["image-noise+text-noise"].levels == ()  # two strengths are no number
    assert [each.modality for each in corruptions_of(VARIANTS)] == ["image"] * 3 + ["text"] + [
        "both"
    ] * 2


def test_averages_over_severities_then_corruptions_then_sides() -> None:
    scores = {"clean": 0.8, "image-noise:1": 0.7, "image-noise:2": 0.5, "image-blank": 0.2,
              "text-blank": 0.4, "image-blank+text-blank": 0.1}  # fmt: skip
    found = only(numbers.build(measured(scores), "joint"))
    assert found["drop.image"] == pytest.approx(0.8 - (0.6 + 0.2) / 2)
    assert found["drop.text"] == pytest.approx(0.4)
    assert found["drop"] == pytest.approx(0.4)
    assert found["relative"] == pytest.approx(0.5)
    assert found["drop.both"] == pytest.approx(0.7)  # in no average
    assert found["worst"] == pytest.approx(0.1)
    # From 0.8 over 0.7 to 0.5 at equal steps: (0.75 + 0.6) / 2.
    assert found["area"] == pytest.approx(0.675)
    assert "same" not in found


def test_uneven_strengths_weigh_by_their_distance() -> None:
    scores = {"clean": 1.0, "image-missing:50": 1.0, "image-missing:100": 0.0}
    (corruption,) = corruptions_of(list(scores))
    found = numbers.area(corruption, {name: sample(value) for name, value in scores.items()})
    assert found.values[0] == pytest.approx(0.75)
    scores = {"clean": 1.0, "image-missing:10": 0.0, "image-missing:100": 0.0}
    (corruption,) = corruptions_of(list(scores))
    found = numbers.area(corruption, {name: sample(value) for name, value in scores.items()})
    assert found.values[0] == pytest.approx(0.05)


def test_errors_grow_where_lower_is_better() -> None:
    scores = {"clean": 0.1, "image-noise:1": 0.3, "image-noise:2": 0.2}
    found = only(numbers.build(measured(scores, higher=False), "joint"))
    assert found["drop"] == pytest.approx(0.15) and found["relative"] == pytest.approx(1.5)
    assert found["worst"] == pytest.approx(0.3)


def test_nothing_clean_to_lose_has_no_relative_drop() -> None:
    found = only(numbers.build(measured({"clean": 0.0, "image-blank": 0.0}), "joint"))
    assert "relative" not in found and found["drop"] == 0
    assert numbers.build(measured({"clean": 0.5}), "joint") is None


def test_unchanged_answers_are_counted_right_or_wrong(toy: Path) -> None:
    (scores,) = of_board(build_board(collect([toy]), "toy"))
    found = scores.same["poor"]
    # Right on four of ten when clean and on one when damaged: three answers of two classes change.
    assert found["image-blank"].values == pytest.approx([0.7, 0.7])
    assert found["image-blank"].draws.shape[0] == 2 and found["image-blank"].clusters == 10


def test_a_board_compares_with_the_control(tmp_path: Path) -> None:
    noise = {f"image-noise:{level}": first(90 - 10 * level, of=100) for level in (1, 3)}
    for seed in (0, 1, 2):
        firm = {"clean": first(90, of=100), **{name: first(90, of=100) for name in noise}}
        weak = {"clean": first(90, of=100), **noise}
        make_run(tmp_path, "firm", firm, seed=seed)
        make_run(tmp_path, "joint", weak, seed=seed)
    (found,) = of_board(build_board(collect([tmp_path]), "toy"))
    made = numbers.build(found, "joint")
    assert made is not None and [row.label for row in made.rows] == ["firm", "joint"]
    better = made.rows[0].differences
    assert (
        better["drop"].interval.mean == pytest.approx(-0.2) and better["drop"].verdict == "better"
    )
    assert better["worst"].interval.mean == pytest.approx(0.3)
    assert better["same"].interval.mean == pytest.approx(0.2)
    assert made.rows[1].worst == "image-noise:3" and not made.rows[1].differences
    assert [step.mean for step in made.rows[1].curves["image-noise"]] == pytest.approx([-0.1, -0.3])
    source = build_board(collect([tmp_path]), "toy")
    written = report(source, [made], ["firm", "joint"])
    page = written.markdown()
    assert "| 1 | firm | 90.0 ± " in page and "-20.0 ± " in page and "▲" in page
    assert "(robustness-toy-fan.svg)" in page and len(sheets(made)) == 2
    assert "toy,joint,change,image-noise:3,-0.3," in written.csv()
    assert json.loads(written.json())["entries"][0]["label"] == "firm"


def test_boards_are_published_with_their_robustness(toy: Path, tmp_path: Path) -> None:
    published = publish([toy], tmp_path / "out")
    names = {path.name for path in published.files}
    wanted = {f"robustness-toy{end}" for end in (".md", ".csv", ".json", "-fan.png", "-fan.svg")}
    assert wanted <= names
    front = (tmp_path / "out" / "board.md").read_text()
    assert "## Robustness" in front and "[toy](robustness-toy.md)" in front
    built = build_board(collect([toy]), "toy")
    robustness = board_report(built, ["joint", "poor", "fair"])
    assert robustness is not None and [*robustness.all_figures] == ["robustness-toy-fan"]
    for name, content in render(robustness.all_figures).items():
        assert (tmp_path / "out" / name).read_bytes() == content


def test_boards_without_damage_have_none(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "joint", {"clean": first(8)})
    make_run(tmp_path / "runs", "other", {"clean": first(6)})
    published = publish([tmp_path / "runs"], tmp_path / "out")
    assert not any(path.name.startswith("robustness") for path in published.files)
    assert "Robustness" not in (tmp_path / "out" / "board.md").read_text()


def test_an_incomplete_entry_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", profile(8, 5, 5))
    make_run(tmp_path, "half", {"clean": first(8)})
    made = publish([tmp_path], tmp_path / "out")
    content = json.loads((tmp_path / "out" / "robustness-toy.json").read_text())
    assert [row["label"] for row in content["entries"]] == ["joint"]
    assert [blank.label for blank in made.boards[0].blanks] == ["half"]


def test_profiles_have_a_section_for_each_damaged_task(tmp_path: Path) -> None:
    for label, right in (("sft", 36), ("weak", 30)):
        for seed in (0, 1):
            make_answered(tmp_path, label, entry(right), seed=seed)
    made = build_board(collect([tmp_path]), "pool", control="sft")
    robustness = board_report(made, ["sft", "weak"])
    assert robustness is not None and "robustness-pool-asked-fan" in robustness.all_figures
    files = robustness.files()
    content = json.loads(files["robustness-pool.json"])
    (task,) = content["tasks"]
    assert (task["task"], task["control"]) == ("asked", "sft")
    row = next(row for row in content["entries"] if row["label"] == "sft")
    # Right on the first 36 of 40; without images on 20, so 16 answers change.
    assert row["numbers"]["same.image"]["mean"] == pytest.approx(((24 / 40) + (34 / 40)) / 2)


def test_a_figure_of_many_shows_the_first_and_the_control() -> None:
    names = [f"entry {number}" for number in range(MOST + 5)]
    few = names[:MOST]
    assert select_entries("toy", few, names[0], str) == ("toy", tuple(few))
    title, kept = select_entries("toy", names, names[-1], str)
    assert title == f"toy, best {MOST} of {MOST + 5}"
    assert kept == (*few, names[-1])
    assert select_entries("toy", names, names[0], str)[1] == tuple(few)
    assert select_entries("toy", names, "absent", str)[1] == tuple(few)


def test_the_fan_of_many_entries_says_how_many_there_are() -> None:
    of_each = {name: sample(value) for name, value in (("clean", 0.9), ("image-noise:1", 0.5))}
    scores = {f"entry {number:02}": of_each for number in range(MOST + 2)}
    made = numbers.build(VariantScores("toy", "accuracy", True, True, scores, {}), "entry 00")
    assert made is not None and len(made.rows) == MOST + 2
    shown = best_of(made, made.task)
    assert (shown.task, len(shown.rows)) == (f"toy, best {MOST} of {MOST + 2}", MOST)
