"""Profile boards: shared images, label-scored tasks, empty metrics, controls, factorials."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from board_factory import TRUTH, entry, make_answered, make_run, said
from board_factory import profile as hits
from scipy.stats import t as student
from sklearn.metrics import f1_score

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Score, read, write
from steelyard.leaderboards.boards import factorial, tables
from steelyard.leaderboards.boards.board import Board, build
from steelyard.leaderboards.boards.cells import with_half
from steelyard.leaderboards.boards.columns import COMPOSITE, Column, has_several_scores
from steelyard.leaderboards.loading.collect import collect
from steelyard.leaderboards.publish import publish
from steelyard.leaderboards.stats.intervals import Sample


def built(root: Path, control: str | None = None) -> Board:
    return build(collect([root]), "pool", control=control)


def test_tasks_about_the_same_images_are_resampled_together(tmp_path: Path) -> None:
    """Asking the same questions twice makes nothing more certain: the composite's interval stays.

    Resampled apart, it would shrink by the square root of two.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    make_answered(one, "sft", {"pool": {"clean": said(28)}})
    make_answered(two, "sft", {"pool": {"clean": said(28)}, "again": {"clean": said(28)}})
    alone, both = (built(root).rows[0].scores[COMPOSITE] for root in (one, two))
    assert both.mean == pytest.approx(alone.mean)
    scores = built(two).measured["sft"]
    assert np.array_equal(scores["pool"].draws, scores["again"].draws, equal_nan=True)
    assert both.half == pytest.approx(alone.half, rel=0.1)  # other resamples, same spread


def test_one_seeds_interval_is_that_of_a_bootstrap_over_clusters(tmp_path: Path) -> None:
    make_answered(tmp_path, "sft", {"pool": {"clean": said(28)}})
    found = built(tmp_path).rows[0].scores["pool f1"]
    truth, predicted = (
        np.array(modality).reshape(20, 2) for modality in zip(*said(28), strict=True)
    )
    generator = np.random.default_rng(1)
    rows = generator.integers(0, 20, (2000, 20))
    hits, misses = (np.sum(x, axis=1)[rows].sum(1) for x in (truth & predicted, truth != predicted))
    resampled = 2 * hits / (2 * hits + misses)
    first = f1_score(truth[rows[0]].ravel(), predicted[rows[0]].ravel())
    assert resampled[0] == pytest.approx(first)
    spread = np.std(resampled)
    assert found.half == pytest.approx(student.ppf(0.975, 19) * spread, rel=0.15)


def test_p_values_are_adjusted_over_the_entries_of_a_column(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        for label, right in (("sft", 28), ("a", 31), ("b", 29), ("c", 20)):
            make_answered(tmp_path, label, entry(right + seed % 2), seed=seed)
    made = built(tmp_path)
    found = {row.label: row.differences["asked wrong"] for row in made.rows if row.differences}
    first, second, third = sorted(found, key=lambda label: found[label].interval.p)
    p = [found[label].interval.p for label in (first, second, third)]
    steps = [min(1, 3 * p[0]), min(1, 2 * p[1]), min(1, p[2])]
    expected = [steps[0], max(steps[:2]), max(steps)]
    assert [found[x].adjusted for x in (first, second, third)] == pytest.approx(expected)


def label_scored(root: Path, label: str, right: int, classes: int = 2) -> None:
    """Add a task answered by class probabilities to a run made before."""
    folder = root / f"{label}-0"
    rows = [
        {"variant": variant, "id": f"{n:03}", "cluster": f"{n:03}", "target": [n % 2],
         "predicted": [n % 2 if n < good else 1 - n % 2], "score": float(n < good),
         "confidence": 0.5}
        for variant, good in (("clean", right), ("image-blank", right // 2))
        for n in range(40)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "items-memes.parquet", index=False)
    record = read(folder)
    more = [
        Score("memes", variant, "accuracy", good / 40, 40, None, True, True)
        for variant, good in (("clean", right), ("image-blank", right // 2))
    ]
    scored = {"memes": {"data": {"classes": classes}}}
    write(
        replace(
            record,
            scores=(*record.scores, *more),
            provenance={**record.provenance, "scored": scored},
        ),
        folder,
    )


def test_a_label_scored_task_stands_beside_those_answered_in_words(tmp_path: Path) -> None:
    for label, right in (("sft", 30), ("good", 38)):
        make_answered(tmp_path, label, entry(30))
        label_scored(tmp_path, label, right)
    made = built(tmp_path)
    rows = {row.label: row for row in made.rows}
    assert rows["sft"].scores["memes accuracy"].mean == pytest.approx(0.75)
    assert rows["good"].scores["memes accuracy, no image"].mean == pytest.approx(19 / 40)
    assert rows["good"].reliance["memes"].mean == pytest.approx(19 / 40)
    difference = rows["good"].differences["memes accuracy"].interval
    assert difference.mean == pytest.approx(0.2) and difference.low < 0.2 < difference.high
    assert not made.notes[1:], "items give what was recorded"


def test_one_more_task_makes_a_profile_even_without_shown_columns(tmp_path: Path) -> None:
    make_answered(tmp_path, "sft", entry(30))
    runs = collect([tmp_path]).runs
    plain = tuple(replace(score, shown=False) for score in runs[0].record.scores)
    own = tuple(score for score in plain if score.task == "pool")
    assert has_several_scores([replace(runs[0], record=replace(runs[0].record, scores=plain))])
    assert not has_several_scores([replace(runs[0], record=replace(runs[0].record, scores=own))])


def test_a_metric_without_anything_to_count_is_zero_and_told(tmp_path: Path) -> None:
    never: Sequence[tuple[bool, bool]] = [(False, False)] * 40  # neither asked for nor said
    make_answered(tmp_path, "sft", {"pool": {"clean": said(30)}, "asked": {"clean": never}})
    made = built(tmp_path)
    score = made.rows[0].scores["asked f1"]
    assert (score.mean, score.low, score.high) == (0, 0, 0)
    assert any("no answer on which asked f1 could be counted" in note for note in made.notes)
    json.loads(tables.report(made).json(), parse_constant=pytest.fail)


def test_a_record_that_its_items_contradict_is_told(tmp_path: Path) -> None:
    make_answered(tmp_path, "sft", entry(30))
    record = read(tmp_path / "sft-0")
    wrong = [
        replace(s, value=0.123) if (s.task, s.variant, s.metric) == ("asked", "clean", "f1") else s
        for s in record.scores
    ]
    write(replace(record, scores=tuple(wrong)), tmp_path / "sft-0")
    assert any("asked f1 0.123000 on clean" in note for note in built(tmp_path).notes)


@pytest.mark.parametrize(("higher", "sign"), [(True, 1), (False, -1)])
def test_reliance_is_positive_where_images_help(higher: bool, sign: int, tmp_path: Path) -> None:
    for seed in (0, 1):
        make_answered(tmp_path, "sft", entry(36, blind=20), seed=seed)
    runs = collect([tmp_path])
    turned = tuple(
        replace(
            run,
            record=replace(
                run.record,
                scores=tuple(replace(s, higher_is_better=higher) for s in run.record.scores),
            ),
        )
        for run in runs.runs
    )
    made = build(replace(runs, runs=turned), "pool", control=None)
    blind = f1_score(TRUTH, [p for _, p in said(20)])
    seen = f1_score(TRUTH, [p for _, p in said(36)])
    assert made.rows[0].reliance["asked"].mean == pytest.approx(sign * (seen - blind))


def test_entries_that_differ_in_learning_rate_too_are_no_pair(tmp_path: Path) -> None:
    """Only pairs equal in all else show what an option does, and the rate is one of all else."""
    shown = (Column("asked f1", "asked", "f1", "", True, {"clean": 1.0}, compared=True),)
    groups, samples = {}, {}
    for beta in (0.1, 0.2):
        for rate in (None, 1e-3):
            label = f"{beta} {rate}"
            make_answered(tmp_path, label, {"pool": {"clean": said(30)}}, method="dpo",
                          options={"beta": beta})  # fmt: skip
            (run,) = collect([tmp_path / f"{label}-0"]).runs
            spec = replace(run.record.spec, learning_rate=rate)
            groups[label] = [replace(run, record=replace(run.record, spec=spec))]
            value = 0.5 + beta + (0.3 if rate else 0.0)
            samples[label] = {"asked f1": Sample(np.full(1, value), np.full((1, 9), value), 20)}
    (found,) = factorial.factorials(groups, samples, shown)
    effects = {(e.factor, e.level): e for e in found.effects}
    assert effects["beta", 0.2].pairs == 2
    assert effects["beta", 0.2].scores["asked f1"].mean == pytest.approx(0.1)
    (rate,) = (e for e in found.effects if e.factor == "learning_rate")
    assert abs(rate.scores["asked f1"].mean) == pytest.approx(0.3)
    rows = list(csv.DictReader(io.StringIO(factorial.as_csv([found]))))
    assert [r["mean"] for r in rows if r["name"] == "beta" and r["column"] == "asked f1"] == ["0.1"]
    assert {r["levels"] for r in rows if r["row"] == "entry"} == {
        f"beta={beta} learning_rate={rate}" for beta in (0.1, 0.2) for rate in ("default", "0.001")
    }


@pytest.mark.usefixtures("blank_figures")
def test_the_front_page_lists_both_kinds_and_each_has_a_control(toy: Path, tmp_path: Path) -> None:
    for label in ("sft", "other"):
        make_answered(toy, label, entry(30))
    made = publish([toy], tmp_path / "usual")
    assert {b.task: b.control for b in made.boards} == {"pool": "sft", "toy": "joint"}
    page = (tmp_path / "usual" / "board.md").read_text(encoding="utf-8")
    assert "## toy" in page and "## pool (tiny-vlm)" in page and "(profile-pool.csv)" in page
    made = publish([toy], tmp_path / "chosen", control="other")
    assert {b.task: b.control for b in made.boards} == {"pool": "other", "toy": "joint"}
    with pytest.raises(UserError, match=r"Unknown control .othr.\. Did you mean .other."):
        publish([toy], tmp_path / "wrong", control="othr")


@pytest.mark.usefixtures("blank_figures")
def test_without_a_control_nothing_is_compared(tmp_path: Path) -> None:
    for label in ("a", "b"):
        make_answered(tmp_path, label, entry(30))
    make_run(tmp_path, "joint", hits(0, 0, 0), task="hopeless", status="failed")
    publish([tmp_path], tmp_path / "out")
    page = (tmp_path / "out" / "profile-pool.md").read_text(encoding="utf-8")
    assert "difference to" not in page and "p (Holm)" not in page
    assert "nothing is compared with it" in page
    assert "No board for hopeless" in (tmp_path / "out" / "board.md").read_text(encoding="utf-8")


def test_tables_fit_a_terminal_and_cut_no_number(tmp_path: Path) -> None:
    from rich.console import Console

    long = "a method with a name that is much longer than any column of a terminal"
    for label, right in (("sft", 28), (long, 36)):
        make_answered(tmp_path, label, entry(right))
    make_answered(tmp_path, "broken", {}, failed=True)
    made = built(tmp_path)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables.terminal(made, 100))
    text = console.export_text()
    row = next(line for line in text.splitlines() if line.startswith("1  a method"))
    assert row.count("…") == 1, "only the name is cut"
    for column in made.columns:
        assert with_half(made.rows[0].scores[column.name]) in text
    printed = text.partition("Trained on")[0]
    assert max(map(len, printed.splitlines())) <= 100
    assert "broken: seed 0 failed: loss became nan at step 3" in text


def test_the_csv_has_reliance_and_says_what_entries_lack(tmp_path: Path) -> None:
    for label, right in (("sft", 28), ("good", 36)):
        make_answered(tmp_path, label, entry(right))
    make_answered(tmp_path, "broken", {}, failed=True)
    rows = list(csv.DictReader(io.StringIO(tables.report(built(tmp_path)).csv())))
    found = {(row["entry"], row["column"]): row for row in rows}
    expected = f1_score(TRUTH, [p for _, p in said(36)]) - f1_score(TRUTH, [p for _, p in said(28)])
    assert float(found["good", "asked f1"]["difference"]) == pytest.approx(expected, abs=1e-5)
    assert found["sft", "asked f1"]["difference"] == ""
    assert float(found["good", "asked reliance"]["mean"]) > 0
    assert "nan at step 3" in found["broken", ""]["missing"]
